"""Where a training step's time goes: some steps under torch's profiler, and nothing left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from psptool.data.batches.ragged import AUGMENTING, DRAWING
from psptool.losses.contrast import CONTRASTING
from psptool.model.classifier import ENCODING, POLYMERIZING
from psptool.schemas.run import RunConfig
from psptool.schemas.training import TrainingConfig
from psptool.training.api import train

BACKWARD, OPTIMIZING = "autograd::engine::evaluate_function", "Optimizer.step"
PARTS = {
    "drawing and gathering": DRAWING,
    "augmenting": AUGMENTING,
    "encoder": ENCODING,
    "pyramid and projection": POLYMERIZING,
    "contrast": CONTRASTING,
    "backward": BACKWARD,
    "optimizer": OPTIMIZING,
}
OPERATORS = 10


@dataclass(frozen=True)
class Profiled:
    """What some steps took.

    Attributes:
        steps: How many.
        seconds: All of them, the profiler's own work included.
        parts: Milliseconds a step, by part of the step, on the host; what lies between the parts is in none.
        operators: The operators with most time of their own: name, milliseconds a step, calls a step; of the GPU's
            time where there is one.
    """

    steps: int
    seconds: float
    parts: dict[str, float]
    operators: list[tuple[str, float, float]]


def profile_training(
    data: Path,
    split: Path,
    recipe: TrainingConfig,
    device: torch.device,
    steps: int,
    on_start: Callable[[Path, RunConfig], None] = lambda folder, config: None,
) -> Profiled:
    """Train for ``steps`` steps under the profiler; the run's folder is a temporary one.

    Raises:
        PspError: As `psptool.training.api.train`.
    """
    short = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"steps": steps})})
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    temporary = tempfile.TemporaryDirectory(prefix="psptool-profile-")
    with temporary as folder, profile(activities=activities) as profiler:
        done = train(data, split, short, device=device, out=Path(folder) / "run", on_start=on_start)
    averages = list(profiler.key_averages())
    parts = {
        part: sum(entry.cpu_time_total for entry in averages if entry.key.startswith(mark)) / 1e3 / steps
        for part, mark in PARTS.items()
    }

    def own(entry: object) -> float:
        on_gpu = device.type == "cuda"
        return float(getattr(entry, "self_device_time_total" if on_gpu else "self_cpu_time_total"))

    top = sorted((entry for entry in averages if entry.key.startswith("aten::")), key=own, reverse=True)
    operators = [
        (entry.key.removeprefix("aten::"), own(entry) / 1e3 / steps, entry.count / steps)
        for entry in top[:OPERATORS]
    ]
    return Profiled(steps, done.final.seconds, parts, operators)
