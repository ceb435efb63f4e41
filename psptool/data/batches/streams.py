"""What a batch is: the two streams of the same clips, as the network takes them.

Notation for tensor shapes: N clips, P persons of all clips, T frames, V joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """One stream's input for a batch of clips.

    Attributes:
        x: (P, 3, T, V), positions or motion.
        average: (N, P), the weights that turn persons into clips; each row sums to 1 over its clip's persons.
        counts: int64 (N,) on the host, persons of each clip, which stand clip by clip; None where nobody needs it, as
            in an exported model.
    """

    x: Tensor
    average: Tensor
    counts: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, counts: Tensor) -> Stream:
        """The stream of persons ``x`` (P, 3, T, V), clip by clip, of which ``counts``, int64 (N,), belong to each."""
        owner = torch.arange(len(counts)).repeat_interleave(counts)  # (P,)
        one_hot = (owner[None, :] == torch.arange(len(counts))[:, None]).to(
            torch.get_default_dtype()
        )  # (N, P)
        average = one_hot / one_hot.sum(1, keepdim=True)
        return cls(x, average.to(x.device, non_blocking=True), counts)

    def first_person(self, clip: int) -> int:
        """How many persons stand before those of the clip numbered ``clip``.

        Counted on the host, so that no step waits for the device.
        """
        counts = (self.average > 0).sum(1) if self.counts is None else self.counts
        return int(counts[:clip].sum())

    def take(self, clips: Tensor) -> Stream:
        """The clips with the numbers ``clips``, int64 (n,), in that order, and their persons alone."""
        average = self.average[clips]
        persons = average.any(0)
        counts = None if self.counts is None else self.counts[clips.cpu()]
        return Stream(self.x[persons], average[:, persons], counts)


@dataclass(frozen=True)
class Streams:
    """Both streams of the same N clips."""

    joint: Stream
    motion: Stream

    def take(self, clips: Tensor) -> Streams:
        """Both streams of the clips with the numbers ``clips``, int64 (n,)."""
        return Streams(self.joint.take(clips), self.motion.take(clips))
