"""From body detections to at most two persons: tracks by body id, and which of them are somebody.

The rules are those of PSP Learning's released preprocessing (Xu and Shu, arXiv 2302.02327), which follow
CTR-GCN's: of several tracks, the weaker ones must be upright in their first frame (the sensor also sees
bodies in furniture and reflections), and the most energetic stay. Gaps in time stay gaps.

Notation for array shapes: B body detections (one body in one frame), M persons, T frames, V joints.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.errors import RawFormatError
from psptool.prepare import kernel
from psptool.prepare.missing import fill_missing
from psptool.readers.base import RawClip
from psptool.schemas.dataset import PreparationSettings
from psptool.skeletons.topology import Topology


class Persons(NamedTuple):
    """The persons of a clip as recorded; the first is the leading one.

    Attributes:
        xyz: float32 (M, T, V, 3), metres, camera frame; zero where absent.
        present: bool (M, T).
        state: uint8 (M, T, V); 0 where absent or missing.
        interpolated: Missing joints that were given a position.
        notes: What the report should say.
    """

    xyz: NDArray[np.float32]
    present: NDArray[np.bool_]
    state: NDArray[np.uint8]
    interpolated: int = 0
    notes: tuple[str, ...] = ()


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


def find_persons(clip: RawClip, topology: Topology, settings: PreparationSettings) -> Persons:
    """The persons of ``clip``, the most energetic first.

    Raises:
        RawFormatError: Nobody is in the clip.
    """
    tracks, missing = split_tracks(clip)
    if not tracks:
        raise RawFormatError(
            "no body", clip.name, f"{clip.frames} frames without a body", "at least one body"
        )
    if missing:
        tracks = [fill_missing_joints(track, topology) for track in tracks]
    return place(select(tracks, topology.center, settings), clip.frames)


def split_tracks(clip: RawClip) -> tuple[list[Track], bool]:
    """Detections by body id; the k-th detection of one id in one frame belongs to that id's k-th track.

    A body whose joints are all exactly (0, 0, 0) was not seen, so that its frame is one without it.

    Returns:
        The tracks, and whether any of their joints may be missing.
    """
    frame, body, xyz, state = clip.frame, clip.body, clip.xyz, clip.state
    owner, ids = np.empty(len(frame), np.int32), np.empty(kernel.MOST_TRACKS, np.int64)
    tracks, missing, unseen = kernel.own(frame, body, xyz, owner, ids)
    if tracks < 0:
        return split_many(clip), True
    if tracks == 1 and not unseen:
        return [Track(int(ids[0]), frame, xyz, state)], missing > 0
    rows = [np.flatnonzero(owner == track) for track in range(tracks)]
    found = [
        Track(one, frame[own], xyz[own], state[own]) for one, own in zip(ids.tolist(), rows, strict=False)
    ]
    return found, missing > 0


def split_many(clip: RawClip) -> list[Track]:
    """As `split_tracks`, for any number of tracks."""
    owners: dict[tuple[int, int], list[int]] = {}
    last: dict[int, tuple[int, int]] = {}
    seen = clip.xyz.any(axis=(1, 2))
    for row in np.flatnonzero(seen).tolist():
        when, who = int(clip.frame[row]), int(clip.body[row])
        before, ordinal = last.get(who, (-1, 0))
        ordinal = ordinal + 1 if before == when else 0
        last[who] = (when, ordinal)
        owners.setdefault((who, ordinal), []).append(row)
    return [Track(who, clip.frame[own], clip.xyz[own], clip.state[own]) for (who, _), own in owners.items()]


def fill_missing_joints(track: Track, topology: Topology) -> Track:
    """``track`` with a position for each joint that was given as exactly (0, 0, 0); those get state 0."""
    missing: NDArray[np.bool_] = np.logical_not(track.xyz.any(axis=2))
    if not missing.any():
        return track
    xyz, unseen = fill_missing(track.frame, track.xyz, missing, topology)
    state = np.where(missing, np.uint8(0), track.state)
    notes = tuple(
        f"joint {topology.joints[v]!r} is missing in every frame; put where its nearest neighbour is"
        for v in unseen
    )
    return Track(track.body, track.frame, xyz, state, int(missing.sum()), notes)


def select(tracks: list[Track], center: int, settings: PreparationSettings) -> list[Track]:
    """The tracks that are persons, the most energetic first; a single track is kept as it is.

    Ties go to the track that begins first, then to the smaller body id.
    """
    if len(tracks) == 1:
        return tracks
    energies = [kernel.energy(track.xyz, center) for track in tracks]
    order = sorted(range(len(tracks)), key=lambda n: (-energies[n], int(tracks[n].frame[0]), tracks[n].body))
    bar = settings.energy_ratio * energies[order[0]]
    persons = [
        tracks[n] for n in order if energies[n] >= bar or is_upright(tracks[n].xyz[0], settings.upright_ratio)
    ]
    return persons[: settings.max_persons]


def is_upright(xyz: NDArray[np.float32], ratio: float) -> bool:
    """Whether a body's extent in y times ``ratio`` exceeds its extent in x; xyz is float32 (V, 3)."""
    width, height, _ = (xyz.max(axis=0).astype(np.float64) - xyz.min(axis=0)).tolist()
    return bool(height * ratio > width)


def place(tracks: list[Track], frames: int) -> Persons:
    """Lay tracks out over T = ``frames`` frames."""
    joints = tracks[0].xyz.shape[1]
    interpolated = sum(track.interpolated for track in tracks)
    notes = tuple(note for track in tracks for note in track.notes)
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
