"""A stored clip's positions as another tool's file has them, and such positions as a stored clip.

Notation for array shapes: M persons, T frames, V joints.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.data.skeletons.datasets import ClipKey
from psptool.data.skeletons.topology import Topology
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.reading import StoredClip
from psptool.formats.readers.base import STATE_UNKNOWN
from psptool.preparation.interpolation import fill_missing
from psptool.preparation.normalize import normalize
from psptool.preparation.tracks import Persons, Track, place
from psptool.schemas.dataset import PreparationSettings

Coordinates = Literal["recorded", "centred", "normalized"]
"""The camera's, in metres; the camera's, from the leading person's second joint in its first frame, as CTR-GCN
prepares them; the store's own."""

_CENTRED_ON = 1
"""The second joint is the middle of the spine in both topologies."""


def positions(clip: StoredClip, coordinates: Coordinates) -> NDArray[np.float32]:
    """A clip's positions, float32 (M, T, V, 3); zero where a person is absent.

    Raises:
        RawFormatError: A person who is there has every joint at exactly zero, which means absence in each format.
    """
    if coordinates == "normalized":
        xyz = clip.joint
    else:
        recorded = clip.recorded()
        if coordinates == "centred":
            recorded -= recorded[0, np.argmax(clip.present[0]), _CENTRED_ON]
        recorded[~clip.present] = 0
        xyz = recorded.astype(np.float32)
    if not np.array_equal(seen(xyz), clip.present):
        raise RawFormatError("every joint at zero", clip.name, "a person in the origin", "absence to be told")
    return xyz


def seen(xyz: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where somebody is, bool (..., T), in positions (..., T, V, 3): where a joint is neither at zero nor NaN."""
    return np.asarray((np.abs(xyz) > 0).any(axis=(-2, -1)))


def prepared(
    name: str,
    key: ClipKey,
    xyz: NDArray[np.float32],
    coordinates: Coordinates,
    topology: Topology,
    settings: PreparationSettings,
) -> PreparedClip:
    """A clip of another tool's file as the store takes it; persons who are never seen are left out, and those after
    ``settings.max_persons``.

    Recorded and centred positions are normalized as those of raw clips are, and the first person leads.
    Normalized ones are stored as they are. A joint with a NaN is missing, and one at exactly zero only in recorded
    positions: in the others it is where a joint may well be.

    Args:
        name: The clip's name.
        key: What the name says.
        xyz: float32 (M, T, V, 3), zero or NaN where a person is absent.
        coordinates: What they are.
        topology: The dataset's joints.
        settings: How recorded and centred positions are normalized.

    Raises:
        RawFormatError: Nobody is in the clip, or positions are infinite or out of range.
    """
    if np.isinf(xyz).any():
        raise RawFormatError("not finite", name, "infinity", "positions")
    missing: NDArray[np.bool_] = np.asarray(np.isnan(xyz).any(axis=-1))
    notes: tuple[str, ...] = ()
    if missing.any():
        notes = (f"{missing.sum()} joints at NaN; they are missing",)
        xyz = np.where(missing[..., None], np.float32(0), xyz)
    if coordinates == "recorded":
        missing = np.logical_not(xyz.any(axis=-1))
    present = seen(xyz)
    persons_seen = np.flatnonzero(present.any(axis=1)).tolist()
    tracks = [_track(n, xyz[n], present[n], missing[n], topology) for n in persons_seen]
    if not tracks:
        raise RawFormatError("no body", name, f"{xyz.shape[1]} frames without a body", "at least one body")
    most = settings.max_persons
    if len(tracks) > most:
        notes = (*notes, f"{len(tracks)} persons; the first {most} stay")
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
    """A person's frames in which it is seen, with a position of state 0 for each missing joint."""
    frames = np.flatnonzero(present).astype(np.int32)
    state = np.full((len(frames), xyz.shape[1]), STATE_UNKNOWN, np.uint8)
    own, gaps = np.ascontiguousarray(xyz[frames]), missing[frames]
    if not gaps.any():
        return Track(number, frames, own, state)
    filled, unseen = fill_missing(frames, own, gaps, topology)
    state[gaps] = 0
    notes = tuple(
        f"joint {topology.joints[v]!r} is missing in every frame; put where its nearest neighbour is"
        for v in unseen
    )
    return Track(number, frames, filled, state, int(gaps.sum()), notes)


def _as_it_is(name: str, key: ClipKey, persons: Persons) -> PreparedClip:
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
