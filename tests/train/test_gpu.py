"""Trainings on a GPU, with CUDA graphs and without. Run by ``workflows/benchmarks/gpu.py``."""

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

from .test_graphs import ADAMW, LIVELY
from .tiny import Files, change, make_files, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
]
TIGHT, LOOSE = 1e-4, 3e-2
"""Relative differences of losses in the first steps, and in all: some kernels add in varying order, and steps amplify
that. AdamW does most, where the exact gradient is zero.
"""
RECIPES = pytest.mark.parametrize("recipe", [LIVELY, ADAMW], ids=["sgd", "adamw"])
"""Both have dropout, a teacher and gradient clipping."""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[CudaCapture]:
    """The captures of all trainings that use CUDA graphs."""
    made: list[CudaCapture] = []

    def make(device: torch.device) -> CudaCapture:
        made.append(CudaCapture(device))
        return made[-1]

    monkeypatch.setattr(api, "CudaCapture", make)
    return made


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of each step of all trainings."""
    found: list[float] = []
    plain = Loop._step

    def one_step(self: Loop, *arguments: Any) -> step.Terms:
        names, values = plain(self, *arguments)
        found.append(float(values[names.index("loss")]))
        return names, values

    monkeypatch.setattr(Loop, "_step", one_step)
    return found


def go(files: Files, recipe: TrainingConfig, out: str, **options: Any) -> Trained:
    device = torch.device("cuda")
    return train(files.data, files.split, recipe, device=device, out=files.data.parent / out, **options)


@RECIPES
def test_captured_steps_have_the_losses_of_eager_ones(
    files: Files, captures: list[CudaCapture], losses: list[float], recipe: TrainingConfig
) -> None:
    captured = go(files, recipe, "captured")
    eager = go(files, recipe, "eager", graphs="off")
    (capture,) = captures
    assert capture.captures == 2  # one shape without the teacher's batch, another one with it
    # The first replays: dropout draws the numbers of eager steps.
    assert losses[2:5] == pytest.approx(losses[32:35], rel=TIGHT)
    assert losses[:30] == pytest.approx(losses[30:], rel=LOOSE)
    assert captured.best == pytest.approx(eager.best, abs=0.2)


def test_captured_steps_have_the_losses_of_eager_ones_in_bfloat16(
    files: Files, captures: list[CudaCapture], losses: list[float]
) -> None:
    if not has_bfloat16(torch.device("cuda")):
        pytest.skip("no bfloat16")
    recipe = change(LIVELY, precision="bfloat16")
    go(files, recipe, "captured")
    go(files, recipe, "eager", graphs="off")
    assert captures[0].captures == 2
    assert losses[:30] == pytest.approx(losses[30:], rel=LOOSE)


@RECIPES
@pytest.mark.parametrize("first", ["auto", "off"])
def test_a_checkpoint_of_either_kind_of_step_is_resumed_by_the_other(
    files: Files, losses: list[float], monkeypatch: pytest.MonkeyPatch, recipe: TrainingConfig, first: str
) -> None:
    go(files, recipe, "undisturbed", graphs="off")
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_should_stop", lambda self, asked, done: done == 12)
        with pytest.raises(Stopped):
            go(files, recipe, "stopped", graphs=first)
    go(files, recipe, "stopped", graphs="off" if first == "auto" else "auto", resume="required")
    assert losses[30:] == pytest.approx(losses[:30], rel=LOOSE)


def test_a_run_of_a_gpu_is_resumed_on_a_cpu(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_should_stop", lambda self, asked, done: done == 12)
        with pytest.raises(Stopped):
            go(files, ADAMW, "stopped")
    out = files.data.parent / "stopped"
    done = train(files.data, files.split, ADAMW, device=torch.device("cpu"), out=out, resume="required")
    assert all(x.isfinite().all() for x in weights(done).values())
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert entries[-1]["step"] == 30


@pytest.mark.parametrize("cause", ["synchronizes", "raises"])
def test_a_failed_capture_leaves_eager_steps_with_the_same_losses(
    files: Files, losses: list[float], monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    go(files, LIVELY, "eager", graphs="off")
    plain = step.total_loss

    def spoiled(*arguments: Any) -> dict[str, torch.Tensor]:
        terms = plain(*arguments)
        if torch.cuda.is_current_stream_capturing():
            if cause == "raises":
                raise torch.OutOfMemoryError("CUDA out of memory")
            terms["loss"].item()
        return terms

    monkeypatch.setattr(step, "total_loss", spoiled)
    warnings: list[str] = []
    go(files, LIVELY, "failing", on_warning=warnings.append)
    assert [text for text in warnings if text.startswith("CUDA graphs are off")] == warnings[-1:]
    assert losses[32:35] == pytest.approx(losses[2:5], rel=TIGHT)
    assert losses[30:] == pytest.approx(losses[:30], rel=LOOSE)


def test_a_profile_has_kernels_and_their_time(files: Files) -> None:
    found = profile_training(files.data, files.split, LIVELY, torch.device("cuda"), 3)
    assert found.launches > 100
    assert found.gpu_busy is not None
    assert 0 < found.gpu_busy < 1e3 * found.seconds / 3
    assert all(milliseconds > 0 for _, milliseconds, _ in found.operators)
