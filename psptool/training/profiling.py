"""Time of the parts of a training step, measured with PyTorch's profiler in a temporary run folder."""

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
"""Parts of a step, by the prefix of their labels in the profiler."""
OPERATORS = 10
"""Number of operators in the result."""


@dataclass(frozen=True)
class Profiled:
    """Time of some training steps.

    Attributes:
        steps: Number of steps.
        seconds: Time of all steps, including the overhead of the profiler.
        parts: Milliseconds per step on the host, by part of the step. Work between the parts is not included.
        operators: The operators with the largest self time, on the GPU if there is one: name, milliseconds per step,
            calls per step.
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
    """Train for ``steps`` steps under the profiler, in a temporary run folder.

    Args:
        data: The dataset file.
        split: The split file.
        recipe: The training configuration.
        device: The device to train on.
        steps: Number of steps.
        on_start: As in `psptool.training.api.train`.

    Raises:
        PspError: As in `psptool.training.api.train`.
    """
    short = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"steps": steps})})
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    temporary = tempfile.TemporaryDirectory(prefix="psptool-profile-")
    with temporary as folder, profile(activities=activities) as profiler:
        done = train(data, split, short, device=device, out=Path(folder) / "run", on_start=on_start)
    averages = list(profiler.key_averages())
    parts = {
        part: sum(entry.cpu_time_total for entry in averages if entry.key.startswith(prefix)) / 1e3 / steps
        for part, prefix in PARTS.items()
    }

    def self_time(entry: object) -> float:
        on_gpu = device.type == "cuda"
        return float(getattr(entry, "self_device_time_total" if on_gpu else "self_cpu_time_total"))

    top = sorted((entry for entry in averages if entry.key.startswith("aten::")), key=self_time, reverse=True)
    operators = [
        (entry.key.removeprefix("aten::"), self_time(entry) / 1e3 / steps, entry.count / steps)
        for entry in top[:OPERATORS]
    ]
    return Profiled(steps, done.final.seconds, parts, operators)
