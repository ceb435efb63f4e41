"""How much memory a training step takes, and how far a recipe's settings must go down for it to take less.

An estimate from sizes alone: what the forward pass keeps for the backward pass, which is nearly all of it, and the
weights with what the optimizer keeps of them. Left out: the clips themselves, the backward pass's own tensors, the
contrast's matrix of pool clips by pool clips, and what libraries take for themselves.

Notation for tensor shapes: V joints, T frames, C channels, S heads, d width of a head, G groups of a pyramid level.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from psptool.model.pose import BLOCKS
from psptool.schemas.recipes import resolve
from psptool.schemas.training import ModelSettings, TrainingConfig

MINIMUM = {"optim.unlabelled": 2, "optim.labelled": 1, "sampling.frames": 1}
"""The settings that memory grows with, without another network, and their least values."""
GROUPS = {"body": 5, "part": 10}
"""G of the pyramid's coarse levels; the joint level has V."""


@dataclass(frozen=True)
class StepMemory:
    """The memory of a training's steps, as a function of its recipe.

    Attributes:
        joints: V.
        persons: Mean number of persons per clip.
        parameters: Number of the network's weights.
        itemsize: Bytes per value of the forward pass.
        processes: Among which the clips of a step are dealt.
    """

    joints: int
    persons: float
    parameters: int
    itemsize: int = 4
    processes: int = 1

    def bytes(self, recipe: TrainingConfig) -> float:
        """Estimate of what one step of ``recipe`` takes in one process."""
        model, frames = recipe.model, recipe.sampling.frames
        clips = recipe.optim.labelled + recipe.optim.unlabelled * recipe.needs_pool
        persons = math.ceil(clips / self.processes) * (2 if model.absent_persons == "zeros" else self.persons)
        encoded, left = _encoder_values(model, self.joints, frames)
        pyramid = _pyramid_values(model, self.joints, left) if recipe.contrast_levels else 0
        per_person = 2 * (encoded + pyramid) + _pose_values(model, self.joints, frames)
        # Gradients, the optimizer's one or two means, the teacher's copy: float32.
        copies = 1 + (2 if recipe.optim.kind == "adamw" else 1) + recipe.has_teacher
        return persons * per_person * self.itemsize + copies * self.parameters * 4

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
        used = [name for name in MINIMUM if recipe.needs_pool or name != "optim.unlabelled"]
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


def _encoder_values(model: ModelSettings, joints: int, frames: int) -> tuple[int, int]:
    """Values that the encoder keeps for one person and stream, and the frames that it leaves."""
    inputs, heads = model.channels[0], model.heads
    values = 2 * joints * frames * inputs  # the input map's product, and its batch norm's output
    for outputs, inter, stride in zip(model.channels, model.inter, model.strides, strict=True):
        left = -(-frames // stride)
        widened, strided = inputs != outputs, stride != 1
        # The block's input and its encoded form, q and k; per head one share of the spatial convolution.
        values += joints * frames * (2 * inputs + 2 * heads * inter + heads * outputs)
        # Inputs of batch norm, activation and the convolution after it, for both convolutions and their residuals.
        values += joints * frames * outputs * (2 * 3 + 2 * widened)
        # The same of the temporal convolution; the activation's output is the next block's input.
        values += joints * left * outputs * (2 + 2 * strided)
        values += 3 * heads * joints**2  # attention: tanh, product with alpha, sum
        inputs, frames = outputs, left
    return values, frames


def _pyramid_values(model: ModelSettings, joints: int, frames: int) -> int:
    """Values that the pyramid keeps for one person and stream; ``frames`` are the encoder's."""
    channels, heads = model.channels[-1], model.heads
    groups = [GROUPS.get(level, joints) for level in model.levels]
    # Of each group: its features, q, k and v, what was gathered, batch norm's and the activation's input.
    return sum(7 * size * frames * channels + 3 * heads * size**2 for size in groups)


def _pose_values(model: ModelSettings, joints: int, frames: int) -> int:
    """Values that the pose branch keeps for one person; it sees the joint stream alone."""
    width = model.pose_width
    if not width:
        return 0
    values = frames * (2 * 6 * joints + 3 * width)
    for _ in range(BLOCKS):
        values += 7 * frames * width
        frames = -(-frames // 2)
    return values
