"""Time of the parts of a training step, measured with PyTorch's profiler in a temporary run folder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from psptool.data.batches.ragged import AUGMENTING, DRAWING
from psptool.losses.contrast import CONTRASTING
from psptool.model.classifier import ENCODING, POLYMERIZING
from psptool.schemas.run import RunConfig
from psptool.schemas.training import TrainingConfig
from psptool.training.api import train
from psptool.training.stopping import Stopped

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
LABELS, COPIES = ("psptool: ", "Optimizer."), ("Memcpy", "Memset")
"""Prefixes of the profiler's GPU entries that are not kernels."""
WARM_UP = 3
"""Steps before the profiled ones. They initialize optimizer and libraries."""


@dataclass(frozen=True)
class Profiled:
    """Time of some training steps.

    Attributes:
        steps: Number of steps.
        seconds: Time of these steps, including the overhead of the profiler.
        parts: Milliseconds per step on the host, by part of the step. Work between the parts is not included.
        operators: The operators with the largest self time, on the GPU if there is one: name, milliseconds per step,
            calls per step.
        launches: Number of kernels per step on a GPU, without copies; number of operators per step on a CPU.
        gpu_busy: Milliseconds per step in which the GPU works; None on a CPU.
    """

    steps: int
    seconds: float
    parts: dict[str, float]
    operators: list[tuple[str, float, float]]
    launches: float
    gpu_busy: float | None


def profile_training(
    data: Path,
    split: Path,
    recipe: TrainingConfig,
    device: torch.device,
    steps: int,
    on_start: Callable[[Path, RunConfig], None] = lambda folder, config: None,
) -> Profiled:
    """Train under the profiler, in a temporary run folder.

    Steps run without CUDA graphs: the operators of a graph have no names. Their kernels are the same.

    Args:
        data: The dataset file.
        split: The split file.
        recipe: The training configuration.
        device: The device to train on.
        steps: Number of profiled steps, after `WARM_UP` others.
        on_start: As in `psptool.training.api.train`.

    Raises:
        PspError: As in `psptool.training.api.train`.
        KeyboardInterrupt: It was interrupted; nothing is saved.
    """
    last = WARM_UP + steps
    # The only validation and checkpoint follow one more step, which is not profiled.
    end = last + 1
    optim = recipe.optim.model_copy(update={"steps": end})
    short = recipe.model_copy(update={"optim": optim, "validate_every": end, "checkpoint_every": end})
    profiler = profile(activities=_activities(device))
    times: list[float] = []

    def on_step(step: int) -> None:
        if step not in (WARM_UP, last):
            return
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
        if step == WARM_UP:
            profiler.start()
        else:
            profiler.stop()

    with tempfile.TemporaryDirectory(prefix="psptool-profile-") as folder:
        run = Path(folder) / "run"
        try:
            train(
                data, split, short, device=device, out=run, graphs="off", on_start=on_start, on_step=on_step
            )
        except Stopped as stop:  # its message says that the run is saved, but its folder is removed
            raise KeyboardInterrupt from stop
    averages = list(profiler.key_averages())
    parts = {
        part: sum(entry.cpu_time_total for entry in averages if entry.key.startswith(prefix)) / 1e3 / steps
        for part, prefix in PARTS.items()
    }

    def self_time(entry: Any) -> float:
        on_gpu = device.type == "cuda"
        return float(entry.self_device_time_total if on_gpu else entry.self_cpu_time_total)

    top = sorted((entry for entry in averages if _is_operator(entry)), key=self_time, reverse=True)
    operators = [
        (entry.key.removeprefix("aten::"), self_time(entry) / 1e3 / steps, entry.count / steps)
        for entry in top[:OPERATORS]
    ]
    launches, busy = count_work(averages, device)
    gpu_busy = None if busy is None else busy / steps
    return Profiled(steps, times[1] - times[0], parts, operators, launches / steps, gpu_busy)


def count_work(averages: Iterable[Any], device: torch.device) -> tuple[int, float | None]:
    """Number of kernels and milliseconds of the GPU's work; on a CPU the number of operators, and None.

    Args:
        averages: Entries of ``profiler.key_averages()``.
        device: The profiled device.
    """
    if device.type != "cuda":
        return sum(entry.count for entry in averages if _is_operator(entry)), None
    # Labels of the code (`record_function`) have a copy among the GPU's entries, which covers their kernels.
    work = [
        entry
        for entry in averages
        if entry.device_type.name == "CUDA"
        and not entry.key.startswith(LABELS)
        and not getattr(entry, "is_user_annotation", False)
    ]
    kernels = sum(entry.count for entry in work if not entry.key.startswith(COPIES))
    return kernels, sum(entry.self_device_time_total for entry in work) / 1e3


def _is_operator(entry: Any) -> bool:
    return str(entry.key).startswith("aten::")


def _activities(device: torch.device) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
