"""A run resumes on another machine or version; what it leaves belongs to the state it resumed from."""

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

from .test_resume import SHORT, change_provenance, files, go, log, once, stopped
from .tiny import Files, change, equal, weights

__all__ = ["files", "once"]


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
    once: tuple[Files, RunFolder], old: dict[str, object], words: str
) -> None:
    config = RunConfig.load(once[1].config)
    now = config.latest.model_copy(update={"from_step": 3})
    assert provenance_warning(config, now) is None
    there = config.model_copy(update={"provenance": (config.latest.model_copy(update=old),)})
    warning = provenance_warning(there, now)
    assert warning is not None
    assert f"resumed at step 3, with changes: {words}" in warning
    assert "may differ in rounding" in warning


def test_every_value_of_provenance_has_words(once: tuple[Files, RunFolder]) -> None:
    config = RunConfig.load(once[1].config)
    for key in Provenance.model_fields.keys() - {"from_step"}:
        there = config.model_copy(update={"provenance": (config.latest.model_copy(update={key: "other"}),)})
        assert "(other -> " in str(provenance_warning(there, config.latest))


def test_a_run_resumes_with_other_provenance_and_warns_of_what_differs(files: Files) -> None:
    there, warned = stopped(files), list[str]()
    old = {"hardware": "Abacus, 8 threads", "device": "cuda:1", "processes": 4}
    change_provenance(there, **old)
    done = go(files, SHORT, resume="required", on_warning=warned.append)
    assert done.folder == there.path
    (warning,) = warned
    assert f"{there.path}: resumed at step 3, with changes: " in warning
    assert all(f"({value} -> " in warning for value in old.values())
    assert "may differ in rounding" in warning
    first, second = RunConfig.load(there.config).provenance
    assert (first.from_step, second.from_step) == (0, 3)
    assert {key: getattr(first, key) for key in old} == old
    assert done.config == RunConfig.load(there.config)


@pytest.mark.slow
def test_a_run_of_one_thread_resumes_on_two(files: Files) -> None:
    there, warned = stopped(files), list[str]()
    torch.set_num_threads(2)
    assert go(files, SHORT, out=there.path, resume="required", on_warning=warned.append).folder == there.path
    assert ", 1 thread -> " in warned[0]
    assert ", 2 threads" in warned[0]


def test_unchanged_provenance_warns_of_nothing_and_each_resume_is_recorded(files: Files) -> None:
    undisturbed, warned = files.train(SHORT, "undisturbed"), list[str]()
    there = stopped(files)
    for step in (4, 5):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Loop, "_should_stop", lambda self, asked, done, at=step: done == at)
            with pytest.raises(Stopped):
                go(files, SHORT, resume="required", on_warning=warned.append)
    done = go(files, SHORT, resume="required", on_warning=warned.append)
    assert warned == []
    assert [record.from_step for record in RunConfig.load(there.config).provenance] == [0, 3, 4, 5]
    assert equal(weights(undisturbed), weights(done))
    assert equal(weights(undisturbed, "best"), weights(done, "best"))


def test_a_continuation_that_was_discarded_is_no_part_of_the_result(files: Files) -> None:
    config = RunConfig.load(stopped(files).config)
    steps = (0, 7, 7, 30, 12)
    records = [config.latest.model_copy(update={"from_step": step}) for step in steps]
    found = config.model_copy(update={"provenance": tuple(records)}).contributing
    assert [record.from_step for record in found] == [0, 7, 12]


def test_a_configuration_of_format_1_is_read_and_its_run_resumes(files: Files) -> None:
    there, warned = stopped(files), list[str]()
    values = json.loads(there.config.read_text())
    (record,) = values.pop("provenance")
    description = values.pop("description")
    assert description["name"] == "ucla"
    values |= {"dataset": "ucla", "topology": "ucla20", "class_names": list(description["classes"].values())}
    for key in ("from_step", "processes", "torch_version"):
        del record[key]
    there.config.write_text(json.dumps({**values, **record, "format_version": 1}))
    assert go(files, SHORT, resume="required", on_warning=warned.append).folder == there.path
    assert warned == []
    assert len(RunConfig.load(there.config).provenance) == 2


def test_a_run_resumes_in_its_own_precision_where_auto_would_be_another(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, warned = change(SHORT, precision="auto"), list[str]()
    monkeypatch.setattr(api, "choose_precision", lambda name, device: "float32")
    undisturbed = files.train(recipe, "undisturbed")
    there = stopped(files, 3, recipe)
    monkeypatch.setattr(api, "choose_precision", lambda name, device: "bfloat16")
    done = go(files, recipe, resume="required", on_warning=warned.append)
    assert (done.folder, done.config.precision) == (there.path, "float32")
    assert warned == [
        f"{there.path}: resumed in float32, the precision of the run; precision=auto is bfloat16 on cpu"
    ]
    assert equal(weights(undisturbed), weights(done))


def test_a_precision_that_the_device_cannot_compute_is_refused(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = change(SHORT, precision="auto")
    monkeypatch.setattr(api, "choose_precision", lambda name, device: "bfloat16")
    there = stopped(files, 3, recipe)
    monkeypatch.setattr(api, "choose_precision", lambda name, device: "float32")
    monkeypatch.setattr(api, "_supported_precisions", lambda device: ("float32",))
    with pytest.raises(PspError, match=r"precision bfloat16 in the run, not supported by "):
        go(files, recipe, out=there.path, resume="required")


def test_a_preset_is_a_name_and_no_identity(files: Files) -> None:
    there = stopped(files)
    assert go(files, change(SHORT, preset="best"), out=there.path, resume="required").folder == there.path


@pytest.mark.parametrize("there", [2, 3], ids=["from a processor", "from a GPU"])
def test_a_state_is_read_on_a_device_with_other_generators(
    files: Files, monkeypatch: pytest.MonkeyPatch, there: int
) -> None:
    # A GPU has one generator more.
    plain, extra = state.TrainState._generators, torch.Generator()

    def generators(count: int) -> None:
        monkeypatch.setattr(state.TrainState, "_generators", lambda self: [*plain(self), extra][:count])

    generators(there)
    stopped(files)
    generators(5 - there)
    begin = extra.manual_seed(0).get_state()
    assert go(files, SHORT, resume="required").final.step == 6
    assert torch.equal(extra.get_state(), begin) == (there == 3)


LOOKS = {2: 0.2, 4: 0.4, 6: 0.6}


@pytest.mark.slow
@pytest.mark.parametrize("writes", range(1, 11))
def test_best_weights_belong_to_the_state_wherever_a_process_dies(
    files: Files, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """The continuation finds no better weights, as it may on another device."""
    recipe = change(SHORT, optim={"steps": 6}, validate_every=2, checkpoint_every=3)
    at, best = list[int](), dict[int, dict[str, torch.Tensor]]()
    plain, write, count = loop.Loop._log, folder_module.write_whole, iter(range(1, 1000))

    def say(self: loop.Loop, now: state.TrainState, *rest: object) -> bool:
        at[:] = [now.step]
        found = plain(self, now, *rest)  # type: ignore[arg-type]
        if found:
            best[now.step] = {name: x.detach().clone() for name, x in self.model.state_dict().items()}
        return found

    def dying(path: Path, data: str | bytes) -> None:
        if next(count) == writes:
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_log", say)
        patch.setattr(loop.Loop, "_validate", lambda self: LOOKS[at[0]])
        patch.setattr(folder_module, "write_whole", dying)
        with contextlib.suppress(KeyboardInterrupt):
            go(files, recipe, out=files.data.parent / "run")
    there = RunFolder(files.data.parent / "run")
    step = read_state(there.resume.read_bytes(), "")["step"] if there.resume.exists() else 0
    if not there.finished:
        monkeypatch.setattr(loop.Loop, "_validate", lambda self: 0.0)
        go(files, recipe, out=there.path, resume="auto")
        last = max((number for number in best if number <= step), default=2 if step < 2 else None)
        if step >= 2:
            assert last is not None
            assert equal(load_file(there.weights("best")), best[last]), (step, last)
        else:
            entries = {entry["step"]: entry["validation"] for entry in log(there.path)}
            assert entries == {2: 0.0, 4: 0.0, 6: 0.0}
            assert not equal(load_file(there.weights("best")), {})
