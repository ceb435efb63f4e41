"""From body detections to tracks by body id, and from tracks to persons laid out over a clip's frames.

Which tracks are persons is decided in `psptool.preparation.selection`. Gaps in time stay gaps.

Notation for array shapes: B body detections (one body in one frame), M persons, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.data.skeletons.topology import Topology
from psptool.data.store.arrays import TrackNote
from psptool.formats.readers.base import RawClip
from psptool.preparation import kernel
from psptool.preparation.interpolation import fill_missing, is_missing


class Persons(NamedTuple):
    """The persons of a clip as recorded; the first is the leading one.

    Attributes:
        xyz: float32 (M, T, V, 3), metres, camera frame; zero where absent.
        present: bool (M, T).
        state: uint8 (M, T, V); 0 where absent or missing.
        interpolated: Missing joints that were given a position.
        notes: What the report should say.
        tracks: Body tracks that were joined or dropped.
    """

    xyz: NDArray[np.float32]
    present: NDArray[np.bool_]
    state: NDArray[np.uint8]
    interpolated: int = 0
    notes: tuple[str, ...] = ()
    tracks: tuple[TrackNote, ...] = ()


class Track(NamedTuple):
    """One body over time.

    Attributes:
        body: The sensor's id.
        frame: int32 (B,), ascending, each at most once.
        xyz: float32 (B, V, 3), metres.
        state: uint8 (B, V).
        interpolated: Missing joints that were given a position.
        notes: What the report should say.
    """

    body: int
    frame: NDArray[np.int32]
    xyz: NDArray[np.float32]
    state: NDArray[np.uint8]
    interpolated: int = 0
    notes: tuple[str, ...] = ()


class Split(NamedTuple):
    """The detections of a clip by track.

    Attributes:
        tracks: In order of appearance.
        missing: Whether any of their joints may be missing.
        unseen: Detections that are in no track, as fewer than half of their joints are there.
    """

    tracks: list[Track]
    missing: bool
    unseen: int


def split_tracks(clip: RawClip) -> Split:
    """Detections by body id; the k-th detection of one id in one frame belongs to that id's k-th track.

    A body with fewer than half of its joints was not seen, so that its frame is one without it.
    """
    frame, body, xyz, state = clip.frame, clip.body, clip.xyz, clip.state
    owner, ids = np.empty(len(frame), np.int32), np.empty(kernel.MOST_TRACKS, np.int64)
    tracks, missing, unseen = kernel.assign_tracks(frame, body, xyz, owner, ids)
    if tracks < 0:
        found = split_many(clip)
        return Split(found, True, len(frame) - sum(len(track.frame) for track in found))
    if tracks == 1 and not unseen:
        return Split([Track(int(ids[0]), frame, xyz, state)], missing > 0, 0)
    rows = [np.flatnonzero(owner == track) for track in range(tracks)]
    found = [
        Track(one, frame[own], xyz[own], state[own]) for one, own in zip(ids.tolist(), rows, strict=False)
    ]
    return Split(found, missing > 0, unseen)


def split_many(clip: RawClip) -> list[Track]:
    """As `split_tracks`, for any number of tracks."""
    owners: dict[tuple[int, int], list[int]] = {}
    last: dict[int, tuple[int, int]] = {}
    missing = is_missing(clip.xyz)
    seen = 2 * missing.sum(axis=1) <= missing.shape[1]
    for row in np.flatnonzero(seen).tolist():
        when, who = int(clip.frame[row]), int(clip.body[row])
        before, ordinal = last.get(who, (-1, 0))
        ordinal = ordinal + 1 if before == when else 0
        last[who] = (when, ordinal)
        owners.setdefault((who, ordinal), []).append(row)
    return [Track(who, clip.frame[own], clip.xyz[own], clip.state[own]) for (who, _), own in owners.items()]


def fill_missing_joints(track: Track, topology: Topology) -> Track:
    """``track`` with a position for each joint that was given as NaN or exactly (0, 0, 0); those get state 0."""
    missing = is_missing(track.xyz)
    if not missing.any():
        return track
    xyz, unseen = fill_missing(track.frame, track.xyz, missing, topology)
    state = np.where(missing, np.uint8(0), track.state)
    notes = tuple(
        f"joint {topology.joints[v]!r} is missing in every frame; put where its nearest neighbour is"
        for v in unseen
    )
    return Track(track.body, track.frame, xyz, state, int(missing.sum()), notes)


def join(tracks: Sequence[Track]) -> Track:
    """One track of several that share no frame; the body id is that of the first to begin."""
    if len(tracks) == 1:
        return tracks[0]
    tracks = sorted(tracks, key=lambda track: int(track.frame[0]))
    frame = np.concatenate([track.frame for track in tracks])
    # One track may lie in a gap of another.
    order = np.argsort(frame)
    return Track(
        tracks[0].body,
        frame[order],
        np.concatenate([track.xyz for track in tracks])[order],
        np.concatenate([track.state for track in tracks])[order],
        sum(track.interpolated for track in tracks),
        tuple(dict.fromkeys(note for track in tracks for note in track.notes)),
    )


def place(tracks: list[Track], frames: int) -> Persons:
    """Lay tracks out over T = ``frames`` frames."""
    joints = tracks[0].xyz.shape[1]
    interpolated = sum(track.interpolated for track in tracks)
    notes = tuple(note for track in tracks for note in track.notes)
    if interpolated:
        notes = (f"{interpolated} missing joints, NaN or exactly (0, 0, 0), interpolated over time", *notes)
    if len(tracks) == 1 and len(tracks[0].frame) == frames:
        only = tracks[0]
        return Persons(only.xyz[None], np.ones((1, frames), bool), only.state[None], interpolated, notes)
    xyz = np.zeros((len(tracks), frames, joints, 3), np.float32)
    present = np.zeros((len(tracks), frames), bool)
    state = np.zeros((len(tracks), frames, joints), np.uint8)
    for person, track in enumerate(tracks):
        xyz[person, track.frame] = track.xyz
        present[person, track.frame] = True
        state[person, track.frame] = track.state
    return Persons(xyz, present, state, interpolated, notes)
