"""Streams, the network's inputs for the same clips, and their definitions (`STREAMS`).

Notation for tensor shapes: N clips, P persons of all clips, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from psptool.schemas.training import StreamName, StreamSettings
from psptool.skeletons.topology import Topology

Quantity = Literal["joint", "motion"]
"""Positions, or their difference to the next recorded frame: zero if the person is absent from either."""


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A host tensor on ``device``. The host does not wait for the copy, nor for earlier work of the device."""
    # A copy from ordinary host memory may wait for the device; one from pinned memory does not.
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


@dataclass(frozen=True)
class Stream:
    """One stream's input for a batch of clips.

    Attributes:
        x: (P, 3, T, V), persons in the order of the clips.
        average: (N, P), weights of the mean over the persons of each clip: ``average @ x`` is (N, …). Rows sum to 1.
        counts: int64 (N,) on the host, number of persons of each clip; None in exported models.
    """

    x: Tensor
    average: Tensor
    counts: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, counts: Tensor) -> Stream:
        """Build a stream.

        Args:
            x: (P, 3, T, V), persons in the order of the clips.
            counts: int64 (N,), number of persons of each clip, on the host.
        """
        owner = torch.arange(len(counts)).repeat_interleave(counts)  # the clip of each person, (P,)
        # (1, P) == (N, 1) -> (N, P)
        one_hot = (owner[None, :] == torch.arange(len(counts))[:, None]).to(torch.get_default_dtype())
        average = one_hot / one_hot.sum(1, keepdim=True)
        return cls(x, to_device(average, x.device), counts)

    def first_person(self, clip: int) -> int:
        """Number of persons in the clips before ``clip``, counted on the host: no step waits for the device."""
        counts = (self.average > 0).sum(1) if self.counts is None else self.counts
        return int(counts[:clip].sum())

    def take(self, clips: Tensor) -> Stream:
        """The stream of the clips with the numbers ``clips``, int64 (n,), in ascending order, and their persons."""
        average = self.average[clips]  # (N, P) -> (n, P)
        persons = average.any(0)  # bool (P,): persons of these clips
        counts = None if self.counts is None else self.counts[clips.cpu()]
        return Stream(self.x[persons], average[:, persons], counts)


Batch = Mapping[str, Stream]
"""Streams of the same N clips by name, in the order of `StreamSettings.names`."""


def take(batch: Batch, clips: Tensor) -> Batch:
    """The batch of the clips with the numbers ``clips``, int64 (n,), in ascending order."""
    return {name: stream.take(clips) for name, stream in batch.items()}


def any_stream(batch: Batch) -> Stream:
    """The first stream. Device and number of clips are the same in all streams."""
    return next(iter(batch.values()))


@dataclass(frozen=True)
class Frames:
    """The sampled frames of P persons.

    Attributes:
        x: (P, T, V, 3), on the device.
        present: bool (P, T), on the host; `x` is zero in absent frames.
        owner: int64 (P,), on the host: the clip of each person.
    """

    x: Tensor
    present: Tensor
    owner: Tensor


Read = Callable[[Quantity], Frames]
"""Gathers positions or motion in the sampled frames. Streams share the result, so it must not be modified."""


@dataclass(frozen=True)
class StreamDefinition:
    """Definition of a stream.

    Attributes:
        make: Function that returns the frames of the stream from arrays of the dataset, the settings and the skeleton.
        content: Description of the values, for the table of inputs in a model card.
        code: NumPy code of the stream (M, T, V, 3) of a clip, for the example in a model card. It assigns to the name
            of the stream, and uses ``clip``, ``present`` (M,), ``frames`` (T,), ``positions`` (M, T, V, 3) and
            ``valid`` (M, T). ``{bones}`` stands for the bones of the skeleton.
        noise: Whether `AugmentSettings.jitter` is added. It is for positions only: at a high frame rate, noise would
            dominate their differences.
    """

    make: Callable[[Read, StreamSettings, Topology], Frames]
    content: Callable[[StreamSettings], str]
    code: Callable[[StreamSettings], str]
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


_RECORDED_MOTION = "motion = clip.motion[present][:, frames]"
_DRAWN_MOTION = """\
motion = np.zeros_like(positions)
both = valid[:, 2:] & valid[:, :-2]
motion[:, 1:-1] = (positions[:, 2:] - positions[:, :-2]) * both[:, :, None, None]"""
_BONE = """\
bone, bones = np.zeros_like(positions), np.array({bones})
bone[:, :, bones[:, 1]] = positions[:, :, bones[:, 1]] - positions[:, :, bones[:, 0]]"""

STREAMS: Mapping[StreamName, StreamDefinition] = {
    "joint": StreamDefinition(
        _joint,
        content=lambda settings: "normalized positions, one entry per person",
        code=lambda settings: "joint = positions.copy()",
        noise=True,
    ),
    "motion": StreamDefinition(
        _motion,
        content=lambda settings: (
            "next frame minus this frame, at the full frame rate"
            if settings.motion == "recorded"
            else "next minus previous sampled frame; zero in the first and last frame"
        ),
        code=lambda settings: _RECORDED_MOTION if settings.motion == "recorded" else _DRAWN_MOTION,
    ),
    "bone": StreamDefinition(
        _bone,
        content=lambda settings: "each joint minus its parent joint; zero for the root",
        code=lambda settings: _BONE,
    ),
}
"""Every stream by name."""


def _from_origin(found: Frames, settings: StreamSettings, topology: Topology) -> Frames:
    """The frames in the coordinate system of `StreamSettings.origin`."""
    if settings.origin == "clip":
        return found
    return replace(found, x=root_relative(found.x, topology.center))


def central_difference(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Next sampled frame minus the previous one; zero where the person is absent from either.

    Args:
        x: (P, T, V, 3), positions, on any device.
        present: bool (P, T), on the host.

    Returns:
        Differences (P, T, V, 3), and bool (P, T), frames that have one.
    """
    # The first and the last frame have no difference: they remain zero.
    known, change = torch.zeros_like(present), torch.zeros_like(x)  # (P, T), (P, T, V, 3)
    known[:, 1:-1] = present[:, 2:] & present[:, :-2]
    change[:, 1:-1] = x[:, 2:] - x[:, :-2]
    return change * to_device(known, x.device)[:, :, None, None], known


def root_relative(x: Tensor, center: int) -> Tensor:
    """Joints relative to the center joint of their frame, (P, T, V, 3) -> (P, T, V, 3).

    The center joint is unchanged, so that its trajectory is kept. Absent frames remain zero.
    """
    relative = x - x[:, :, center : center + 1]  # (P, T, V, 3) - (P, T, 1, 3)
    relative[:, :, center] = x[:, :, center]
    return relative


def bone_vectors(x: Tensor, bones: tuple[tuple[int, int], ...]) -> Tensor:
    """Each joint minus its parent, (P, T, V, 3) -> the same; zero for the root (2s-AGCN, Shi et al. 2019).

    Args:
        x: Positions.
        bones: (parent, child) pairs.
    """
    parents, children = to_device(torch.tensor(bones), x.device).unbind(1)  # (bones,) each
    vectors = torch.zeros_like(x)
    vectors[:, :, children] = x[:, :, children] - x[:, :, parents]
    return vectors
