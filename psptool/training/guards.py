"""What stops a training or is said before it: losses that are not finite, memory that is not there, clips too few."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from psptool.common.errors import PspError
from psptool.common.machine import peak_memory
from psptool.common.text import counted
from psptool.schemas.split import Split
from psptool.schemas.training import TrainingConfig
from psptool.training.memory import StepMemory, get_setting

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_ASKED = re.compile(r"(?:tried to allocate|Tried to allocate) ([\d.]+) (bytes|KiB|MiB|GiB)")
SPARE = 0.8
"""Of the memory that fits, what a step is planned to take: the estimate leaves the backward pass's own tensors out."""
_WAY_OUT = "Lower optim.lr, or set optim.clip_norm to 5 or less (0 sets no limit)."


def preflight_warnings(split: Split, recipe: TrainingConfig, classes: int) -> Iterator[str]:
    """What a user should know before the first step: the training goes on, but perhaps not as it was meant.

    Args:
        split: Whose clips are trained on.
        recipe: As it was asked for.
        classes: Of the train set.
    """
    optim, labelled = recipe.optim, len(split.labelled)
    if optim.labelled_batch > labelled:
        yield (
            f"optim.labelled_batch: {optim.labelled_batch} labelled clips a step, but the split has {labelled}: "
            "some stand in a step more than once"
        )
    if labelled < classes:
        clips = counted(labelled, "labelled clip")
        yield f"{clips} for {counted(classes, 'class', 'classes')}: some classes cannot be learned"
    if not recipe.needs_pool:
        return
    if not split.unlabelled:
        yield "the split has no unlabelled clips: contrast and teacher see the labelled ones alone"
    pool = len(split.unlabelled) + (labelled if recipe.loss.contrast_labelled else 0)
    if optim.pool_batch > pool:
        yield f"optim.pool_batch: {pool} clips are drawn a step, not {optim.pool_batch}: there are no more"


def check_terms(window: Tensor, names: tuple[str, ...], done: int, kept: str) -> dict[str, float]:
    """The means of the loss and its terms over the last steps.

    Args:
        window: (steps, terms), the last step's last.
        names: Of the terms.
        done: The last of the steps, counted from 1.
        kept: What there is to go back to, as a sentence.

    Raises:
        PspError: One is not finite: says at which step and which term; the sum is no cause of its own.
    """
    rows = window.tolist()
    for step, row in enumerate(rows, done - len(rows) + 1):
        odd = {name: value for name, value in zip(names, row, strict=True) if not math.isfinite(value)}
        if odd:
            causes = [name for name in odd if name != "loss"] or ["loss"]
            raise PspError(
                f"training stopped: the loss's term {', '.join(causes)} is not finite at step {step}",
                found=", ".join(str(odd[name]) for name in causes),
                fix=f"{_WAY_OUT} {kept}",
            )
    return {
        name: sum(column) / len(rows) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def check_weights(model: nn.Module, done: int, kept: str) -> None:
    """Refuse weights that are not finite, before they are kept; arguments as for `check_terms`.

    Raises:
        PspError: Some are not; names the first.
    """
    state = {name: x for name, x in model.state_dict().items() if x.is_floating_point()}
    finite = torch.stack([x.isfinite().all() for x in state.values()]).tolist()
    odd = [name for name, fine in zip(state, finite, strict=True) if not fine]
    if odd:
        raise PspError(
            f"training stopped: {len(odd)} of {len(state)} weights are not finite after step {done}, first {odd[0]}",
            fix=f"{_WAY_OUT} {kept}",
        )


@contextmanager
def explain_out_of_memory(recipe: TrainingConfig, device: torch.device, memory: StepMemory) -> Iterator[None]:
    """Turn running out of memory into an error that names the settings to lower, and by how much.

    Args:
        recipe: Of the training within.
        device: Where it computes.
        memory: What its steps take, as a function of the recipe.

    Raises:
        PspError: Memory ran out within.
    """
    before = _in_use(device)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        asked = _asked(error)
        if asked is None:
            raise
        share = _share_that_fits(_in_use(device) - before, asked, memory.bytes(recipe))
        raise PspError(
            f"out of memory on {device}",
            f"{asked / 2**20:,.0f} MiB asked for beyond {_in_use(device) / 2**20:,.0f} MiB in use",
            fix=_smaller(recipe, memory, share),
        ) from error


def _asked(error: Exception) -> int | None:
    """The bytes that were not to be had; 0 where that is not said, None for an error of another kind."""
    said = _ASKED.search(str(error))
    if said:
        return int(float(said[1]) * _UNITS[said[2]])
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
    return 0 if known else None


def _in_use(device: torch.device) -> int:
    """Bytes: on the GPU what PyTorch holds now, on the CPU the most that the process ever held."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return peak_memory() or 0


def _share_that_fits(used: int, asked: int, estimate: float) -> float:
    """How much of a step fits.

    Args:
        used: Bytes that the step had when it ran out; 0 or less where that is not known.
        asked: Bytes that it asked for beyond them.
        estimate: Bytes that it takes to its end. Where the step had more already, that counts.
    """
    if used <= 0:
        return 0.5
    return SPARE * min(1.0, max(0.1, used / max(estimate, used + asked)))


def _smaller(recipe: TrainingConfig, memory: StepMemory, share: float) -> str:
    """The settings that make a step take ``share`` of its memory, the one with the largest share first."""
    lowered = memory.lower(recipe, share)
    values = [
        (name, get_setting(recipe, name), get_setting(lowered, name)) for name in memory.largest_first(recipe)
    ]
    steps = [f"{name} from {before} to {after}" for name, before, after in values if after < before]
    if memory.bytes(lowered) <= share * memory.bytes(recipe):
        return f"Lower {' and '.join(steps)} or less."
    network = "a smaller network (model.channels), or a device with more memory"
    return f"Lower {' and '.join(steps)}, and choose {network}." if steps else f"Choose {network}."
