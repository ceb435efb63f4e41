"""A batch: by stream name the network's input for the same clips. Every stream is defined here, in `STREAMS`.

Notation for tensor shapes: N clips, P persons of all clips, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from psptool.data.skeletons.topology import Topology
from psptool.schemas.training import StreamName, StreamSettings

Quantity = Literal["joint", "motion"]
"""Positions, or their difference to the next recorded frame: zero if the person is absent from either."""


@dataclass(frozen=True)
class Stream:
    """One stream's input for a batch of clips.

    Attributes:
        x: (P, 3, T, V).
        average: (N, P), the weights that turn persons into clips; each row sums to 1 over its clip's persons.
        counts: int64 (N,) on the host, persons of each clip, clip by clip; None where it is not needed, as in an
            exported model.
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
        """Number of persons in the clips before ``clip``.

        Counted on the host, so that no step waits for the device.
        """
        counts = (self.average > 0).sum(1) if self.counts is None else self.counts
        return int(counts[:clip].sum())

    def take(self, clips: Tensor) -> Stream:
        """Only the clips with the numbers ``clips``, int64 (n,), in that order, and their persons."""
        average = self.average[clips]
        persons = average.any(0)
        counts = None if self.counts is None else self.counts[clips.cpu()]
        return Stream(self.x[persons], average[:, persons], counts)


Batch = Mapping[str, Stream]
"""By stream name the input for the same N clips, in the order of `StreamSettings.names`."""


def take(batch: Batch, clips: Tensor) -> Batch:
    """Only the clips with the numbers ``clips``, int64 (n,), of every stream."""
    return {name: stream.take(clips) for name, stream in batch.items()}


def any_stream(batch: Batch) -> Stream:
    """The first stream, for what all streams share: the device and the number of clips."""
    return next(iter(batch.values()))


@dataclass(frozen=True)
class Frames:
    """The sampled frames of P persons.

    Attributes:
        x: (P, T, V, 3), on the device.
        present: bool (P, T), on the host; elsewhere `x` is zero.
        owner: int64 (P,), on the host: the clip of each person.
    """

    x: Tensor
    present: Tensor
    owner: Tensor


Read = Callable[[Quantity], Frames]
"""Gathers positions or motion in the sampled frames."""


@dataclass(frozen=True)
class StreamDefinition:
    """How one stream is made.

    Attributes:
        make: The stream's frames from what it reads, the settings and the skeleton.
        noise: Whether `AugmentSettings.jitter` is added. Noise is for positions: at a high frame rate it would
            drown their differences.
    """

    make: Callable[[Read, StreamSettings, Topology], Frames]
    noise: bool = False


def _joint(read: Read, settings: StreamSettings, topology: Topology) -> Frames:
    """Positions."""
    return _from_origin(read("joint"), settings, topology)


def _motion(read: Read, settings: StreamSettings, topology: Topology) -> Frames:
    """Differences over time."""
    if settings.motion == "recorded":
        found = read("motion")
    else:
        found = read("joint")
        x, present = central_difference(found.x, found.present)
        found = replace(found, x=x, present=present)
    return _from_origin(found, settings, topology)


def _bone(read: Read, settings: StreamSettings, topology: Topology) -> Frames:
    """Each joint relative to its parent; the same for both values of `StreamSettings.origin`."""
    found = read("joint")
    return replace(found, x=bone_vectors(found.x, topology.bones))


STREAMS: Mapping[StreamName, StreamDefinition] = {
    "joint": StreamDefinition(_joint, noise=True),
    "motion": StreamDefinition(_motion),
    "bone": StreamDefinition(_bone),
}
"""Every stream by name."""


def _from_origin(found: Frames, settings: StreamSettings, topology: Topology) -> Frames:
    if settings.origin == "clip":
        return found
    return replace(found, x=root_relative(found.x, topology.center))


def central_difference(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Next sampled frame minus the previous one; zero where the person is absent from either.

    Args:
        x: (P, T, V, 3), positions, on any device.
        present: bool (P, T), on the host.

    Returns:
        (P, T, V, 3), and bool (P, T), where it is a difference.
    """
    known, change = torch.zeros_like(present), torch.zeros_like(x)
    known[:, 1:-1] = present[:, 2:] & present[:, :-2]
    change[:, 1:-1] = x[:, 2:] - x[:, :-2]
    return change * known[:, :, None, None].to(x.device, non_blocking=True), known


def root_relative(x: Tensor, center: int) -> Tensor:
    """Joints (P, T, V, 3) relative to the center joint of their frame; the center joint itself is unchanged.

    Absent frames, which are zero, stay zero.
    """
    moved = x - x[:, :, center : center + 1]
    moved[:, :, center] = x[:, :, center]
    return moved


def bone_vectors(x: Tensor, bones: tuple[tuple[int, int], ...]) -> Tensor:
    """Each joint minus its parent, (P, T, V, 3) -> the same; zero for the root (2s-AGCN, Shi et al. 2019).

    Args:
        x: Positions.
        bones: (parent, child) pairs.
    """
    parents, children = (list(joints) for joints in zip(*bones, strict=True))
    vectors = torch.zeros_like(x)
    vectors[:, :, children] = x[:, :, children] - x[:, :, parents]
    return vectors
