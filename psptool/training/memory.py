"""How much memory a training step takes, and how far a recipe's settings must go down for it to take less.

The forward pass and its losses run on a few persons on the CPU, and what they keep for the backward pass is counted:
that is nearly all that a step takes, and it grows with the persons. The weights and what the optimizer keeps of them
are added. Left out: the clips themselves, the backward pass's own tensors, and what libraries take for themselves.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from psptool.data.batches.streams import Stream
from psptool.data.skeletons.topology import Topology
from psptool.losses.total import total_loss
from psptool.model.build import build_model
from psptool.model.network import Network
from psptool.schemas.recipes import resolve
from psptool.schemas.training import TrainingConfig

MINIMUM = {"optim.pool_batch": 2, "optim.labelled_batch": 1, "sampling.frames": 1}
"""The settings that memory grows with, without another network, and their least values."""
FEW_FRAMES = 16
"""Frames of the short clips that are measured, and half of those of the longer ones."""
Line = tuple[float, float]
"""Bytes of one person: a constant, and the increase with each frame."""


@dataclass(frozen=True)
class StepMemory:
    """The memory of a training's steps, as a function of its recipe.

    Attributes:
        topology: The joints.
        classes: Number of classes.
        persons: Mean number of persons per clip.
        itemsize: Bytes per value of the forward pass.
        processes: Among which the clips of a step are dealt.
    """

    topology: Topology
    classes: int
    persons: float
    itemsize: int = 4
    processes: int = 1

    def bytes(self, recipe: TrainingConfig) -> float:
        """Estimate of what one step of ``recipe`` takes in one process."""
        weights, of_labelled, of_pool = _measure(_shape(recipe), self.topology, self.classes)
        persons = 2 if recipe.model.absent_persons == "zeros" else self.persons
        clips = (
            (recipe.optim.labelled_batch, of_labelled),
            (recipe.optim.pool_batch * recipe.needs_pool, of_pool),
        )
        kept = sum(  # in float32
            math.ceil(number / self.processes) * persons * (constant + per_frame * recipe.sampling.frames)
            for number, (constant, per_frame) in clips
        )
        # Gradients, the optimizer's one or two means, the teacher's copy: float32.
        copies = 1 + (2 if recipe.optim.kind == "adamw" else 1) + recipe.has_teacher
        return kept * self.itemsize / 4 + copies * weights

    def lower(self, recipe: TrainingConfig, share: float) -> TrainingConfig:
        """The recipe with settings of `MINIMUM` lowered until a step takes ``share`` of the memory it takes now.

        What exceeds the default recipe goes down to the default first, beginning with the setting whose excess takes
        most memory. Where that is not enough, all go down together by halves of the default. No setting goes further
        than it must; where even the least values take more, they are what is returned.
        """
        usual, goal, settings = resolve(), share * self.bytes(recipe), self.largest_first(recipe)
        for halvings in range(max(get_setting(usual, name) for name in settings).bit_length() + 1):
            for name in settings:
                if self.bytes(recipe) <= goal:
                    return recipe
                floor = max(MINIMUM[name], get_setting(usual, name) >> halvings)
                recipe = self._fit(recipe, name, floor, goal)
        return recipe

    def _fit(self, recipe: TrainingConfig, name: str, floor: int, goal: float) -> TrainingConfig:
        """The recipe with the largest value of one setting, from ``floor`` on, that needs no more than ``goal``."""
        values = range(floor, get_setting(recipe, name) + 1)
        fitting = bisect_right(values, goal, key=lambda value: self.bytes(_cap(recipe, name, value)))
        return _cap(recipe, name, floor + max(fitting - 1, 0))

    def largest_first(self, recipe: TrainingConfig) -> list[str]:
        """The settings that the recipe uses, by the memory that their excess over the default recipe takes."""
        usual = resolve()
        used = [name for name in MINIMUM if recipe.needs_pool or name != "optim.pool_batch"]
        # Stable: settings that do not exceed the default keep their order, frames last.
        return sorted(used, key=lambda name: self.bytes(_cap(recipe, name, get_setting(usual, name))))


def get_setting(recipe: TrainingConfig, name: str) -> int:
    """The value of one of `MINIMUM`'s settings."""
    group, _, key = name.partition(".")
    return int(getattr(getattr(recipe, group), key))


def _cap(recipe: TrainingConfig, name: str, most: int) -> TrainingConfig:
    """The recipe with one setting lowered to ``most`` where it is above."""
    group, _, key = name.partition(".")
    value = min(get_setting(recipe, name), most)
    return recipe.model_copy(update={group: getattr(recipe, group).model_copy(update={key: value})})


def _shape(recipe: TrainingConfig) -> TrainingConfig:
    """The recipe with one number of clips and frames: recipes that differ in nothing else are measured once."""
    return recipe.model_copy(
        update={
            "optim": recipe.optim.model_copy(update={"labelled_batch": 2, "pool_batch": 2}),
            "sampling": recipe.sampling.model_copy(update={"frames": FEW_FRAMES}),
        }
    )


@cache
def _measure(recipe: TrainingConfig, topology: Topology, classes: int) -> tuple[int, Line, Line]:
    """Bytes of the weights, and what a step keeps for each further person of a labelled clip and of the pool."""
    model = build_model(recipe, topology, classes)
    pool = 2 * recipe.needs_pool
    kept = []  # for each number of frames: labelled person, pool person
    for frames in (FEW_FRAMES, 2 * FEW_FRAMES):
        fewest, *more = (
            _kept(model, recipe, topology, frames, *clips) for clips in ((2, pool), (3, pool), (2, pool + 1))
        )
        kept.append([size - fewest for size in more])
    # Linear in the frames but for attention maps, which are constant.
    of_labelled, of_pool = (
        (2 * few - many, (many - few) / FEW_FRAMES) for few, many in zip(*kept, strict=True)
    )
    return sum(parameter.nbytes for parameter in model.parameters()), of_labelled, of_pool


def _kept(
    model: Network, recipe: TrainingConfig, topology: Topology, frames: int, labelled: int, pool: int
) -> int:
    """Bytes that one step with so many clips of one person keeps for the backward pass, weights left out."""
    # A storage may be kept more than once, in views of it.
    weights = [x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers())]
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        storages[storage._cdata] = storage
        return x

    x = torch.zeros(labelled + pool, 3, frames, topology.size)
    stream = Stream.of(x, torch.ones(len(x), dtype=torch.int64))
    labels = torch.zeros(labelled, dtype=torch.int64)
    with saved_tensors_hooks(keep, lambda kept: kept):
        total_loss(model, dict.fromkeys(recipe.streams.names, stream), labels, recipe, torch.float32)
    return sum(storage.nbytes() for key, storage in storages.items() if key not in weights)
