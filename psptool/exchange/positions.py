"""Converting the positions of a stored clip to another tool's coordinates, and such positions to a prepared clip.

Array shapes: B frames of one person, M persons, T frames, V joints.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.common.text import counted
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.reading import StoredClip
from psptool.formats.readers.base import STATE_UNKNOWN
from psptool.preparation.normalize import normalize
from psptool.preparation.tracks import Persons, Track, fill_missing_joints, place
from psptool.schemas.dataset import PreparationSettings
from psptool.skeletons.keys import ClipKey
from psptool.skeletons.topology import Topology

Coordinates = Literal["recorded", "centred", "normalized"]
"""``recorded``: camera coordinates in metres. ``centred``: camera coordinates relative to the joint above the
center of the first person in its first frame, as in CTR-GCN. ``normalized``: the coordinates of the store."""


def centred_on(topology: Topology) -> int:
    """The joint above the center on the spine: the second joint of NTU's and NW-UCLA's skeletons, as in CTR-GCN."""
    parents = {child: parent for parent, child in topology.bones}
    joint = topology.spine[1]
    while joint in parents and parents[joint] != topology.center:
        joint = parents[joint]
    return joint


def positions(clip: StoredClip, coordinates: Coordinates, topology: Topology) -> NDArray[np.float32]:
    """The positions of a clip, float32 (M, T, V, 3); zero where the person is absent.

    Args:
        clip: The clip.
        coordinates: Coordinate system of the result.
        topology: Joints of the clip.

    Raises:
        RawFormatError: A present person has all joints at exactly zero, which means absence in every format.
    """
    if coordinates == "normalized":
        xyz = clip.joint
    else:
        recorded = clip.recorded()
        if coordinates == "centred":
            recorded -= recorded[0, np.argmax(clip.present[0]), centred_on(topology)]
        recorded[~clip.present] = 0
        xyz = recorded.astype(np.float32)
    if not np.array_equal(seen(xyz), clip.present):
        raise RawFormatError(
            "every joint at zero", clip.name, "a person at the origin", "zeros for absent persons only"
        )
    return xyz


def seen(xyz: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether a person is present, bool (..., T): any coordinate of (..., T, V, 3) is neither zero nor NaN."""
    return np.asarray((np.abs(xyz) > 0).any(axis=(-2, -1)))


def prepared(
    name: str,
    key: ClipKey,
    xyz: NDArray[np.float32],
    coordinates: Coordinates,
    topology: Topology,
    settings: PreparationSettings,
) -> PreparedClip:
    """Convert a clip of another tool's file to a prepared clip.

    Persons who are never present are dropped, and those after the first ``settings.max_persons``. Recorded and centred
    positions are normalized as in a preparation, from the first person; normalized ones are stored unchanged. A joint
    with NaN is missing. A joint at exactly zero is missing in recorded positions only: in the others, zero is a valid
    position.

    Args:
        name: The clip's name.
        key: The numbers in the name.
        xyz: float32 (M, T, V, 3), zero or NaN where the person is absent.
        coordinates: Coordinate system of ``xyz``.
        topology: The dataset's topology.
        settings: Settings of the normalization.

    Raises:
        RawFormatError: The clip contains no body, or positions are infinite or out of range.
    """
    if np.isinf(xyz).any():
        raise RawFormatError("not finite", name, "infinity", "finite positions")
    missing: NDArray[np.bool_] = np.asarray(np.isnan(xyz).any(axis=-1))  # (M, T, V)
    notes: tuple[str, ...] = ()
    if missing.any():
        notes = (f"{counted(int(missing.sum()), 'joint')} with NaN, treated as missing",)
        xyz = np.where(missing[..., None], np.float32(0), xyz)
    if coordinates == "recorded":
        missing = np.logical_not(xyz.any(axis=-1))
    present = seen(xyz)
    persons_seen = np.flatnonzero(present.any(axis=1)).tolist()
    tracks = [_track(n, xyz[n], present[n], missing[n], topology) for n in persons_seen]
    if not tracks:
        raise RawFormatError(
            "no body", name, f"{counted(xyz.shape[1], 'frame')} without a body", "at least one body"
        )
    most = settings.max_persons
    if len(tracks) > most:
        notes = (*notes, f"{counted(len(tracks), 'person')}; the first {most} were kept")
    persons = place(tracks[:most], xyz.shape[1])
    persons = persons._replace(notes=(*notes, *persons.notes))
    if coordinates == "normalized":
        return _as_it_is(name, key, persons)
    return normalize(name, key, persons, topology, settings)


def _track(
    number: int,
    xyz: NDArray[np.float32],
    present: NDArray[np.bool_],
    missing: NDArray[np.bool_],
    topology: Topology,
) -> Track:
    """The frames in which a person is present, as a track. Missing joints are interpolated and get state 0."""
    frames = np.flatnonzero(present).astype(np.int32)
    state = np.full((len(frames), xyz.shape[1]), STATE_UNKNOWN, np.uint8)
    # (T, V, 3) -> (B, V, 3); (T, V) -> (B, V)
    track = Track(number, frames, np.ascontiguousarray(xyz[frames]), state)
    return fill_missing_joints(track, topology, missing[frames])


def _as_it_is(name: str, key: ClipKey, persons: Persons) -> PreparedClip:
    """A prepared clip with unchanged positions: origin 0, scale 1, and the identity as rotation."""
    nowhere, upright = np.zeros(3), np.eye(3)
    return PreparedClip(
        name,
        key,
        persons.xyz,
        persons.present,
        persons.state,
        nowhere,
        1.0,
        upright,
        persons.notes,
        persons.interpolated,
    )
