"""A resumed training is bit-identical to an uninterrupted one; only unfinished runs of the same training resume."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from psptool.common.errors import PspError
from psptool.schemas.run import RunConfig
from psptool.schemas.training import TeacherSettings, TrainingConfig
from psptool.training import loop
from psptool.training.api import Trained, train
from psptool.training.optimization import build_optimizer
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.state import read_state, seal
from psptool.training.state import TrainState
from psptool.training.stopping import Stopped, stop_requests

from .tiny import Files, change, equal, make_files, weights

KILLS = int(os.environ.get("PSPTOOL_KILLS", "3"))
STEPS = 40
# Noise, dropout, a teacher, and checkpoints between log entries: everything that resuming could change.
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
def files(tmp_path: Path) -> Iterator[Files]:
    # The same sums in the same order as the processes that are killed, which have one thread.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make_files(tmp_path)
    torch.set_num_threads(threads)


def log(folder: Path) -> list[dict[str, float]]:
    """The entries without their times."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def process(files: Files, signal: str, step: int, *more: object) -> subprocess.CompletedProcess[str]:
    folder = files.data.parent
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE.model_dump(mode="json")))
    command = [sys.executable, "-m", "tests.train.dying", signal, step, "train", "--device", "cpu"]
    command += ["--data", files.data, "--split", files.split, "--config", folder / "recipe.yaml", *more]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=root, env=environment, check=False
    )


@pytest.mark.slow
def test_a_training_killed_at_random_steps_and_resumed_is_bit_identical(files: Files) -> None:
    there, undisturbed = files.data.parent / "killed", files.train(RECIPE, "undisturbed")
    draw, at = random.Random(int(os.environ.get("PSPTOOL_KILL_SEED", "0"))), []
    for _ in range(KILLS):
        at.append(draw.randint(1, STEPS // KILLS))
        ran = process(files, "SIGKILL", at[-1], "--out", there)
        assert ran.returncode == -9, ran.stderr
    ran = process(files, "SIGKILL", 0, "--out", there)
    assert ran.returncode == 0, ran.stderr
    for which in ("last", "best"):
        assert equal(weights(undisturbed, which), load_file(there / f"{which}.safetensors")), at
    assert log(there) == log(undisturbed.folder)
    assert not (there / "resume.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_step_saves_and_prints_the_command_to_resume(files: Files, signal: str) -> None:
    undisturbed = files.train(RECIPE, "undisturbed")
    there = files.data.parent / "stopped"
    ran = process(files, signal, 13, "--out", there)
    assert ran.returncode == 130
    way = f"psptool train --resume required --out {there}"
    assert f"Stopped after step 13 of 40; saved in {there}. Resume: {way}\n" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (there / "last.safetensors").exists()
    # The printed command, which repeats no other option.
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", *way.split()]
    again = subprocess.run(command, capture_output=True, text=True, cwd=there, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    assert equal(weights(undisturbed), load_file(there / "last.safetensors"))
    assert log(there) == log(undisturbed.folder)


def go(files: Files, recipe: TrainingConfig = SHORT, **options: object) -> Trained:
    return train(files.data, files.split, recipe, device=CPU, runs=files.data.parent / "runs", **options)  # type: ignore[arg-type]


def change_provenance(folder: RunFolder, **values: object) -> None:
    """Say that the run ran on something else so far."""
    config = RunConfig.load(folder.config)
    record = config.latest.model_copy(update=values)
    config.model_copy(update={"provenance": (record,)}).save(folder.config)


def stopped(files: Files, step: int = 3, recipe: TrainingConfig = SHORT) -> RunFolder:
    """A run that was stopped after a step, in a folder of its own under ``runs``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_should_stop", lambda self, asked, done: done == step)
        with pytest.raises(Stopped) as caught:
            go(files, recipe)
    return RunFolder(caught.value.folder)


@pytest.mark.slow
@pytest.mark.parametrize("resume", ["auto", "required"])
def test_the_newest_unfinished_run_of_the_same_training_is_resumed(files: Files, resume: str) -> None:
    stopped(files, 2)
    newest = stopped(files, 3)
    other = stopped(files, 1, change(SHORT, optim={"lr": 0.5}))
    said: list[str] = []
    done = go(files, resume=resume, on_message=said.append)
    assert done.folder == newest.path
    assert f"{newest.path}: resuming this run; to train a new run, use --resume off" in said
    assert f"{other.path}: unfinished run not resumed: optim.lr 0.5 in the run, 0.02 requested" in said
    assert equal(weights(done), weights(go(files)))


def test_a_resumed_training_with_adamw_is_bit_identical(files: Files) -> None:
    recipe = change(RECIPE, optim={"kind": "adamw", "steps": 6, "lr": 0.01, "weight_decay": 0.1})
    undisturbed = files.train(recipe, "undisturbed")
    stopped(files, 3, recipe)
    assert equal(weights(undisturbed), weights(go(files, recipe, resume="required")))


def test_resume_off_starts_a_new_run(files: Files) -> None:
    there = stopped(files)
    assert go(files, resume="off").folder == Path(f"{there.path}-2")
    assert there.resume.exists()


def test_required_without_an_unfinished_run_of_it_says_what_differs(files: Files) -> None:
    with pytest.raises(
        PspError, match=r"--resume required: .*runs has no unfinished run.*without --resume required"
    ):
        go(files, resume="required")
    stopped(files)
    with pytest.raises(PspError, match=r"found .*: optim\.labelled_batch 3 in the run, 2 requested"):
        go(files, change(SHORT, optim={"labelled_batch": 2}), resume="required")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, RunFolder]:
    """Files and a stopped run, for tests that leave them as they are."""
    files = make_files(tmp_path_factory.mktemp("once"))
    return files, stopped(files)


@pytest.mark.parametrize("resume", ["auto", "required"])
@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"split_digest": "a" * 64}, r"split_digest aaaaaaaaaaaa… in the run"),
        ({"content_fingerprint": "b" * 64}, r"content_fingerprint bbbbbbbbbbbb… in the run"),
        ({"seed": 9}, r"seed 9 in the run, 0 requested"),
        ({"precision": "bfloat16"}, r"precision bfloat16 in the run, float32 requested"),
    ],
)
def test_a_named_run_of_another_training_is_refused_with_what_differs(
    once: tuple[Files, RunFolder], tmp_path: Path, update: dict[str, object], said: str, resume: str
) -> None:
    files, made = once
    there = RunFolder(tmp_path / "run")
    shutil.copytree(made.path, there.path)
    RunConfig.load(there.config).model_copy(update=update).save(there.config)
    with pytest.raises(PspError, match=f"the run of another training: found {said}"):
        go(files, out=there.path, resume=resume)


def test_file_paths_and_checkpoint_interval_may_change(files: Files) -> None:
    there = stopped(files)
    change_provenance(there, data_path="elsewhere.h5", split_path="elsewhere.json")
    warned: list[str] = []
    done = go(files, change(SHORT, checkpoint_every=0), resume="required", on_warning=warned.append)
    assert done.folder == there.path
    (words,) = warned
    assert f"path of the dataset (elsewhere.h5 -> {files.data})" in words
    assert "rounding" not in words
    assert RunConfig.load(there.config).latest.data_path == str(files.data)


def test_a_run_that_stopped_before_its_first_checkpoint_restarts_in_its_folder(files: Files) -> None:
    there = stopped(files, 5)
    assert [entry["step"] for entry in log(there.path)] == [4]
    there.resume.unlink()
    with pytest.raises(PspError, match=r"nothing to resume: found no resume\.pt"):
        go(files, out=there.path, resume="required")
    done = go(files, out=there.path, resume="auto")
    assert [entry["step"] for entry in log(done.folder)] == [4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [True, False])
def test_tensorboard_shows_each_step_once_after_an_interruption(files: Files, checkpointed: bool) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    there = stopped(files, 5)
    assert [entry["step"] for entry in log(there.path)] == [4]
    if not checkpointed:
        there.resume.unlink()
    done = go(files, out=there.path, resume="auto")
    events = accumulator.EventAccumulator(str(done.folder))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [4, 6]


def test_a_finished_run_is_reported_and_not_changed(files: Files) -> None:
    done = go(files)
    before = (done.folder / "last.safetensors").stat().st_mtime_ns
    said: list[str] = []
    again = go(files, out=done.folder, resume="auto", on_message=said.append)
    assert (again.final, again.best) == (done.final, done.best)
    assert "already finished" in said[0]
    assert (done.folder / "last.safetensors").stat().st_mtime_ns == before
    with pytest.raises(PspError, match=r"already finished.*psptool evaluate"):
        go(files, out=done.folder, resume="required")


@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_training_that_is_running_is_not_started_twice(files: Files, checkpointed: bool) -> None:
    there = stopped(files)
    if not checkpointed:
        there.resume.unlink()
    with there.acquire_lock():
        with pytest.raises(PspError, match="another psptool process is training in this folder"):
            go(files, out=there.path, resume="auto")
        with pytest.raises(PspError, match=rf"{there.path}: this training is already running.*--resume off"):
            go(files, resume="auto")
        assert [path.name for path in there.path.parent.iterdir()] == [there.path.name]
        assert go(files, change(SHORT, seed=1), resume="auto").folder == Path(f"{there.path}-2")
    assert go(files, resume="auto").folder == there.path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [(b"", "the file is empty"), (b"PK", "damaged"), (b"\x80\x04.", "damaged")],
    ids=["empty", "no archive", "a pickle"],
)
def test_a_damaged_checkpoint_is_an_error_with_its_path_and_a_fix(
    files: Files, damage: bytes, words: str
) -> None:
    there = stopped(files)
    config = there.config.read_bytes()
    there.resume.write_bytes(damage)
    with pytest.raises(PspError, match=rf"{there.resume}: {words}.*Remove the file.*--resume off"):
        go(files, resume="required")
    assert there.config.read_bytes() == config
    there.resume.unlink()
    assert equal(weights(go(files, out=there.path, resume="auto")), weights(go(files)))


def test_a_parameter_without_saved_momentum_resumes_from_zero_and_none_is_refused(files: Files) -> None:
    there = stopped(files)
    state = read_state(there.resume.read_bytes(), "resume.pt")
    entries = state["optimizer"]["state"]
    assert len(entries) > 2

    def resumed(entry: object) -> Trained:
        changed = {**entries, 0: entry} if entry else {key: entries[key] for key in entries if key}
        file = io.BytesIO()
        torch.save({**state, "optimizer": {**state["optimizer"], "state": changed}}, file)
        there.resume.write_bytes(seal(file.getvalue()))
        return go(files, resume="required")

    with pytest.raises(PspError, match=r"optimizer\.0\.momentum_buffer: found a NoneType, expected a tensor"):
        resumed({"momentum_buffer": None})
    copy = there.path.with_name("copy")
    shutil.copytree(there.path, copy)
    zero = weights(resumed({"momentum_buffer": torch.zeros_like(entries[0]["momentum_buffer"])}))
    shutil.rmtree(there.path)
    shutil.copytree(copy, there.path)
    assert equal(weights(resumed(None)), zero)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentum": 0.5}, "momentum differs"),
        ({"weight_decay": "x"}, "weight_decay differs"),
        ({"new": 1}, ""),
    ],
)
def test_a_checkpoint_has_the_settings_of_the_optimizer_as_far_as_this_pytorch_knows_them(
    files: Files, values: dict[str, object], message: str
) -> None:
    there = stopped(files)
    state = read_state(there.resume.read_bytes(), "resume.pt")
    (group,) = state["optimizer"]["param_groups"]
    del group["differentiable"], group["maximize"]  # as of a version without them
    group |= values
    file = io.BytesIO()
    torch.save(state, file)
    there.resume.write_bytes(seal(file.getvalue()))
    with pytest.raises(PspError, match=message) if message else nullcontext():
        go(files, resume="required")
    assert there.finished is not bool(message)


def test_code_in_a_checkpoint_is_not_executed(files: Files, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    there = stopped(files)
    evil = io.BytesIO()
    torch.save({"model": Evil()}, evil)
    there.resume.write_bytes(seal(evil.getvalue()))
    with pytest.raises(PspError, match=r"resume\.pt: damaged"):
        go(files, resume="required")
    assert not (tmp_path / "owned").exists()


def test_log_lines_of_later_steps_and_an_incomplete_line_are_removed(files: Files) -> None:
    recipe = change(SHORT, optim={"steps": 10})
    there = stopped(files, 6, recipe)
    with there.log.open("a", encoding="utf-8") as file:
        file.write('{"step": 8, "loss": 1.0}\n{"step": 10, "lo')
    done = go(files, recipe, resume="required")
    assert log(done.folder) == log(go(files, recipe).folder)


def test_a_generator_whose_state_was_not_saved_is_seeded_with_the_step() -> None:
    """Such as the generator of a GPU, in a training that resumes from a checkpoint of a CPU."""
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


def test_one_of_several_processes_that_fails_is_not_cut_off_by_torchruns_sigterm() -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    try:
        for processes, after in ((1, before), (2, signal.SIG_IGN)):
            with pytest.raises(ValueError, match="lost"), stop_requests(processes):
                raise ValueError("lost")
            assert signal.getsignal(signal.SIGTERM) is after
    finally:
        signal.signal(signal.SIGTERM, before)
