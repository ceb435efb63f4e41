"""What stops a training or is said before it: losses that are not finite, memory that is not there, clips too few."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from psptool.errors import PspError
from psptool.schemas.split import Split
from psptool.schemas.training import TrainingConfig

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_ASKED = re.compile(r"(?:tried to allocate|Tried to allocate) ([\d.]+) (bytes|KiB|MiB|GiB)")
_WAY_OUT = "Lower optim.lr, or set optim.clip_norm to 5 or less (0 sets no limit)."


def doubts(split: Split, recipe: TrainingConfig, classes: int) -> Iterator[str]:
    """What a user should know before the first step: the training goes on, but perhaps not as it was meant.

    Args:
        split: Whose clips are trained on.
        recipe: As it was asked for.
        classes: Of the train set.
    """
    optim, labelled = recipe.optim, len(split.labelled)
    if optim.labelled > labelled:
        yield (
            f"optim.labelled: {optim.labelled} labelled clips a step, but the split has {labelled}: "
            "some stand in a step more than once"
        )
    if labelled < classes:
        yield f"{labelled} labelled clips for {classes} classes: some classes cannot be learned"
    if not recipe.needs_pool:
        return
    if not split.unlabelled:
        yield "the split has no unlabelled clips: contrast and teacher see the labelled ones alone"
    pool = len(split.unlabelled) + (labelled if recipe.loss.contrast_labelled else 0)
    if optim.unlabelled > pool:
        yield f"optim.unlabelled: {pool} clips are drawn a step, not {optim.unlabelled}: there are no more"


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
                way_out=f"{_WAY_OUT} {kept}",
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
            way_out=f"{_WAY_OUT} {kept}",
        )


@contextmanager
def memory_named(recipe: TrainingConfig, device: torch.device) -> Iterator[None]:
    """Turn running out of memory into an error that names the option to lower, and by how much."""
    before = _in_use(device)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        asked = _asked(error)
        if asked is None:
            raise
        share = _share_that_fits(_in_use(device) - before, asked)
        raise PspError(
            f"out of memory on {device}",
            f"{asked / 2**20:,.0f} MiB asked for beyond {_in_use(device) / 2**20:,.0f} MiB in use",
            way_out=_smaller(recipe, share),
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
    try:
        import resource
    except ImportError:  # Windows has no such count.
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _share_that_fits(used: int, asked: int) -> float:
    """How much of a step fits, at most: memory grows with the clips, and the step had not ended when it ran out."""
    return min(0.9, max(0.1, used / (used + asked))) if used > 0 else 0.5


def _smaller(recipe: TrainingConfig, share: float) -> str:
    """The options that make a step need ``share`` of its memory."""
    optim, frames = recipe.optim, recipe.sampling.frames
    fewer = f"sampling.frames from {frames} to {max(1, int(frames * share))} or less"
    pool = recipe.needs_pool
    most = int((optim.labelled + optim.unlabelled * pool) * share)
    if pool and most - optim.labelled >= 2:
        return (
            f"Lower optim.unlabelled from {optim.unlabelled} to {most - optim.labelled} or less, or {fewer}."
        )
    if not pool and most >= 1:
        return f"Lower optim.labelled from {optim.labelled} to {most} or less, or {fewer}."
    return f"Lower {fewer}."
