"""Estimate of the memory of a training step, and settings that reduce it.

The forward pass and the losses are computed on the CPU for a few persons, and the tensors saved for the backward pass
are counted. They are most of a step's memory, and they grow linearly with the number of persons. Weights, gradients
and optimizer state are added. Not included: the clips, temporary tensors of the backward pass, and memory of libraries.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from psptool.data.batches.ragged import SLOTS
from psptool.data.batches.streams import Stream
from psptool.losses.total import total_loss
from psptool.model.build import build_model
from psptool.model.network import Network
from psptool.schemas.recipes import resolve
from psptool.schemas.training import TrainingConfig
from psptool.skeletons.topology import Topology

MINIMUM = {"optim.pool_batch": 2, "optim.labelled_batch": 1, "sampling.frames": 1}
"""Settings that change the memory but not the network, and their minimum values."""
FEW_FRAMES = 16
"""Number of frames of the shorter measured clips; the longer ones have twice as many."""
Line = tuple[float, float]
"""Bytes per person as a linear function of frames: constant, and bytes per frame."""


@dataclass(frozen=True)
class StepMemory:
    """Memory of a training step as a function of the training configuration.

    Attributes:
        topology: The joints.
        classes: Number of classes.
        persons: Mean number of persons per clip.
        itemsize: Bytes per value in the forward pass.
        processes: Number of processes that share the clips of a step.
    """

    topology: Topology
    classes: int
    persons: float
    itemsize: int = 4
    processes: int = 1

    def bytes(self, recipe: TrainingConfig) -> float:
        """Estimated bytes of one step of ``recipe`` in one process."""
        weights, per_labelled, per_pool = _measure(_without_sizes(recipe), self.topology, self.classes)
        persons = SLOTS if recipe.model.absent_persons == "zeros" else self.persons
        clips = (
            (recipe.optim.labelled_batch, per_labelled),
            (recipe.optim.pool_batch * recipe.needs_pool, per_pool),
        )
        saved = sum(  # for the backward pass, if all values were float32
            math.ceil(number / self.processes) * persons * (constant + per_frame * recipe.sampling.frames)
            for number, (constant, per_frame) in clips
        )
        # Copies of the weights in float32: gradients, one or two moments of the optimizer, teacher.
        copies = 1 + (2 if recipe.optim.kind == "adamw" else 1) + recipe.has_teacher
        return saved * self.itemsize / 4 + copies * weights

    def lower(self, recipe: TrainingConfig, fraction: float) -> TrainingConfig:
        """Lower settings of `MINIMUM` until a step needs at most ``fraction`` of its memory.

        First, settings above those of the default preset are lowered to the default, starting with the one that saves
        most memory. If that is not enough, all are lowered together to half of the default, a quarter, and so on. No
        setting is lowered more than necessary. If the minimum values still need too much memory, they are returned.
        """
        default, limit, settings = resolve(), fraction * self.bytes(recipe), self.largest_first(recipe)
        for halvings in range(max(get_setting(default, name) for name in settings).bit_length() + 1):
            for name in settings:
                if self.bytes(recipe) <= limit:
                    return recipe
                lowest = max(MINIMUM[name], get_setting(default, name) >> halvings)
                recipe = self._fit(recipe, name, lowest, limit)
        return recipe

    def _fit(self, recipe: TrainingConfig, name: str, lowest: int, limit: float) -> TrainingConfig:
        """The recipe with the largest value of setting ``name`` within ``limit`` bytes, but at least ``lowest``."""
        values = range(lowest, get_setting(recipe, name) + 1)
        fitting = bisect_right(values, limit, key=lambda value: self.bytes(_cap(recipe, name, value)))
        return _cap(recipe, name, lowest + max(fitting - 1, 0))

    def largest_first(self, recipe: TrainingConfig) -> list[str]:
        """Settings of `MINIMUM` that the recipe uses, sorted by the memory saved by lowering them to the default."""
        default = resolve()
        used = [name for name in MINIMUM if recipe.needs_pool or name != "optim.pool_batch"]
        # A stable sort: settings that are not above the default keep the order of MINIMUM, with frames last.
        return sorted(used, key=lambda name: self.bytes(_cap(recipe, name, get_setting(default, name))))


def get_setting(recipe: TrainingConfig, name: str) -> int:
    """Value of a setting of `MINIMUM`."""
    group, _, key = name.partition(".")
    return int(getattr(getattr(recipe, group), key))


def _cap(recipe: TrainingConfig, name: str, maximum: int) -> TrainingConfig:
    """The recipe with setting ``name`` limited to ``maximum``."""
    group, _, key = name.partition(".")
    value = min(get_setting(recipe, name), maximum)
    return recipe.model_copy(update={group: getattr(recipe, group).model_copy(update={key: value})})


def _without_sizes(recipe: TrainingConfig) -> TrainingConfig:
    """The recipe with fixed numbers of clips and frames, so that the cache of `_measure` ignores them."""
    return recipe.model_copy(
        update={
            "optim": recipe.optim.model_copy(update={"labelled_batch": 2, "pool_batch": 2}),
            "sampling": recipe.sampling.model_copy(update={"frames": FEW_FRAMES}),
        }
    )


@cache
def _measure(recipe: TrainingConfig, topology: Topology, classes: int) -> tuple[int, Line, Line]:
    """Bytes of the weights, and bytes saved for the backward pass per labelled person and per person of the pool."""
    model = build_model(recipe, topology, classes)
    pool = 2 * recipe.needs_pool
    per_person = []  # for each number of frames: bytes of a labelled person and of a person of the pool
    for frames in (FEW_FRAMES, 2 * FEW_FRAMES):
        base, *larger = (
            _saved_bytes(model, recipe, topology, frames, *clips)
            for clips in ((2, pool), (3, pool), (2, pool + 1))
        )
        per_person.append([size - base for size in larger])
    # Activations are linear in the number of frames; attention maps (P, S, V, V) are the constant.
    per_labelled, per_pool = (
        (2 * few - many, (many - few) / FEW_FRAMES) for few, many in zip(*per_person, strict=True)
    )
    return sum(parameter.nbytes for parameter in model.parameters()), per_labelled, per_pool


def _saved_bytes(
    model: Network, recipe: TrainingConfig, topology: Topology, frames: int, labelled: int, pool: int
) -> int:
    """Bytes saved for the backward pass of one step, without weights.

    Args:
        model: The network.
        recipe: The training configuration.
        topology: The V joints.
        frames: T.
        labelled: Number of labelled clips of one person.
        pool: Number of clips of the pool of one person.
    """
    # Storages are counted once: several saved tensors may be views of the same storage.
    weights = [x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers())]
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        storages[storage._cdata] = storage
        return x

    x = torch.zeros(labelled + pool, 3, frames, topology.size)  # (P, 3, T, V), one person per clip
    stream = Stream.of(x, torch.ones(len(x), dtype=torch.int64))
    labels = torch.zeros(labelled, dtype=torch.int64)
    with saved_tensors_hooks(keep, lambda x: x):
        total_loss(model, dict.fromkeys(recipe.streams.names, stream), labels, recipe, torch.float32)
    return sum(storage.nbytes() for key, storage in storages.items() if key not in weights)
