"""From camera coordinates to the body's own: one shift, scale and rotation a clip, for all its persons.

The steps are those of PSP Learning's released preprocessing (Xu and Shu, arXiv 2302.02327), taken from the
leading person's first present frames. Everything is computed in float64 and stored as float32; the transform
is kept, so that recorded = joint * scale @ rotation + origin.

Notation for array shapes: P frames in which the leading person is present, M persons, T frames, V joints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.errors import RawFormatError
from psptool.prepare.tracks import Persons
from psptool.schemas.dataset import PreparationSettings
from psptool.skeletons.datasets import ClipKey
from psptool.skeletons.topology import Topology
from psptool.store.arrays import PreparedClip

Vector = Sequence[float]

# Under float32's resolution at the sensor's range (a bone) and under what rounding leaves of parallel lines
# (a share).
SHORTEST_BONE = 1e-6
LEAST_ACROSS = 1e-5
# Far beyond any body; differences of such numbers are still finite in float32.
LARGEST_POSITION = 1e9
UNSCALED = "the reference bone has no length in any frame; scale is 1"
NO_SPINE = "the spine has no direction; the camera's axes are kept"
NO_ACROSS = "the line across the body has no direction of its own; x is taken from the camera's axes"


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
    everywhere = bool(persons.present.all())
    leading = persons.xyz[0] if everywhere else persons.xyz[0, persons.present[0]]
    transform = find_transform(leading, topology, settings)
    joint = apply(persons.xyz, transform)
    if not everywhere:
        joint[~persons.present] = 0
    largest = float(np.abs(joint).max())
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
    )


def apply(xyz: NDArray[np.float32], transform: Transform) -> NDArray[np.float32]:
    """Recorded positions (..., 3) in metres, as normalized ones of the same shape."""
    # One long row an axis: several times as fast as rows of three.
    centred = np.subtract(xyz.reshape(-1, 3).T, transform.origin[:, None], dtype=np.float64, order="C")
    turned = (transform.rotation / transform.scale) @ centred
    result = np.empty((turned.shape[1], 3), np.float32)
    with np.errstate(over="ignore"):  # `normalize` refuses what float32 cannot hold
        result[:] = turned.T
    return result.reshape(xyz.shape)


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
    origin = leading[0, topology.center].astype(np.float64)
    scale = _spine_length(leading, topology.spine)
    notes: tuple[str, ...] = () if scale > 0 else (UNSCALED,)
    scale = scale or 1.0
    if settings.align == "none":
        return Transform(origin, scale, np.eye(3), notes)
    across = topology.shoulders if settings.align == "body" else topology.released_across
    frames = settings.align_frames if settings.align == "body" else 1
    ends = leading[:frames, [*topology.spine, *across]]
    # A mean of differences is a difference of means; single vectors are quickest in plain Python.
    low, high, start, end = ends.mean(axis=0, dtype=np.float64).tolist()
    rotation, note = axes(_minus(high, low), _minus(end, start))
    return Transform(origin, scale, np.array(rotation), (*notes, note) if note else notes)


def axes(spine: Vector, across: Vector) -> tuple[tuple[Vector, Vector, Vector], str | None]:
    """The rotation's rows x, y, z: z along ``spine``, x along the part of ``across`` orthogonal to it.

    Turning the spine onto z and then, about z, the horizontal part of ``across`` onto x is this rotation and
    no other, so that the released code's two turns need no form of their own.

    Returns:
        The axes, and a note where a line was too short to give a direction.
    """
    length = math.hypot(*spine)
    if length < SHORTEST_BONE:
        return ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), NO_SPINE
    z = _times(1 / length, spine)
    sideways = _minus(across, _times(_dot(across, z), z))
    note = None
    if math.hypot(*sideways) < max(SHORTEST_BONE, LEAST_ACROSS * math.hypot(*across)):
        note = NO_ACROSS
        # The camera's x, or its y where the spine lies nearly along x.
        stand_in = (1.0, 0.0, 0.0) if abs(z[0]) < 0.9 else (0.0, 1.0, 0.0)
        sideways = _minus(stand_in, _times(_dot(stand_in, z), z))
    x = _times(1 / math.hypot(*sideways), sideways)
    # Rounding grows with the share that the first subtraction left; a second one makes x orthogonal to full
    # precision.
    x = _minus(x, _times(_dot(x, z), z))
    x = _times(1 / math.hypot(*x), x)
    y = (z[1] * x[2] - z[2] * x[1], z[2] * x[0] - z[0] * x[2], z[0] * x[1] - z[1] * x[0])
    return (x, y, z), note


def _spine_length(leading: NDArray[np.float32], spine: tuple[int, int]) -> float:
    """Metres, in the first frame where there is any; else 0."""
    low, high = leading[0, spine[0]].tolist(), leading[0, spine[1]].tolist()
    length = math.dist(low, high)
    if length >= SHORTEST_BONE:
        return length
    lines = leading[:, spine[1]].astype(np.float64) - leading[:, spine[0]]
    lengths = np.sqrt((lines**2).sum(axis=1))
    longer = lengths[lengths >= SHORTEST_BONE]
    return float(longer[0]) if len(longer) else 0.0


def _minus(a: Vector, b: Vector) -> Vector:
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def _times(factor: float, a: Vector) -> Vector:
    return (factor * a[0], factor * a[1], factor * a[2])


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
