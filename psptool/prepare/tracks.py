"""From body detections to at most two persons: tracks by body id, and which of them are somebody.

The rules are those of PSP Learning's released preprocessing (Xu and Shu, arXiv 2302.02327), which follow
CTR-GCN's: of several tracks, the weaker ones must be upright in their first frame (the sensor also sees
bodies in furniture and reflections), and the most energetic stay. Gaps in time stay gaps.

Notation for array shapes: B body detections (one body in one frame), M persons, T frames, V joints.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.errors import RawFormatError
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
    tracks = split_tracks(clip)
    # Nearly every clip has a depth for every joint, and then nothing is missing; the whole test costs more.
    if not clip.xyz[..., 2].all():
        tracks = [fill_missing_joints(track, topology) for track in tracks]
    if not tracks:
        raise RawFormatError(
            "no body", clip.name, f"{clip.frames} frames without a body", "at least one body"
        )
    return place(select(tracks, topology.center, settings), clip.frames)


def split_tracks(clip: RawClip) -> list[Track]:
    """Detections by body id; the k-th detection of one id in one frame belongs to that id's k-th track.

    A body whose joints are all exactly (0, 0, 0) was not seen, so that its frame is one without it.
    """
    frame, body, xyz, state = clip.frame, clip.body, clip.xyz, clip.state
    # A body that was seen nearly always has a first joint; the whole test costs more.
    if not xyz[:, 0].any(axis=1).all():
        seen = xyz.any(axis=(1, 2))
        frame, body, xyz, state = frame[seen], body[seen], xyz[seen], state[seen]
    if len(frame) == 0:
        return []
    ids = list(dict.fromkeys(body.tolist()))
    if len(ids) == 1:
        own: list[Any] = [slice(None)]
    else:
        own = [np.flatnonzero(body == one) for one in ids]
    if all((frame[rows][1:] > frame[rows][:-1]).all() for rows in own):
        return [Track(one, frame[rows], xyz[rows], state[rows]) for one, rows in zip(ids, own, strict=True)]
    return _split_repeated(frame, body, xyz, state)


def _split_repeated(
    frame: NDArray[np.int32], body: NDArray[np.int64], xyz: NDArray[np.float32], state: NDArray[np.uint8]
) -> list[Track]:
    """The tracks where an id stands more than once in a frame."""
    owners: dict[tuple[int, int], list[int]] = {}
    last: dict[int, tuple[int, int]] = {}
    for row, (when, who) in enumerate(zip(frame.tolist(), body.tolist(), strict=True)):
        before, ordinal = last.get(who, (-1, 0))
        ordinal = ordinal + 1 if before == when else 0
        last[who] = (when, ordinal)
        owners.setdefault((who, ordinal), []).append(row)
    return [Track(who, frame[own], xyz[own], state[own]) for (who, _), own in owners.items()]


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
    energies = [energy(track.xyz, center) for track in tracks]
    order = sorted(range(len(tracks)), key=lambda n: (-energies[n], int(tracks[n].frame[0]), tracks[n].body))
    bar = settings.energy_ratio * energies[order[0]]
    persons = [
        tracks[n] for n in order if energies[n] >= bar or is_upright(tracks[n].xyz[0], settings.upright_ratio)
    ]
    return persons[: settings.max_persons]


def energy(xyz: NDArray[np.float32], center: int) -> float:
    """Sum over x, y, z of the standard deviation, over frames and joints, relative to joint ``center``.

    Args:
        xyz: float32 (B, V, 3), metres.
        center: The joint that positions are taken relative to.
    """
    # Axis by axis in long rows, which NumPy adds up several times as fast as rows of three.
    relative = np.empty((3, *xyz.shape[:2]))
    np.subtract(xyz.transpose(2, 0, 1), xyz[:, center].T[:, :, None], out=relative, dtype=np.float64)
    relative = relative.reshape(3, -1)
    relative -= relative.mean(axis=1, keepdims=True)
    return float(np.sqrt(np.einsum("cn,cn->c", relative, relative) / relative.shape[1]).sum())


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
