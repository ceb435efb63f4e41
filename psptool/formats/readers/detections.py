"""From the positions in a file of a general format to a `RawClip`: joint order, confidence, gaps, and absent bodies.

Array shapes: B body detections (one body in one frame), V joints of the skeleton, J joints of the file, C coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError, RawFormatError, suggest
from psptool.common.text import counted
from psptool.formats.readers.base import STATE_UNKNOWN, ClipSource, RawClip
from psptool.formats.readers.text import LARGEST_FLOAT32, no_body
from psptool.skeletons.topology import Topology

MAX_FRAMES = 2**20
"""Maximum number of frames of a recording: nearly 10 hours at 30 frames per second."""
MOST_MISSING = 50
"""Maximum number of frames per frame with a body; above it, the numbers are probably times."""
MAX_DETECTIONS = 2**19
"""Maximum number of detections after interpolation; about 5 hours of one person at 30 frames per second."""


class Detections(NamedTuple):
    """The bodies in a recording, in any order.

    Attributes:
        number: int64 (B,), frame numbers.
        person: int64 (B,), ids of the persons.
        positions: float (B, V, C), C = 2 or 3; NaN where missing.
    """

    number: NDArray[np.int64]
    person: NDArray[np.int64]
    positions: NDArray[np.floating]


def joint_order(joints: Sequence[str | None], topology: Topology) -> NDArray[np.intp]:
    """For each joint of the skeleton, its index in the file, intp (V,).

    Args:
        joints: The file's joints, by their names in the skeleton, None for others; empty if they are the skeleton's.
        topology: The skeleton.

    Raises:
        PspError: A joint of the skeleton is not in the file.
    """
    if not joints:
        return np.arange(topology.size)
    for joint in topology.joints:
        if joint not in joints:
            raise PspError(
                f"joints: the file has no joint {joint!r} of the skeleton {topology.name}",
                f"{counted(len(joints), 'joint')}: {', '.join(map(str, joints[:5]))}, …",
                fix=suggest(joint, filter(None, joints)) or "Add it, or remove it from the skeleton.",
            )
    return np.array([joints.index(joint) for joint in topology.joints])


def drop_uncertain(
    positions: NDArray[np.floating], confidence: NDArray[np.floating] | None, least: float
) -> None:
    """Set joints to NaN, in place, whose confidence (...,) is NaN or not above ``least``; positions are (..., C)."""
    if confidence is not None:
        positions[~(confidence > least)] = np.nan


def to_clip(
    source: ClipSource,
    where: str,
    detections: Detections,
    max_gap: int,
    frames: tuple[int, int],
    notes: tuple[str, ...] = (),
) -> RawClip:
    """The clip with these bodies. Bodies without any joint are absent; joints in 2D get z = 0.

    Args:
        source: The clip.
        where: The file and the column or key of the frame numbers, for messages.
        detections: The bodies. Several bodies of one person in a frame are different bodies with one id.
        max_gap: Gaps in a person's track of up to this many frames are interpolated.
        frames: First and last frame number of the recording.
        notes: Notes for the report.

    Raises:
        RawFormatError: There is no body, or the frame numbers are too far apart.
    """
    number, person, positions = detections
    first, count = frames[0], frames[1] - frames[0] + 1
    if count > MAX_FRAMES or count > 1000 + MOST_MISSING * len(number):
        found = f"{frames[0]} to {frames[1]}, in {counted(len(number), 'row or frame', 'rows or frames')}"
        raise RawFormatError("frame numbers", where, found, "consecutive frame numbers, not times")
    # A body is there if any of its joints is: the sum of absolute values is NaN or 0 where a joint is missing.
    there = (np.abs(positions).sum(axis=-1) > 0).any(axis=-1)  # (B, V, C) -> (B, V) -> (B,)
    if not there.all():
        number, person, positions = number[there], person[there], positions[there]
    if not len(number):
        raise no_body(source, count)
    # Frames ascending; in a frame, persons in the order of their ids.
    if (np.diff(number) <= 0).any():
        order = np.lexsort((person, number))
        number, person, positions = number[order], person[order], positions[order]
    if max_gap and len(number) < count * len(np.unique(person)):
        number, person, positions = _without_gaps(where, number, person, positions, max_gap)
    bodies, joints, channels = positions.shape
    if channels == 3:
        xyz = positions.astype(np.float32)
    else:
        xyz = np.zeros((bodies, joints, 3), np.float32)
        xyz[..., :channels] = positions
    state = np.full((bodies, joints), STATE_UNKNOWN, np.uint8)
    frame = (number - first).astype(np.int32)
    return RawClip(source.name, source.key, count, frame, person, xyz, state, first, notes)


def require_finite(
    positions: NDArray[np.floating], where: str, axes: Sequence[str], topology: Topology
) -> None:
    """Check that coordinates are NaN or in the range of float32.

    Args:
        positions: float (..., V, C).
        where: The file and the key, for messages.
        axes: Names of the axes before V and C, for messages.
        topology: The V joints.

    Raises:
        RawFormatError: ``not finite``.
    """
    # One pass: comparisons with NaN are false.
    with np.errstate(invalid="ignore"):
        large = np.abs(positions) > LARGEST_FLOAT32
    if large.any():
        place = tuple(map(int, np.argwhere(large)[0]))
        numbers = ", ".join(f"{axis} {n}" for axis, n in zip(axes, place[:-2], strict=True))
        joint, axis = topology.joints[place[-2]], "xyz"[place[-1]]
        found = f"{positions[place]!s} at {numbers} (from 0), {axis} of joint {joint!r}"
        raise RawFormatError(
            "not finite", where, found, "numbers in the range of float32, or NaN for a missing joint"
        )


def _without_gaps(
    where: str,
    number: NDArray[np.int64],
    person: NDArray[np.int64],
    positions: NDArray[np.floating],
    max_gap: int,
) -> Detections:
    """The detections and, in gaps of up to ``max_gap`` frames, bodies interpolated between both ends of the gap."""
    order = np.lexsort((number, person))
    number, person, positions = number[order], person[order], positions[order]
    # Gap between detection n and n + 1, in frames; 0 between different persons and for repeated frames.
    gap = np.where(person[1:] == person[:-1], np.maximum(np.diff(number) - 1, 0), 0)
    gap[gap > max_gap] = 0
    if len(number) + int(gap.sum()) > MAX_DETECTIONS:
        found = f"{len(number)} bodies and {int(gap.sum())} in gaps"
        raise RawFormatError(
            "too large", where, found, f"at most {MAX_DETECTIONS} bodies after interpolation"
        )
    before = np.repeat(np.arange(len(gap)), gap)  # for each new body, the detection before its gap
    step = np.arange(len(before)) - np.repeat(np.cumsum(gap) - gap, gap) + 1  # 1, 2, ... in each gap
    weight = (step / (gap[before] + 1))[:, None, None]
    # Joints that are missing at one end of the gap are missing in it: zero would be read as a position.
    known = np.where((positions != 0).any(axis=-1, keepdims=True), positions, np.nan)
    filled = (1 - weight) * known[before] + weight * known[before + 1]
    number = np.concatenate([number, number[before] + step])
    person = np.concatenate([person, person[before]])
    order = np.lexsort((person, number))
    return Detections(number[order], person[order], np.concatenate([positions, filled])[order])
