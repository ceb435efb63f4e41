"""How an action is written: the timing and size of one performance, and what several actions share.

Angles are in degrees, on bones as `psptool.formats.synthesis.bodies` names them. Array shape: T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psptool.formats.synthesis.bodies import CHEST, FOOT, SHIN, SPINE, THIGH, Array, Pose

LEFT, RIGHT = 0, 1


@dataclass(frozen=True)
class Style:
    """How one performance is done.

    Attributes:
        u: (T,), time in the clip from 0 to 1.
        seconds: The clip's length.
        start: When the action begins, as u.
        stop: When it ends.
        size: How far the limbs go; 1 is usual.
        rate: Repetitions a second of what repeats.
        phase: Radians, where repetition begins.
        rng: For what the action varies besides.
    """

    u: Array
    seconds: float
    start: float
    stop: float
    size: float
    rate: float
    phase: float
    rng: np.random.Generator

    def during(self, ease: float = 0.16) -> Array:
        """(T,), 0 before the action, 1 in it, 0 after it, with soft edges of ``ease`` in u."""
        return self.rise(self.start, self.start + ease) - self.rise(self.stop - ease, self.stop)

    def rise(self, begin: float, end: float) -> Array:
        """(T,), from 0 at ``begin`` softly to 1 at ``end``."""
        x = np.clip((self.u - begin) / max(end - begin, 1e-6), 0, 1)
        return x * x * (3 - 2 * x)

    def at(self, share: float) -> float:
        """The u at ``share`` of the action's own time."""
        return self.start + share * (self.stop - self.start)

    def stage(self, begin: float, end: float) -> Array:
        """`rise` between shares of the action's own time."""
        return self.rise(self.at(begin), self.at(end))

    def swing(self, speed: float = 1.0) -> Array:
        """(T,), a sine of the repetition, -1 to 1."""
        return np.sin(self.angle(speed))

    def beats(self, speed: float = 1.0) -> Array:
        """(T,), 0 to 1 and back, once a repetition."""
        return (1 - np.cos(self.angle(speed))) / 2

    def angle(self, speed: float = 1.0) -> Array:
        """(T,), radians of the repetition."""
        return 2 * np.pi * self.rate * speed * self.seconds * (self.u - self.start) + self.phase

    def draw(self, low: float, high: float) -> float:
        """A random number for this performance."""
        return float(self.rng.uniform(low, high))


Act = Callable[[list[Pose], Style], None]


@dataclass(frozen=True)
class Action:
    """One row of the table of actions.

    Attributes:
        act: Bends the poses of a performance.
        persons: One or two.
        seconds: Shortest and longest clip.
    """

    act: Act
    persons: int = 1
    seconds: tuple[float, float] = (1.6, 2.8)


def legs(pose: Pose, thigh: Array, shin: Array, sides: tuple[int, ...] = (LEFT, RIGHT)) -> None:
    """Bend hips and knees, and the ankles so that the feet stay level."""
    for side in sides:
        pose.turn(THIGH[side], flex=thigh)
        pose.turn(SHIN[side], flex=shin)
        pose.turn(FOOT[side], flex=shin - thigh)


def bow_trunk(pose: Pose, degrees: Array) -> None:
    """Bend the trunk forward, over both parts of the spine."""
    pose.turn(SPINE, flex=0.6 * degrees)
    pose.turn(CHEST, flex=0.4 * degrees)
