"""From camera coordinates to the body's own: one shift, scale and rotation a clip, for all its persons.

The steps are those of PSP Learning's released preprocessing (Xu and Shu, arXiv 2302.02327), taken from the
leading person's first present frames. Everything is computed in float64 and stored as float32; the transform
is kept, so that recorded = joint * scale @ rotation + origin.

Notation for array shapes: P frames in which the leading person is present, M persons, T frames, V joints.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.data.skeletons.datasets import ClipKey
from psptool.data.skeletons.topology import Topology
from psptool.data.store.arrays import PreparedClip
from psptool.preparation import kernel
from psptool.preparation.tracks import Persons
from psptool.schemas.dataset import PreparationSettings

# Far beyond any body; differences of such numbers are still finite in float32.
LARGEST_POSITION = 1e9
UNSCALED = "the reference bone has no length in any frame; scale is 1"
NO_SPINE = "the spine has no direction; the camera's axes are kept"
NO_ACROSS = "the line across the body has no direction of its own; x is taken from the camera's axes"
_NOTES = {kernel.NO_LENGTH: UNSCALED, kernel.NO_SPINE: NO_SPINE, kernel.NO_ACROSS: NO_ACROSS}


class Transform(NamedTuple):
    """A clip's normalization.

    Attributes:
        origin: float64 (3,), metres, camera frame.
        scale: Metres of one unit.
        rotation: float64 (3, 3), a proper rotation; rows are the new axes in camera coordinates.
        notes: What the report should say.
    """

    origin: NDArray[np.float64]
    scale: float
    rotation: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def normalize(
    name: str, key: ClipKey, persons: Persons, topology: Topology, settings: PreparationSettings
) -> PreparedClip:
    """The clip in the axes that ``settings.align`` asks for.

    Raises:
        RawFormatError: Positions lie so far out that float32 cannot hold them.
    """
    there = persons.present[0]
    # Copies nothing where the leading person is there throughout, as nearly always.
    leading = persons.xyz[0] if there.all() else persons.xyz[0, there]
    transform = find_transform(leading, topology, settings)
    joint = np.empty_like(persons.xyz)
    largest = kernel.apply_transform(persons.xyz, persons.present, *transform[:3], joint)
    if not largest < LARGEST_POSITION:
        raise RawFormatError("positions out of range", name, f"{largest:.3g} times the scale", "metres")
    return PreparedClip(
        name,
        key,
        joint,
        persons.present,
        persons.state,
        transform.origin,
        transform.scale,
        transform.rotation,
        (*persons.notes, *transform.notes),
        persons.interpolated,
        persons.tracks,
    )


def find_transform(
    leading: NDArray[np.float32], topology: Topology, settings: PreparationSettings
) -> Transform:
    """The normalization of a clip from its leading person.

    The origin is the center joint in the first frame, the unit the length of the spine in the first frame
    where it has one. ``body`` takes z along the spine and x along the shoulder line, made orthogonal to z,
    both averaged over the first `align_frames` frames; ``released`` takes them from the first frame alone,
    and x from the line that the released code uses; ``none`` keeps the camera's axes and still centres and
    scales.

    Args:
        leading: float32 (P, V, 3), metres, the leading person's present frames.
        topology: The joints that define origin, unit and axes.
        settings: `align` and `align_frames`.
    """
    across = topology.shoulders if settings.align == "body" else topology.released_across
    frames = {"body": settings.align_frames, "released": 1, "none": 0}[settings.align]
    origin, rotation = np.empty(3), np.eye(3)
    scale, lacking = kernel.find_transform(
        leading, topology.center, topology.spine, across, frames, origin, rotation
    )
    notes = tuple(note for flag, note in _NOTES.items() if flag & lacking) if lacking else ()
    return Transform(origin, scale, rotation, notes)
