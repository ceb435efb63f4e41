"""Grouping body detections into tracks by body id, and arranging tracks as persons over a clip's frames.

`psptool.preparation.selection` decides which tracks are persons. Gaps in a track are kept: the person is absent there.

Array shapes: B body detections (one body in one frame), M persons, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.data.store.arrays import TrackNote
from psptool.formats.readers.base import RawClip
from psptool.preparation import kernel
from psptool.preparation.interpolation import fill_missing, is_missing
from psptool.skeletons.topology import Topology


class Persons(NamedTuple):
    """The persons of a clip in camera coordinates; the first one defines the normalization.

    Attributes:
        xyz: float32 (M, T, V, 3), metres, camera coordinates; zero where the person is absent.
        present: bool (M, T), whether the person is tracked in that frame.
        state: uint8 (M, T, V), tracking states; 0 where the person is absent or the joint is missing.
        interpolated: Number of missing joints that were interpolated.
        notes: Notes for the report.
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
        body: The sensor's body id.
        frame: int32 (B,), frame numbers, ascending and unique.
        xyz: float32 (B, V, 3), metres, camera coordinates.
        state: uint8 (B, V), tracking states.
        interpolated: Number of missing joints that were interpolated.
        notes: Notes for the report.
    """

    body: int
    frame: NDArray[np.int32]
    xyz: NDArray[np.float32]
    state: NDArray[np.uint8]
    interpolated: int = 0
    notes: tuple[str, ...] = ()


class SplitTracks(NamedTuple):
    """The detections of a clip, grouped into tracks.

    Attributes:
        tracks: Tracks in order of appearance.
        missing: Whether any of their joints may be missing.
        unseen: Number of detections in no track, because more than half of their joints are missing.
    """

    tracks: list[Track]
    missing: bool
    unseen: int


def split_tracks(clip: RawClip) -> SplitTracks:
    """Group the detections of a clip into tracks by body id.

    If a body id occurs several times in a frame, its k-th detection belongs to the k-th track of that id. Detections
    with more than half of their joints missing are ignored, so the body is absent in that frame.
    """
    frame, body, xyz, state = clip.frame, clip.body, clip.xyz, clip.state
    owner, ids = np.empty(len(frame), np.int32), np.empty(kernel.MOST_TRACKS, np.int64)
    tracks, missing, unseen = kernel.assign_tracks(frame, body, xyz, owner, ids)
    if tracks < 0:
        found = split_many(clip)
        return SplitTracks(found, True, len(frame) - sum(len(track.frame) for track in found))
    if tracks == 1 and not unseen:
        # The usual case: one body in every frame. Its track shares the arrays of the clip.
        return SplitTracks([Track(int(ids[0]), frame, xyz, state)], missing > 0, 0)
    rows = [np.flatnonzero(owner == track) for track in range(tracks)]  # detections of each track
    found = [
        Track(one, frame[own], xyz[own], state[own]) for one, own in zip(ids.tolist(), rows, strict=False)
    ]
    return SplitTracks(found, missing > 0, unseen)


def split_many(clip: RawClip) -> list[Track]:
    """The tracks of `split_tracks`, for any number of tracks; slower."""
    owners: dict[tuple[int, int], list[int]] = {}
    last: dict[int, tuple[int, int]] = {}
    missing = is_missing(clip.xyz)  # bool (B, V)
    seen = 2 * missing.sum(axis=1) <= missing.shape[1]
    for row in np.flatnonzero(seen).tolist():
        # `ordinal` counts the detections of this id in this frame, from 0.
        when, who = int(clip.frame[row]), int(clip.body[row])
        before, ordinal = last.get(who, (-1, 0))
        ordinal = ordinal + 1 if before == when else 0
        last[who] = (when, ordinal)
        owners.setdefault((who, ordinal), []).append(row)
    return [Track(who, clip.frame[own], clip.xyz[own], clip.state[own]) for (who, _), own in owners.items()]


def fill_missing_joints(track: Track, topology: Topology, missing: NDArray[np.bool_] | None = None) -> Track:
    """Interpolate the missing joints of ``track``; their tracking state becomes 0.

    Args:
        track: T frames.
        topology: The V joints.
        missing: bool (T, V); by default the joints that are NaN or exactly (0, 0, 0).
    """
    missing = is_missing(track.xyz) if missing is None else missing
    if not missing.any():
        return track
    xyz, unseen = fill_missing(track.frame, track.xyz, missing, topology)
    state = np.where(missing, np.uint8(0), track.state)
    notes = tuple(
        f"joint {topology.joints[v]!r} is missing in every frame; it has the position of its nearest neighbour"
        for v in unseen
    )
    return Track(track.body, track.frame, xyz, state, int(missing.sum()), notes)


def join(tracks: Sequence[Track]) -> Track:
    """Join tracks that share no frame to one track, with the body id of the track that begins first."""
    if len(tracks) == 1:
        return tracks[0]
    tracks = sorted(tracks, key=lambda track: int(track.frame[0]))
    frame = np.concatenate([track.frame for track in tracks])
    # A track may fill a gap of another one, so concatenating does not sort the frames.
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
    """Arrange one track per person as arrays over T = ``frames`` frames: (B, V, 3) each -> (M, T, V, 3)."""
    joints = tracks[0].xyz.shape[1]
    interpolated = sum(track.interpolated for track in tracks)
    notes = tuple(note for track in tracks for note in track.notes)
    if interpolated:
        notes = (f"{interpolated} missing joints (NaN or exactly (0, 0, 0)) interpolated over time", *notes)
    # One person in every frame: add the person axis to the track's arrays without copying them.
    if len(tracks) == 1 and len(tracks[0].frame) == frames:
        only = tracks[0]
        return Persons(only.xyz[None], np.ones((1, frames), bool), only.state[None], interpolated, notes)
    xyz = np.zeros((len(tracks), frames, joints, 3), np.float32)
    present = np.zeros((len(tracks), frames), bool)
    state = np.zeros((len(tracks), frames, joints), np.uint8)
    # Frames without a detection keep zeros: the person is absent.
    for person, track in enumerate(tracks):
        xyz[person, track.frame] = track.xyz
        present[person, track.frame] = True
        state[person, track.frame] = track.state
    return Persons(xyz, present, state, interpolated, notes)
