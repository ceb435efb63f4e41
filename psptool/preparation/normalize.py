"""Normalization from camera coordinates to body coordinates: one translation, scale and rotation per clip.

The steps follow PSP Learning's released preprocessing (Xu and Shu, arXiv 2302.02327). The transform is found from the
frames in which the first person is present, and applied to all persons. Values are computed in float64 and
stored as float32. The transform is stored with the clip: recorded = joint * scale @ rotation + origin.

Array shapes: P frames in which the first person is present, M persons, T frames, V joints.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.data.store.arrays import PreparedClip
from psptool.preparation import kernel
from psptool.preparation.planar import find_planar_transform
from psptool.preparation.tracks import Persons
from psptool.schemas.dataset import PreparationSettings
from psptool.skeletons.keys import ClipKey
from psptool.skeletons.topology import Topology

# Far beyond any real position, while differences of such numbers (the motion stream) are still finite in float32.
LARGEST_POSITION = 1e9
FAR = 100
"""Metres. A depth camera sees 10 m: coordinates beyond it are noted, because they are probably millimetres."""
UNIT_SHARE = 0.1
"""``robust``: the unit as a fraction of the summed length of all bones. It is about the length of the spine."""
UNSCALED = "the reference length is zero in every frame; scale is 1"
NO_SPINE = "the line along the body has zero length; the camera axes are kept"
NO_ACROSS = "the line across the body is parallel to z or has zero length; x is derived from the camera axes"
_NOTES = {kernel.NO_LENGTH: UNSCALED, kernel.NO_SPINE: NO_SPINE, kernel.NO_ACROSS: NO_ACROSS}


class Transform(NamedTuple):
    """A clip's normalization.

    Attributes:
        origin: float64 (3,), metres, camera coordinates.
        scale: Metres per unit.
        rotation: float64 (3, 3), a proper rotation; rows are the body axes in camera coordinates.
        notes: Notes for the report.
    """

    origin: NDArray[np.float64]
    scale: float
    rotation: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def normalize(
    name: str, key: ClipKey, persons: Persons, topology: Topology, settings: PreparationSettings
) -> PreparedClip:
    """Normalize a clip to the axes of ``settings.align``; in 2D, to root and torso (`psptool.preparation.planar`).

    Raises:
        RawFormatError: A normalized coordinate is `LARGEST_POSITION` or larger.
    """
    there = persons.present[0]  # (T,)
    # (M, T, V, 3) -> (P, V, 3). A view without a copy in the usual case that the first person is always present.
    leading = persons.xyz[0] if there.all() else persons.xyz[0, there]
    is_flat = topology.dimensions == 2  # in pixels, or in another unit
    transform = _planar(leading, topology) if is_flat else find_transform(leading, topology, settings)
    joint = np.empty_like(persons.xyz)  # float32 (M, T, V, 3)
    # All persons share the first person's transform, which keeps their relative positions.
    largest = kernel.apply_transform(persons.xyz, persons.present, *transform[:3], joint)
    if not largest < LARGEST_POSITION:
        raise RawFormatError("positions out of range", name, f"{largest:.3g} times the scale", "metres")
    far = farthest(persons) if largest * transform.scale + np.abs(transform.origin).max() > FAR / 2 else 0.0
    said = (
        (f"coordinates of up to {far:.4g} m: more than {FAR} m, so perhaps not in metres",)
        if far > FAR and not is_flat
        else ()
    )
    return PreparedClip(
        name,
        key,
        joint,
        persons.present,
        persons.state,
        transform.origin,
        transform.scale,
        transform.rotation,
        (*persons.notes, *transform.notes, *said),
        persons.interpolated,
        persons.tracks,
    )


def _planar(leading: NDArray[np.float32], topology: Topology) -> Transform:
    origin, unit = find_planar_transform(leading, topology)
    return Transform(origin, unit or 1.0, np.eye(3), () if unit else (UNSCALED,))


def farthest(persons: Persons) -> float:
    """The largest absolute coordinate of the persons who are present, metres."""
    return float(np.abs(persons.xyz[persons.present]).max(initial=0))


def find_transform(
    leading: NDArray[np.float32], topology: Topology, settings: PreparationSettings
) -> Transform:
    """Find the normalization of a clip from its first person.

    The origin is the center joint in the first frame. Unit and axes depend on ``settings.align``:

    - ``body``: z along the spine, x along the shoulder line made orthogonal to z, both averaged over the first
      ``align_frames`` frames.
    - ``robust``: z along the line from the ankles to the upper end of the spine, averaged over all frames; x along the
      principal direction of the part of the shoulder line that is orthogonal to z, over all frames.
    - ``released``: as ``body`` from the first frame only, with x from the line that the original implementation uses.
    - ``none``: the camera axes.

    The unit of ``robust`` is `UNIT_SHARE` of the summed length of all bones, the median over up to 32 evenly spaced
    frames. The unit of the others is the length of the spine in the first frame in which it is not zero.

    Args:
        leading: float32 (P, V, 3), metres, frames in which the first person is present.
        topology: The joints that define origin, unit and axes.
        settings: ``align`` and ``align_frames``.
    """
    origin, rotation = np.empty(3), np.eye(3)
    if settings.align == "robust":
        top, bones = topology.spine[1], _bones(topology.bones)
        joints = (topology.center, top, topology.ankles, topology.shoulders, bones)
        scale, lacking = kernel.find_robust_transform(leading, *joints, UNIT_SHARE, origin, rotation)
    else:
        across = topology.shoulders if settings.align == "body" else topology.released_across
        frames = {"body": settings.align_frames, "released": 1, "none": 0}[settings.align]
        scale, lacking = kernel.find_transform(
            leading, topology.center, topology.spine, across, frames, origin, rotation
        )
    notes = tuple(note for flag, note in _NOTES.items() if flag & lacking) if lacking else ()
    return Transform(origin, scale, rotation, notes)


@cache
def _bones(pairs: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
    """Bones as int64 (V - 1, 2)."""
    return np.array(pairs, np.int64)
