"""Training on a GPU, with and without CUDA graphs. Run by ``workflows/benchmarks/gpu.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from psptool.device import has_bfloat16
from psptool.schemas.training import TrainingConfig
from psptool.training import api, step
from psptool.training.api import Trained, train
from psptool.training.graphs import CudaCapture
from psptool.training.loop import Loop
from psptool.training.profiling import profile_training
from psptool.training.stopping import Stopped

from .test_graphs import ADAMW, SGD
from .tiny import Files, change, make_files, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
]
TIGHT, LOOSE = 1e-4, 3e-2
"""Relative tolerance of the losses in the first steps, and in all steps.

Some kernels add in a varying order, and the differences grow with each step: most with AdamW, where the exact gradient
is zero.
"""
RECIPES = pytest.mark.parametrize("recipe", [SGD, ADAMW], ids=["sgd", "adamw"])
"""Both use dropout, a teacher and gradient clipping."""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[CudaCapture]:
    """The `CudaCapture` of each training that uses CUDA graphs, in order."""
    made: list[CudaCapture] = []

    def make(device: torch.device) -> CudaCapture:
        made.append(CudaCapture(device))
        return made[-1]

    monkeypatch.setattr(api, "CudaCapture", make)
    return made


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of each step, over all trainings of a test."""
    found: list[float] = []
    original = Loop._step

    def record_loss(self: Loop, *arguments: Any) -> step.Terms:
        names, values = original(self, *arguments)
        found.append(float(values[names.index("loss")]))
        return names, values

    monkeypatch.setattr(Loop, "_step", record_loss)
    return found


def run_training(files: Files, recipe: TrainingConfig, out: str, **options: Any) -> Trained:
    device = torch.device("cuda")
    return train(files.data, files.split, recipe, device=device, out=files.data.parent / out, **options)


@RECIPES
def test_captured_steps_have_the_same_losses_as_eager_steps(
    files: Files, captures: list[CudaCapture], losses: list[float], recipe: TrainingConfig
) -> None:
    captured = run_training(files, recipe, "captured")
    eager = run_training(files, recipe, "eager", graphs="off")
    (capture,) = captures
    assert capture.captures == 2  # one input shape without the teacher's batch, one with it
    # The first replays: dropout uses the same random numbers as in eager steps.
    assert losses[2:5] == pytest.approx(losses[32:35], rel=TIGHT)
    assert losses[:30] == pytest.approx(losses[30:], rel=LOOSE)
    assert captured.best == pytest.approx(eager.best, abs=0.2)


def test_captured_steps_have_the_same_losses_as_eager_steps_in_bfloat16(
    files: Files, captures: list[CudaCapture], losses: list[float]
) -> None:
    if not has_bfloat16(torch.device("cuda")):
        pytest.skip("no bfloat16")
    recipe = change(SGD, precision="bfloat16")
    run_training(files, recipe, "captured")
    run_training(files, recipe, "eager", graphs="off")
    assert captures[0].captures == 2
    assert losses[:30] == pytest.approx(losses[30:], rel=LOOSE)


@RECIPES
@pytest.mark.parametrize("first", ["auto", "off"])
def test_a_checkpoint_of_captured_steps_is_resumed_by_eager_steps_and_vice_versa(
    files: Files, losses: list[float], monkeypatch: pytest.MonkeyPatch, recipe: TrainingConfig, first: str
) -> None:
    run_training(files, recipe, "uninterrupted", graphs="off")
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_should_stop", lambda self, requested, step: step == 12)
        with pytest.raises(Stopped):
            run_training(files, recipe, "stopped", graphs=first)
    run_training(files, recipe, "stopped", graphs="off" if first == "auto" else "auto", resume="required")
    assert losses[30:] == pytest.approx(losses[:30], rel=LOOSE)


def test_a_run_on_a_gpu_is_resumed_on_a_cpu(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_should_stop", lambda self, requested, step: step == 12)
        with pytest.raises(Stopped):
            run_training(files, ADAMW, "stopped")
    out = files.data.parent / "stopped"
    done = train(files.data, files.split, ADAMW, device=torch.device("cpu"), out=out, resume="required")
    assert all(x.isfinite().all() for x in weights(done).values())
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert entries[-1]["step"] == 30


@pytest.mark.parametrize("cause", ["synchronizes", "raises"])
def test_after_a_failed_capture_eager_steps_have_the_same_losses(
    files: Files, losses: list[float], monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    run_training(files, SGD, "eager", graphs="off")
    original = step.total_loss

    def failing_loss(*arguments: Any) -> dict[str, torch.Tensor]:
        terms = original(*arguments)
        if torch.cuda.is_current_stream_capturing():
            if cause == "raises":
                raise torch.OutOfMemoryError("CUDA out of memory")
            terms["loss"].item()
        return terms

    monkeypatch.setattr(step, "total_loss", failing_loss)
    warnings: list[str] = []
    run_training(files, SGD, "failing", on_warning=warnings.append)
    assert [text for text in warnings if text.startswith("CUDA graphs are off")] == warnings[-1:]
    assert losses[32:35] == pytest.approx(losses[2:5], rel=TIGHT)
    assert losses[30:] == pytest.approx(losses[:30], rel=LOOSE)


def test_a_profile_reports_kernels_and_their_time(files: Files) -> None:
    found = profile_training(files.data, files.split, SGD, torch.device("cuda"), 3)
    assert found.launches > 100
    assert found.gpu_busy is not None
    assert 0 < found.gpu_busy < 1e3 * found.seconds / 3
    assert all(milliseconds > 0 for _, milliseconds, _ in found.operators)
