"""What a batch is: the two streams of the same clips, as the network takes them.

Notation for tensor shapes: N clips, P persons of all clips, T frames, V joints.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """One stream's input for a batch of clips.

    Attributes:
        x: (P, 3, T, V), positions or motion.
        average: (N, P), the weights that turn persons into clips; each row sums to 1 over its clip's persons.
    """

    x: Tensor
    average: Tensor

    def take(self, clips: Tensor) -> Stream:
        """The clips with the numbers ``clips``, int64 (n,), in that order, and their persons alone."""
        average = self.average[clips]
        persons = average.any(0)
        return Stream(self.x[persons], average[:, persons])


@dataclass(frozen=True)
class Streams:
    """Both streams of the same N clips."""

    joint: Stream
    motion: Stream

    def take(self, clips: Tensor) -> Streams:
        """Both streams of the clips with the numbers ``clips``, int64 (n,)."""
        return Streams(self.joint.take(clips), self.motion.take(clips))
