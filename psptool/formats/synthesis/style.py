"""Building blocks of the actions: timing and amplitude of one performance, and movements shared by several actions.

Angles are in degrees; bones are named as in `psptool.formats.synthesis.bodies`. Array shapes: T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psptool.formats.synthesis.bodies import CHEST, FOOT, SHIN, SPINE, THIGH, Array, Pose

LEFT, RIGHT = 0, 1


@dataclass(frozen=True)
class Style:
    """Timing and amplitude of one performance.

    Attributes:
        u: (T,), normalized time of the clip, from 0 to 1.
        seconds: Duration of the clip.
        start: Start of the action, in normalized time.
        stop: End of the action, in normalized time.
        size: Amplitude of the movement relative to the usual one.
        rate: Frequency of repeated movements, in Hz.
        phase: Initial phase of repeated movements, in radians.
        rng: Random generator for further variation.
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
        """(T,): 1 during the action and 0 outside of it, with smooth transitions of length ``ease``."""
        return self.rise(self.start, self.start + ease) - self.rise(self.stop - ease, self.stop)

    def rise(self, begin: float, end: float) -> Array:
        """(T,): smooth transition (smoothstep) from 0 at ``begin`` to 1 at ``end``, in normalized time."""
        x = np.clip((self.u - begin) / max(end - begin, 1e-6), 0, 1)
        return x * x * (3 - 2 * x)

    def at(self, share: float) -> float:
        """The normalized time of the clip at the fraction ``share`` of the action."""
        return self.start + share * (self.stop - self.start)

    def stage(self, begin: float, end: float) -> Array:
        """`rise` between two fractions of the action."""
        return self.rise(self.at(begin), self.at(end))

    def swing(self, speed: float = 1.0) -> Array:
        """(T,): sine of the repeated movement, from -1 to 1."""
        return np.sin(self.angle(speed))

    def beats(self, speed: float = 1.0) -> Array:
        """(T,): from 0 to 1 and back, once per repetition."""
        return (1 - np.cos(self.angle(speed))) / 2

    def angle(self, speed: float = 1.0) -> Array:
        """(T,): phase of the repeated movement in radians."""
        return 2 * np.pi * self.rate * speed * self.seconds * (self.u - self.start) + self.phase

    def draw(self, low: float, high: float) -> float:
        """A uniform random number between ``low`` and ``high``."""
        return float(self.rng.uniform(low, high))


Act = Callable[[list[Pose], Style], None]


@dataclass(frozen=True)
class Action:
    """An action.

    Attributes:
        act: Function that adds the movement to the poses of a performance.
        persons: Number of persons, 1 or 2.
        seconds: Minimum and maximum duration of a clip.
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
