"""A resumed training is bit-identical to an uninterrupted one; only unfinished runs of the same training resume."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from psptool.common.errors import PspError
from psptool.schemas.run import RunConfig
from psptool.schemas.training import TeacherSettings, TrainingConfig
from psptool.training import loop
from psptool.training.api import Trained, train
from psptool.training.loop import Progress
from psptool.training.optimization import build_optimizer
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.state import read_state, seal
from psptool.training.state import TrainState
from psptool.training.stopping import Stopped, stop_requests

from .tiny import Files, change, equal, make_files, weights

KILLS = int(os.environ.get("PSPTOOL_KILLS", "3"))
STEPS = 40
# Augmentation, dropout, a teacher, and checkpoints between log entries: everything that resuming could affect.
RECIPE = change(
    precision="float32", optim={"steps": STEPS, "clip_norm": 5.0}, validate_every=8, checkpoint_every=3
)
RECIPE = RECIPE.model_copy(
    update={
        "augment": RECIPE.augment.model_copy(update={"yaw": 30.0, "jitter": 0.1, "mask_joints": 0.1}),
        "model": RECIPE.model.model_copy(update={"dropout": 0.2, "pose_width": 4}),
        "teacher": TeacherSettings(weight=0.5, momentum=0.9),
    }
)
SHORT = change(RECIPE, optim={"steps": 6}, validate_every=4)
CPU = torch.device("cpu")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The training that other tests interrupt and resume."""
    return make_files(tmp_path_factory.mktemp("uninterrupted")).train(RECIPE)


def log(folder: Path) -> list[dict[str, float]]:
    """Entries of the log without their times."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def process(files: Files, signal: str, step: int, *more: object) -> subprocess.CompletedProcess[str]:
    folder = files.data.parent
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE.model_dump(mode="json")))
    command = [sys.executable, "-m", "tests.train.fault_injection", signal, step, "train", "--device", "cpu"]
    command += ["--data", files.data, "--split", files.split, "--config", folder / "recipe.yaml", *more]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=root, env=environment, check=False
    )


@pytest.mark.slow
def test_a_training_killed_at_random_steps_and_resumed_is_bit_identical(
    files: Files, uninterrupted: Trained
) -> None:
    run = files.data.parent / "killed"
    generator, steps = random.Random(int(os.environ.get("PSPTOOL_KILL_SEED", "0"))), []
    for _ in range(KILLS):
        steps.append(generator.randint(1, STEPS // KILLS))
        ran = process(files, "SIGKILL", steps[-1], "--out", run)
        assert ran.returncode == -9, ran.stderr
    ran = process(files, "SIGKILL", 0, "--out", run)
    assert ran.returncode == 0, ran.stderr
    for which in ("last", "best"):
        assert equal(weights(uninterrupted, which), load_file(run / f"{which}.safetensors")), steps
    assert log(run) == log(uninterrupted.folder)
    assert not (run / "resume.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_after_a_signal_the_step_is_completed_and_saved_and_the_command_to_resume_is_printed(
    files: Files, uninterrupted: Trained, signal: str
) -> None:
    run = files.data.parent / "stopped"
    ran = process(files, signal, 13, "--out", run)
    assert ran.returncode == 130
    resume = f"psptool train --resume required --out {run}"
    assert f"Stopped after step 13 of 40; saved in {run}. Resume: {resume}\n" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (run / "last.safetensors").exists()
    # The printed command works without the other options.
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", *resume.split()]
    again = subprocess.run(command, capture_output=True, text=True, cwd=run, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    assert equal(weights(uninterrupted), load_file(run / "last.safetensors"))
    assert log(run) == log(uninterrupted.folder)


def run_training(files: Files, recipe: TrainingConfig = SHORT, **options: object) -> Trained:
    return train(files.data, files.split, recipe, device=CPU, runs=files.data.parent / "runs", **options)  # type: ignore[arg-type]


def change_provenance(folder: RunFolder, **values: object) -> None:
    """Replace the provenance of the run by one record with other values."""
    config = RunConfig.load(folder.config)
    record = config.latest.model_copy(update=values)
    config.model_copy(update={"provenance": (record,)}).save(folder.config)


def stopped(files: Files, step: int = 3, recipe: TrainingConfig = SHORT) -> RunFolder:
    """A run that was stopped after ``step``, in its own folder under ``runs``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_should_stop", lambda self, requested, done: done == step)
        with pytest.raises(Stopped) as caught:
            run_training(files, recipe)
    return RunFolder(caught.value.folder)


@pytest.mark.slow
@pytest.mark.parametrize("resume", ["auto", "required"])
def test_the_newest_unfinished_run_of_the_same_training_is_resumed(files: Files, resume: str) -> None:
    stopped(files, 2)
    newest = stopped(files, 3)
    other = stopped(files, 1, change(SHORT, optim={"lr": 0.5}))
    messages: list[str] = []
    done = run_training(files, resume=resume, on_message=messages.append)
    assert done.folder == newest.path
    assert f"{newest.path}: resuming this run; to train a new run, use --resume off" in messages
    assert f"{other.path}: unfinished run not resumed: optim.lr 0.5 in the run, 0.02 requested" in messages
    assert equal(weights(done), weights(run_training(files)))


def test_a_resumed_training_with_adamw_is_bit_identical(files: Files) -> None:
    recipe = change(RECIPE, optim={"kind": "adamw", "steps": 6, "lr": 0.01, "weight_decay": 0.1})
    uninterrupted = files.train(recipe, "uninterrupted")
    stopped(files, 3, recipe)
    assert equal(weights(uninterrupted), weights(run_training(files, recipe, resume="required")))


def test_resume_off_starts_a_new_run(files: Files) -> None:
    run = stopped(files)
    assert run_training(files, resume="off").folder == Path(f"{run.path}-2")
    assert run.resume.exists()


def test_resume_required_without_a_matching_unfinished_run_reports_the_differences(files: Files) -> None:
    with pytest.raises(
        PspError, match=r"--resume required: .*runs has no unfinished run.*without --resume required"
    ):
        run_training(files, resume="required")
    stopped(files)
    with pytest.raises(PspError, match=r"found .*: optim\.labelled_batch 3 in the run, 2 requested"):
        run_training(files, change(SHORT, optim={"labelled_batch": 2}), resume="required")


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, RunFolder]:
    """Files and a stopped run, for tests that do not change them."""
    files = make_files(tmp_path_factory.mktemp("shared"))
    return files, stopped(files)


@pytest.mark.parametrize("resume", ["auto", "required"])
@pytest.mark.parametrize(
    ("update", "difference"),
    [
        ({"split_digest": "a" * 64}, r"split_digest aaaaaaaaaaaa… in the run"),
        ({"content_fingerprint": "b" * 64}, r"content_fingerprint bbbbbbbbbbbb… in the run"),
        ({"seed": 9}, r"seed 9 in the run, 0 requested"),
        ({"precision": "bfloat16"}, r"precision bfloat16 in the run, float32 requested"),
    ],
)
def test_resuming_a_given_run_of_another_training_is_an_error_that_lists_the_differences(
    shared_run: tuple[Files, RunFolder],
    tmp_path: Path,
    update: dict[str, object],
    difference: str,
    resume: str,
) -> None:
    files, made = shared_run
    run = RunFolder(tmp_path / "run")
    shutil.copytree(made.path, run.path)
    RunConfig.load(run.config).model_copy(update=update).save(run.config)
    with pytest.raises(PspError, match=f"the run of another training: found {difference}"):
        run_training(files, out=run.path, resume=resume)


def test_file_paths_and_checkpoint_interval_may_change(files: Files) -> None:
    run = stopped(files)
    change_provenance(run, data_path="elsewhere.h5", split_path="elsewhere.json")
    warned: list[str] = []
    done = run_training(files, change(SHORT, checkpoint_every=0), resume="required", on_warning=warned.append)
    assert done.folder == run.path
    (warning,) = warned
    assert f"path of the dataset (elsewhere.h5 -> {files.data})" in warning
    assert "rounding" not in warning
    assert RunConfig.load(run.config).latest.data_path == str(files.data)


def test_a_run_that_stopped_before_its_first_checkpoint_restarts_in_its_folder(files: Files) -> None:
    run = stopped(files, 5)
    assert [entry["step"] for entry in log(run.path)] == [4]
    run.resume.unlink()
    with pytest.raises(PspError, match=r"nothing to resume: found no resume\.pt"):
        run_training(files, out=run.path, resume="required")
    done = run_training(files, out=run.path, resume="auto")
    assert [entry["step"] for entry in log(done.folder)] == [4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [True, False])
def test_tensorboard_has_each_step_once_after_an_interruption(files: Files, checkpointed: bool) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = stopped(files, 5)
    assert [entry["step"] for entry in log(run.path)] == [4]
    if not checkpointed:
        run.resume.unlink()
    done = run_training(files, out=run.path, resume="auto")
    events = accumulator.EventAccumulator(str(done.folder))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [4, 6]


def test_a_finished_run_is_reported_and_not_changed(files: Files) -> None:
    reports: list[Progress] = []
    done = run_training(files, on_progress=reports.append)
    last = reports[-1]
    assert done.final == replace(last, terms=done.final.terms, seconds=done.final.seconds, best=False)
    assert done.final.terms == pytest.approx(last.terms)
    assert done.best == max(report.validation for report in reports if report.validation is not None)
    before = (done.folder / "last.safetensors").stat().st_mtime_ns
    messages: list[str] = []
    again = run_training(files, out=done.folder, resume="auto", on_message=messages.append)
    assert (again.final, again.best) == (done.final, done.best)
    assert "already finished" in messages[0]
    assert (done.folder / "last.safetensors").stat().st_mtime_ns == before
    with pytest.raises(PspError, match=r"already finished.*psptool evaluate"):
        run_training(files, out=done.folder, resume="required")


@pytest.mark.parametrize("log", ["", '{"step": 6}\n'], ids=["empty", "without learning rate and time"])
def test_a_finished_run_whose_log_has_no_entries_is_an_error(files: Files, log: str) -> None:
    done = run_training(files)
    (done.folder / "log.jsonl").write_text(log, encoding="utf-8")
    with pytest.raises(PspError, match=r"log.jsonl: no entries.*--resume off"):
        run_training(files, out=done.folder, resume="auto")


@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_training_that_is_running_is_not_started_twice(files: Files, checkpointed: bool) -> None:
    run = stopped(files)
    if not checkpointed:
        run.resume.unlink()
    with run.acquire_lock():
        with pytest.raises(PspError, match="another psptool process is training in this folder"):
            run_training(files, out=run.path, resume="auto")
        with pytest.raises(PspError, match=rf"{run.path}: this training is already running.*--resume off"):
            run_training(files, resume="auto")
        assert [path.name for path in run.path.parent.iterdir()] == [run.path.name]
        assert run_training(files, change(SHORT, seed=1), resume="auto").folder == Path(f"{run.path}-2")
    assert run_training(files, resume="auto").folder == run.path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [(b"", "the file is empty"), (b"PK", "damaged"), (b"\x80\x04.", "damaged")],
    ids=["empty", "not an archive", "a pickle"],
)
def test_a_damaged_checkpoint_is_an_error_with_its_path_and_a_fix(
    files: Files, damage: bytes, words: str
) -> None:
    run = stopped(files)
    config = run.config.read_bytes()
    run.resume.write_bytes(damage)
    with pytest.raises(PspError, match=rf"{run.resume}: {words}.*Remove the file.*--resume off"):
        run_training(files, resume="required")
    assert run.config.read_bytes() == config
    run.resume.unlink()
    assert equal(weights(run_training(files, out=run.path, resume="auto")), weights(run_training(files)))


def test_a_parameter_without_saved_momentum_resumes_from_zero_and_a_momentum_of_none_is_an_error(
    files: Files,
) -> None:
    run = stopped(files)
    state = read_state(run.resume.read_bytes(), "resume.pt")
    entries = state["optimizer"]["state"]
    assert len(entries) > 2

    def resumed(entry: object) -> Trained:
        changed = {**entries, 0: entry} if entry else {key: entries[key] for key in entries if key}
        file = io.BytesIO()
        torch.save({**state, "optimizer": {**state["optimizer"], "state": changed}}, file)
        run.resume.write_bytes(seal(file.getvalue()))
        return run_training(files, resume="required")

    with pytest.raises(PspError, match=r"optimizer\.0\.momentum_buffer: found a NoneType, expected a tensor"):
        resumed({"momentum_buffer": None})
    copy = run.path.with_name("copy")
    shutil.copytree(run.path, copy)
    zero = weights(resumed({"momentum_buffer": torch.zeros_like(entries[0]["momentum_buffer"])}))
    shutil.rmtree(run.path)
    shutil.copytree(copy, run.path)
    assert equal(weights(resumed(None)), zero)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentum": 0.5}, "momentum differs"),
        ({"weight_decay": "x"}, "weight_decay differs"),
        ({"new": 1}, ""),
    ],
)
def test_settings_of_the_optimizer_in_a_checkpoint_must_match_except_those_of_other_pytorch_versions(
    files: Files, values: dict[str, object], message: str
) -> None:
    run = stopped(files)
    state = read_state(run.resume.read_bytes(), "resume.pt")
    (group,) = state["optimizer"]["param_groups"]
    del group["differentiable"], group["maximize"]  # as in a PyTorch version without them
    group |= values
    file = io.BytesIO()
    torch.save(state, file)
    run.resume.write_bytes(seal(file.getvalue()))
    with pytest.raises(PspError, match=message) if message else nullcontext():
        run_training(files, resume="required")
    assert run.finished is not bool(message)


def test_code_in_a_checkpoint_is_not_executed(files: Files, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    run = stopped(files)
    malicious = io.BytesIO()
    torch.save({"model": Malicious()}, malicious)
    run.resume.write_bytes(seal(malicious.getvalue()))
    with pytest.raises(PspError, match=r"resume\.pt: damaged"):
        run_training(files, resume="required")
    assert not (tmp_path / "executed").exists()


def test_log_lines_of_later_steps_and_an_incomplete_line_are_removed(files: Files) -> None:
    recipe = change(SHORT, optim={"steps": 10})
    run = stopped(files, 6, recipe)
    with run.log.open("a", encoding="utf-8") as file:
        file.write('{"step": 8, "loss": 1.0}\n{"step": 10, "lo')
    done = run_training(files, recipe, resume="required")
    assert log(done.folder) == log(run_training(files, recipe).folder)


def test_a_generator_whose_state_was_not_saved_is_seeded_with_the_step() -> None:
    """For example the generator of a GPU in a training that resumes from a checkpoint of a CPU."""
    model, generator = torch.nn.Linear(2, 2), torch.Generator().manual_seed(1)
    state = TrainState(model, build_optimizer(model, SHORT.optim), generator, step=7)
    content = read_state(state.pack(), "resume.pt")
    expected = torch.rand(3, generator=generator)
    with torch.random.fork_rng():
        state.unpack({**content, "random": content["random"][:1]})
        found = torch.rand(3)
    assert torch.equal(torch.rand(3, generator=generator), expected)
    assert torch.equal(found, torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_a_second_ctrl_c_stops_immediately() -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)
    with stop_requests() as requested:
        assert not requested()
        signal.raise_signal(signal.SIGINT)
        assert requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_after_an_error_one_of_several_processes_ignores_the_sigterm_of_torchrun() -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    try:
        for processes, after in ((1, before), (2, signal.SIG_IGN)):
            with pytest.raises(ValueError, match="lost"), stop_requests(processes):
                raise ValueError("lost")
            assert signal.getsignal(signal.SIGTERM) is after
    finally:
        signal.signal(signal.SIGTERM, before)
