"""A run resumes on another machine or version, and its best weights belong to the state it resumed from."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from psptool.common.errors import PspError
from psptool.schemas.run import Provenance, RunConfig, provenance_warning
from psptool.training import api, loop, state
from psptool.training.runs import folder as folder_module
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.state import read_state
from psptool.training.stopping import Stopped

from .test_resume import SHORT, change_provenance, files, log, run_training, shared_run, stopped
from .tiny import Files, change, equal, weights

__all__ = ["files", "shared_run"]


@pytest.mark.parametrize(
    ("old", "words"),
    [
        ({"hardware": "Abacus, 8 threads"}, "hardware (Abacus, 8 threads -> "),
        ({"commit": "a" * 40}, f"commit of psptool ({'a' * 40} -> "),
        ({"tool_version": "0.0.1"}, "version of psptool (0.0.1 -> "),
        ({"torch_version": "1.0"}, "version of PyTorch (1.0 -> "),
        ({"device": "cuda:1"}, "device (cuda:1 -> cpu)"),
        ({"processes": 4}, "number of processes (4 -> 1)"),
        ({"clips_on": "host"}, "location of the clips (host -> device)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_difference_of_provenance_is_in_the_warning(
    shared_run: tuple[Files, RunFolder], old: dict[str, object], words: str
) -> None:
    config = RunConfig.load(shared_run[1].config)
    now = config.latest.model_copy(update={"from_step": 3})
    assert provenance_warning(config, now) is None
    run = config.model_copy(update={"provenance": (config.latest.model_copy(update=old),)})
    warning = provenance_warning(run, now)
    assert warning is not None
    assert f"resumed at step 3, with changes: {words}" in warning
    assert "may differ in rounding" in warning


def test_every_field_of_provenance_has_a_description(shared_run: tuple[Files, RunFolder]) -> None:
    config = RunConfig.load(shared_run[1].config)
    for key in Provenance.model_fields.keys() - {"from_step"}:
        run = config.model_copy(update={"provenance": (config.latest.model_copy(update={key: "other"}),)})
        assert "(other -> " in str(provenance_warning(run, config.latest))


def test_a_run_resumes_with_other_provenance_and_a_warning_lists_the_differences(files: Files) -> None:
    run, warned = stopped(files), list[str]()
    old = {"hardware": "Abacus, 8 threads", "device": "cuda:1", "processes": 4}
    change_provenance(run, **old)
    done = run_training(files, SHORT, resume="required", on_warning=warned.append)
    assert done.folder == run.path
    (warning,) = warned
    assert f"{run.path}: resumed at step 3, with changes: " in warning
    assert all(f"({value} -> " in warning for value in old.values())
    assert "may differ in rounding" in warning
    first, second = RunConfig.load(run.config).provenance
    assert (first.from_step, second.from_step) == (0, 3)
    assert {key: getattr(first, key) for key in old} == old
    assert done.config == RunConfig.load(run.config)


@pytest.mark.slow
def test_a_run_on_one_thread_resumes_on_two(files: Files) -> None:
    run, warned = stopped(files), list[str]()
    torch.set_num_threads(2)
    try:
        done = run_training(files, SHORT, out=run.path, resume="required", on_warning=warned.append)
    finally:
        torch.set_num_threads(1)
    assert done.folder == run.path
    assert ", 1 thread -> " in warned[0]
    assert ", 2 threads" in warned[0]


def test_unchanged_provenance_causes_no_warning_and_each_resumption_is_recorded(files: Files) -> None:
    uninterrupted, warned = files.train(SHORT, "uninterrupted"), list[str]()
    run = stopped(files)
    for step in (4, 5):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Loop, "_should_stop", lambda self, requested, step, at=step: step == at)
            with pytest.raises(Stopped):
                run_training(files, SHORT, resume="required", on_warning=warned.append)
    done = run_training(files, SHORT, resume="required", on_warning=warned.append)
    assert warned == []
    assert [record.from_step for record in RunConfig.load(run.config).provenance] == [0, 3, 4, 5]
    assert equal(weights(uninterrupted), weights(done))
    assert equal(weights(uninterrupted, "best"), weights(done, "best"))


def test_a_discarded_continuation_is_not_among_the_contributing_records(files: Files) -> None:
    config = RunConfig.load(stopped(files).config)
    steps = (0, 7, 7, 30, 12)
    records = [config.latest.model_copy(update={"from_step": step}) for step in steps]
    found = config.model_copy(update={"provenance": tuple(records)}).contributing
    assert [record.from_step for record in found] == [0, 7, 12]


def test_a_configuration_of_format_1_is_read_and_its_run_resumes(files: Files) -> None:
    run, warned = stopped(files), list[str]()
    values = json.loads(run.config.read_text())
    (record,) = values.pop("provenance")
    description = values.pop("description")
    assert description["name"] == "ucla"
    values |= {"dataset": "ucla", "topology": "ucla20", "class_names": list(description["classes"].values())}
    for key in ("from_step", "processes", "torch_version"):
        del record[key]
    run.config.write_text(json.dumps({**values, **record, "format_version": 1}))
    assert run_training(files, SHORT, resume="required", on_warning=warned.append).folder == run.path
    assert warned == []
    assert len(RunConfig.load(run.config).provenance) == 2


def test_a_run_resumes_in_its_own_precision_if_auto_selects_another(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, warned = change(SHORT, precision="auto"), list[str]()
    monkeypatch.setattr(api, "choose_precision", lambda name, device: "float32")
    uninterrupted = files.train(recipe, "uninterrupted")
    run = stopped(files, 3, recipe)
    monkeypatch.setattr(api, "choose_precision", lambda name, device: "bfloat16")
    done = run_training(files, recipe, resume="required", on_warning=warned.append)
    assert (done.folder, done.config.precision) == (run.path, "float32")
    assert warned == [
        f"{run.path}: resumed in float32, the precision of the run; precision=auto is bfloat16 on cpu"
    ]
    assert equal(weights(uninterrupted), weights(done))


def test_resuming_in_a_precision_that_the_device_does_not_support_is_an_error(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = change(SHORT, precision="auto")
    monkeypatch.setattr(api, "choose_precision", lambda name, device: "bfloat16")
    run = stopped(files, 3, recipe)
    monkeypatch.setattr(api, "choose_precision", lambda name, device: "float32")
    monkeypatch.setattr(api, "_supported_precisions", lambda device: ("float32",))
    with pytest.raises(PspError, match=r"precision bfloat16 in the run, not supported by "):
        run_training(files, recipe, out=run.path, resume="required")


def test_another_preset_name_with_the_same_settings_does_not_prevent_resuming(files: Files) -> None:
    run = stopped(files)
    assert (
        run_training(files, change(SHORT, preset="best"), out=run.path, resume="required").folder == run.path
    )


@pytest.mark.parametrize("saved", [2, 3], ids=["from a CPU", "from a GPU"])
def test_a_state_is_loaded_on_a_device_with_another_number_of_generators(
    files: Files, monkeypatch: pytest.MonkeyPatch, saved: int
) -> None:
    # A GPU has one more generator.
    original, extra = state.TrainState._generators, torch.Generator()

    def generators(count: int) -> None:
        monkeypatch.setattr(state.TrainState, "_generators", lambda self: [*original(self), extra][:count])

    generators(saved)
    stopped(files)
    generators(5 - saved)
    begin = extra.manual_seed(0).get_state()
    assert run_training(files, SHORT, resume="required").final.step == 6
    assert torch.equal(extra.get_state(), begin) == (saved == 3)


ACCURACY_AT_STEP = {2: 0.2, 4: 0.4, 6: 0.6}


@pytest.mark.slow
@pytest.mark.parametrize("writes", range(1, 11))
def test_best_weights_belong_to_the_saved_state_whenever_the_process_is_killed(
    files: Files, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """The resumed run finds no better weights, as can happen on another device."""
    recipe = change(SHORT, optim={"steps": 6}, validate_every=2, checkpoint_every=3)
    current, best = list[int](), dict[int, dict[str, torch.Tensor]]()
    original, write, count = loop.Loop._log, folder_module.write_whole, iter(range(1, 1000))

    def record_best(self: loop.Loop, now: state.TrainState, *rest: object) -> bool:
        current[:] = [now.step]
        found = original(self, now, *rest)  # type: ignore[arg-type]
        if found:
            best[now.step] = {name: x.detach().clone() for name, x in self.model.state_dict().items()}
        return found

    def fail_at_write(path: Path, data: str | bytes) -> None:
        if next(count) == writes:
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_log", record_best)
        patch.setattr(loop.Loop, "_validate", lambda self: ACCURACY_AT_STEP[current[0]])
        patch.setattr(folder_module, "write_whole", fail_at_write)
        with contextlib.suppress(KeyboardInterrupt):
            run_training(files, recipe, out=files.data.parent / "run")
    run = RunFolder(files.data.parent / "run")
    step = read_state(run.resume.read_bytes(), "")["step"] if run.resume.exists() else 0
    if not run.finished:
        monkeypatch.setattr(loop.Loop, "_validate", lambda self: 0.0)
        run_training(files, recipe, out=run.path, resume="auto")
        last = max((number for number in best if number <= step), default=2 if step < 2 else None)
        if step >= 2:
            assert last is not None
            assert equal(load_file(run.weights("best")), best[last]), (step, last)
        else:
            entries = {entry["step"]: entry["validation"] for entry in log(run.path)}
            assert entries == {2: 0.0, 4: 0.0, 6: 0.0}
            assert not equal(load_file(run.weights("best")), {})
