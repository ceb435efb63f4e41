"""Checks of a training: warnings before the first step, non-finite losses and weights, and errors out of memory."""

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
from psptool.model import kernels
from psptool.schemas.split import Split
from psptool.schemas.training import TrainingConfig
from psptool.skeletons.topology import Topology
from psptool.training.memory import StepMemory, get_setting

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_REQUESTED = re.compile(r"(?:tried to allocate|Tried to allocate) ([\d.]+) (bytes|KiB|MiB|GiB)")
SAFETY_FACTOR = 0.8
"""Fraction of the available memory that a step may use: the estimate has no temporary tensors of the backward pass."""
_DIVERGENCE_FIX = "Lower optim.lr, or set optim.clip_norm to 5 or less (0 sets no limit)."


def kernel_warnings(recipe: TrainingConfig, joints: int, device: torch.device) -> Iterator[str]:
    """A warning if the training would use Triton kernels, and they do not work on ``device``.

    Args:
        recipe: The training configuration.
        joints: Number of joints of the skeleton.
        device: Device of the training.
    """
    clips = recipe.optim.labelled_batch + recipe.optim.pool_batch
    values = clips * recipe.sampling.frames * joints * recipe.model.channels[0]  # features of one stream
    if values >= kernels.LEAST_VALUES and (problem := kernels.problem(device)) is not None:
        yield f"the GPU kernels are off, so steps are slower: {problem}"


def preflight_warnings(split: Split, recipe: TrainingConfig, classes: int) -> Iterator[str]:
    """Warnings before the first step: the training runs, but perhaps not as intended.

    Args:
        split: The label split.
        recipe: The requested training configuration.
        classes: Number of classes in the training set.
    """
    optim, labelled = recipe.optim, len(split.labelled)
    if optim.labelled_batch > labelled:
        yield (
            f"optim.labelled_batch: {counted(optim.labelled_batch, 'labelled clip')} per step, but the split has "
            f"{labelled}: clips are repeated within a step"
        )
    if labelled < classes:
        yield (
            f"split: {counted(labelled, 'labelled clip')} for {counted(classes, 'class', 'classes')}: "
            "some classes cannot be learned"
        )
    loss = recipe.loss
    if recipe.method == "psp" and loss.contrast_weight > 0 and not recipe.contrast_levels:
        lists = {
            "model.levels": recipe.model.levels,
            "loss.contrast_levels": loss.contrast_levels,
            "loss.contrast_pairs": loss.contrast_pairs,
        }
        empty = " and ".join(key for key, entries in lists.items() if entries == ())
        yield (
            f"{empty}: empty, so there is no contrastive loss, although loss.contrast_weight is "
            f"{loss.contrast_weight:g}; set loss.contrast_weight=0 if this is intended"
        )
    if not recipe.needs_pool:
        return
    if not split.unlabelled:
        yield "split: no unlabelled clips: contrastive loss and teacher use only labelled clips"
    pool = len(split.pool(recipe.loss.contrast_labelled))
    if optim.pool_batch > pool:
        yield f"optim.pool_batch: reduced from {optim.pool_batch} to {pool}, the number of clips in the pool"


def limit_levels(recipe: TrainingConfig, topology: Topology) -> tuple[TrainingConfig, str]:
    """The configuration without the levels of the pyramid that have one group, and a message about them.

    Attention between the groups of a level needs two of them. The joint level has one group per joint.

    Args:
        recipe: The requested training configuration.
        topology: Joints and joint groups of the skeleton.

    Returns:
        The configuration and the message, which is empty if all levels are used.

    Raises:
        PspError: No level of the contrastive loss is left.
    """
    single = [level for level in recipe.model.levels if len(topology.levels[level]) < 2]
    if not single or not recipe.contrast_levels:
        return recipe, ""
    asked = recipe.loss.contrast_levels
    levels = tuple(level for level in recipe.model.levels if level not in single)
    contrast = None if asked is None else tuple(level for level in asked if level not in single)
    if not levels or contrast == ():
        raise PspError(
            "model.levels: no level of the contrastive loss is left",
            f"{', '.join(single)}, with one group of joints of {topology.name} each",
            "a level with at least two groups",
            "Use --set 'model.levels=[joint]', or give the skeleton parts and regions.",
        )
    limited = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"levels": levels}),
            "loss": recipe.loss.model_copy(update={"contrast_levels": contrast}),
        }
    )
    names = ", ".join(single)
    return (
        limited,
        f"model.levels: without {names}: the skeleton {topology.name} has one group of joints there",
    )


def check_terms(window: Tensor, names: tuple[str, ...], step: int, last_checkpoint: str) -> dict[str, float]:
    """Means of the loss and its terms over the last steps.

    Args:
        window: (steps, terms), in the order of the steps.
        names: Names of the terms.
        step: 1-based number of the last step in ``window``.
        last_checkpoint: A sentence for the error: which checkpoint is the last one.

    Raises:
        PspError: A term is not finite; names the first such step and its terms. The total loss is named only if all
            terms are finite.
    """
    rows = window.tolist()
    for number, row in enumerate(rows, step - len(rows) + 1):
        bad = {name: value for name, value in zip(names, row, strict=True) if not math.isfinite(value)}
        if bad:
            causes = [name for name in bad if name != "loss"] or ["loss"]
            raise PspError(
                f"training stopped: loss term {', '.join(causes)} is not finite at step {number}",
                found=", ".join(str(bad[name]) for name in causes),
                fix=f"{_DIVERGENCE_FIX} {last_checkpoint}",
            )
    return {
        name: sum(column) / len(rows) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def check_weights(model: nn.Module, step: int, last_checkpoint: str) -> None:
    """Check that all weights are finite, before they are saved.

    Args:
        model: The trained model.
        step: Number of completed steps.
        last_checkpoint: As in `check_terms`.

    Raises:
        PspError: Weights are not finite; names the first such tensor.
    """
    state = {name: x for name, x in model.state_dict().items() if x.is_floating_point()}
    # One flat tensor, (number of weights,): checking each tensor by itself would run several operations for each.
    finite = torch.cat([x.flatten() for x in state.values()]).isfinite()
    if finite.all():
        return
    parts = finite.split([x.numel() for x in state.values()])  # type: ignore[no-untyped-call]
    bad = [name for name, part in zip(state, parts, strict=True) if not part.all()]
    raise PspError(
        f"training stopped: {len(bad)} of {counted(len(state), 'weight tensor')} not finite after step {step}, "
        f"the first is {bad[0]}",
        fix=f"{_DIVERGENCE_FIX} {last_checkpoint}",
    )


@contextmanager
def explain_out_of_memory(recipe: TrainingConfig, device: torch.device, memory: StepMemory) -> Iterator[None]:
    """Context that turns out-of-memory errors into errors with the settings to lower and their new values.

    Args:
        recipe: The training configuration.
        device: The device of the training.
        memory: Estimate of a step's memory.

    Raises:
        PspError: Memory ran out.
    """
    before = _in_use(device)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        requested = _requested_bytes(error)
        if requested is None:
            raise
        fraction = _fraction_that_fits(_in_use(device) - before, requested, memory.bytes(recipe))
        raise PspError(
            f"out of memory on {device}",
            f"{requested / 2**20:,.0f} MiB requested with {_in_use(device) / 2**20:,.0f} MiB in use",
            fix=_memory_fix(recipe, memory, fraction),
        ) from error


def _requested_bytes(error: Exception) -> int | None:
    """Bytes of the failed allocation; 0 if the message does not name them, None if it is another error."""
    match = _REQUESTED.search(str(error))
    if match:
        return int(float(match[1]) * _UNITS[match[2]])
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(
        error
    )
    return 0 if out_of_memory else None


def _in_use(device: torch.device) -> int:
    """Bytes in use: on a GPU those allocated by PyTorch, on a CPU the peak of the process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return peak_memory() or 0


def _fraction_that_fits(used: int, requested: int, estimate: float) -> float:
    """Fraction of a step's memory that is available.

    Args:
        used: Bytes that the step had allocated when memory ran out; 0 or less if unknown.
        requested: Bytes of the failed allocation.
        estimate: Estimated bytes of the whole step; ``used + requested`` if that is more.
    """
    if used <= 0:
        return 0.5
    return SAFETY_FACTOR * min(1.0, max(0.1, used / max(estimate, used + requested)))


def _memory_fix(recipe: TrainingConfig, memory: StepMemory, fraction: float) -> str:
    """The settings that reduce a step's memory to ``fraction`` of it, the most effective first, as a sentence."""
    lowered = memory.lower(recipe, fraction)
    values = [
        (name, get_setting(recipe, name), get_setting(lowered, name)) for name in memory.largest_first(recipe)
    ]
    changes = [f"{name} from {before} to {after}" for name, before, after in values if after < before]
    if memory.bytes(lowered) <= fraction * memory.bytes(recipe):
        return f"Lower {' and '.join(changes)} or less."
    network = "a smaller network (model.channels), or a device with more memory"
    return f"Lower {' and '.join(changes)}, and choose {network}." if changes else f"Choose {network}."
