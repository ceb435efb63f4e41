"""Profile of a training step: every part has a time, and no run folder is created."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import profile

from psptool.training.loop import Loop
from psptool.training.profiling import OPERATORS, PARTS, count_work, profile_training

from .tiny import RECIPE, change, make_files


@pytest.mark.slow
def test_every_part_of_a_step_has_a_time_and_no_run_folder_is_created(tmp_path: Path) -> None:
    files = make_files(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = profile_training(files.data, files.split, RECIPE, torch.device("cpu"), 3)
    assert found.steps == 3
    assert found.parts.keys() == PARTS.keys()
    assert all(milliseconds > 0 for milliseconds in found.parts.values())
    assert 1e3 * found.seconds > sum(found.parts.values())  # the parts do not overlap
    assert len(found.operators) == OPERATORS
    spent = [milliseconds for _, milliseconds, _ in found.operators]
    assert spent == sorted(spent, reverse=True)
    assert found.launches > 500
    assert found.gpu_busy is None
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_validation_is_not_profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    validate, stop = Loop._validate, profile.stop
    monkeypatch.setattr(Loop, "_validate", lambda loop: events.append("validated") or validate(loop))
    monkeypatch.setattr(profile, "stop", lambda profiler: events.append("stopped") or stop(profiler))
    files = make_files(tmp_path)
    recipe = change(validate_every=1)
    assert profile_training(files.data, files.split, recipe, torch.device("cpu"), 2).steps == 2
    assert events == ["stopped", "validated"]


def test_the_message_of_an_interrupted_profile_does_not_mention_a_saved_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loop, "_should_stop", lambda *_: True)
    files = make_files(tmp_path)
    with pytest.raises(KeyboardInterrupt) as stopped:
        profile_training(files.data, files.split, RECIPE, torch.device("cpu"), 2)
    assert str(stopped.value) == ""


def test_the_kernel_count_excludes_labels_and_copies_and_the_busy_time_includes_copies() -> None:
    def entry(key: str, count: int, microseconds: float, on_gpu: bool = True) -> SimpleNamespace:
        device_type = DeviceType.CUDA if on_gpu else DeviceType.CPU
        return SimpleNamespace(
            key=key, count=count, self_device_time_total=microseconds, device_type=device_type
        )

    entries = [
        entry("gemm_kernel", 3, 1000.0),
        entry("elementwise_kernel", 4, 500.0),
        entry("Memcpy HtoD (Pinned -> Device)", 5, 250.0),
        entry("psptool: encoder", 1, 9000.0),
        entry("Optimizer.step#SGD.step", 1, 9000.0),
        entry("aten::mm", 7, 1000.0, on_gpu=False),
    ]
    assert count_work(entries, torch.device("cuda")) == (7, 1.75)
    assert count_work(entries, torch.device("cpu")) == (7, None)
