"""Selecting persons among body tracks. The sensor may change a performer's body id during a clip, and detects bodies
in furniture and reflections.

There are two sets of rules, chosen by `PreparationSettings.tracks`. Both keep the only track of a clip unchanged.

``joined`` (default for the alignments ``body``, ``robust`` and ``none``) follows CTR-GCN's preparation of NTU RGB+D
(Chen et al., ICCV 2021, `get_raw_denoised_data.py`):

1. *length*: Drop tracks of at most `short_track` frames, the shortest first, but not the last remaining track.
2. *spread*: A frame is spread if the extent of its joints in x exceeds `spread_ratio` times the extent in y. Drop
   tracks with at least a fraction `spread_share` of spread frames, the most spread first, but not the last remaining
   track.
3. *overlap*: Process the tracks in descending order of motion (`kernel.spread_and_motion`). Join a track to the first
   person with whom it shares no frame. Otherwise it becomes a new person if there are fewer than `max_persons`, or is
   dropped.

The differences to CTR-GCN's code avoid a dependence on dictionary order and a loss of frames. CTR-GCN drops tracks in
order of appearance, and its rule 1 may drop all tracks. Its rule 3 compares only first and last frames: a track in a
gap between two tracks of one performer counts as overlapping, and tracks that share one frame do not.

``released`` (default for the alignment ``released``) follows PSP Learning's released preprocessing (Xu and Shu, arXiv
2302.02327) exactly: the track with the largest energy is always kept, and no tracks are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.common.text import counted
from psptool.data.store.arrays import TrackNote
from psptool.formats.readers.base import RawClip
from psptool.preparation import kernel
from psptool.preparation.tracks import Persons, Track, fill_missing_joints, join, place, split_tracks
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.report import TrackRule
from psptool.skeletons.keys import UpAxis
from psptool.skeletons.topology import Topology


class Selection(NamedTuple):
    """The persons selected among the tracks of a clip.

    Attributes:
        persons: For each person, the indices of its tracks. The first person defines the normalization.
        notes: The tracks that were joined or dropped.
    """

    persons: tuple[tuple[int, ...], ...]
    notes: tuple[TrackNote, ...] = ()


class _Measured(NamedTuple):
    """Measures of a track for the ``joined`` rules: number of frames and of spread frames; motion in square metres."""

    frames: int
    spread: int
    motion: float

    @property
    def share(self) -> float:
        """Fraction of spread frames."""
        return self.spread / self.frames


def find_persons(clip: RawClip, topology: Topology, settings: PreparationSettings) -> Persons:
    """The persons of ``clip``; the first one defines the normalization.

    Raises:
        RawFormatError: ``no body``: no detection has at least half of its joints.
    """
    tracks, missing, unseen = split_tracks(clip)
    if not tracks:
        bodies = counted(len(clip.frame), "body", "bodies")
        found = f"{bodies} in {counted(clip.frames, 'frame')}, all with fewer than half of their joints"
        raise RawFormatError("no body", clip.name, found, "at least one body with half of its joints")
    if missing:
        tracks = [fill_missing_joints(track, topology) for track in tracks]
    persons = place_persons(tracks, select(tracks, topology.center, settings, clip.up), clip.frames)
    if unseen:
        note = (
            f"{unseen} of {len(clip.frame)} bodies have fewer than half of their joints; absent in that frame"
        )
        persons = persons._replace(notes=(note, *persons.notes))
    return persons._replace(notes=(*clip.notes, *persons.notes)) if clip.notes else persons


def place_persons(tracks: Sequence[Track], selection: Selection, frames: int) -> Persons:
    """The persons of a selection as arrays over T = ``frames`` frames."""
    persons = place([join([tracks[n] for n in own]) for own in selection.persons], frames)
    return persons._replace(tracks=selection.notes) if selection.notes else persons


def select(
    tracks: Sequence[Track], center: int, settings: PreparationSettings, up: UpAxis = "y"
) -> Selection:
    """Select the persons among the tracks of a clip.

    Ties are resolved by the earlier first frame, then by the smaller body id.

    Args:
        tracks: At least one track; missing joints are interpolated already.
        center: Reference joint for the energy of the ``released`` rules.
        settings: The rules and their thresholds.
        up: Vertical axis of the positions.
    """
    if len(tracks) == 1:
        return Selection(((0,),))
    if up == "z":  # the rules compare x with y
        tracks = [track._replace(xyz=np.ascontiguousarray(track.xyz[..., [0, 2, 1]])) for track in tracks]
    if settings.tracks == "released":
        return _released(tracks, center, settings)
    return _joined(tracks, settings)


def every_track(tracks: Sequence[Track]) -> Selection:
    """All tracks, given in order of appearance, as persons; tracks that share no frame are joined."""
    return Selection(_continue(tracks, range(len(tracks)), len(tracks))[0])


def _by(measure: Sequence[float], tracks: Sequence[Track]) -> list[int]:
    """Indices of the tracks in descending order of ``measure``."""
    return sorted(range(len(tracks)), key=lambda n: (-measure[n], int(tracks[n].frame[0]), tracks[n].body))


def _joined(tracks: Sequence[Track], settings: PreparationSettings) -> Selection:
    measured = [
        _Measured(len(track.frame), *kernel.spread_and_motion(track.xyz, settings.spread_ratio))
        for track in tracks
    ]
    order = _by([one.motion for one in measured], tracks)
    notes: list[TrackNote] = []

    def drop(
        rule: TrackRule, unfit: Callable[[_Measured], float | None], text: Callable[[_Measured], str]
    ) -> None:
        """Drop tracks whose ``unfit`` is not None, largest value first; of equal ones, the one with least motion first.

        The last track is kept.
        """
        # `order` has most motion first, so its reverse gives ties the order that a stable sort keeps.
        found = [(how, n) for n in reversed(order) if (how := unfit(measured[n])) is not None]
        found.sort(key=lambda one: -one[0])
        for _, n in found[: len(order) - 1]:  # keep at least one track
            order.remove(n)
            notes.append(TrackNote(tracks[n].body, rule, text(measured[n])))

    short, share = settings.short_track, settings.spread_share
    drop(
        "length",
        lambda one: -one.frames if one.frames <= short else None,
        lambda one: f"dropped: {counted(one.frames, 'frame')}, the limit is {short}",
    )
    drop(
        "spread",
        lambda one: one.share if one.share >= share else None,
        lambda one: (
            f"dropped: {one.spread} of {counted(one.frames, 'frame')} are spread, the limit is {100 * share:.5g} %"
        ),
    )
    if len(order) == 1:
        return Selection(((order[0],),), tuple(notes))
    persons, more = _continue(tracks, order, settings.max_persons)
    return Selection(persons, (*notes, *more))


def _continue(
    tracks: Sequence[Track], order: Sequence[int], most: int
) -> tuple[tuple[tuple[int, ...], ...], list[TrackNote]]:
    """Rule 3 (overlap): the tracks of each person, and the tracks that were joined or dropped."""
    persons: list[list[int]] = []
    taken: list[set[int]] = []  # the frames of each person
    notes: list[TrackNote] = []
    for n in order:
        frames = set(tracks[n].frame.tolist())
        free = next((p for p, theirs in enumerate(taken) if not frames & theirs), None)
        if free is not None:
            first = tracks[persons[free][0]].body
            notes.append(TrackNote(tracks[n].body, "joined", f"joined to track {first}: {_span(tracks[n])}"))
            persons[free].append(n)
            taken[free] |= frames
        elif len(persons) < most:
            persons.append([n])
            taken.append(frames)
        else:
            shared = [len(frames & theirs) for theirs in taken]
            text = f"dropped: {_span(tracks[n])}; frames shared with the persons: {' and '.join(map(str, shared))}"
            notes.append(TrackNote(tracks[n].body, "overlap", text))
    return tuple(map(tuple, persons)), notes


def _span(track: Track) -> str:
    """The frames of a track as text."""
    return (
        f"{counted(len(track.frame), 'frame')} from {int(track.frame[0])} to {int(track.frame[-1])} (0-based)"
    )


def _released(tracks: Sequence[Track], center: int, settings: PreparationSettings) -> Selection:
    energies = [kernel.energy(track.xyz, center) for track in tracks]
    order = _by(energies, tracks)
    largest = energies[order[0]]
    # Below this threshold a track must be upright. The largest energy is never below it, so its track is kept.
    bar = settings.energy_ratio * largest
    persons: list[int] = []
    notes: list[TrackNote] = []
    for n in order:
        figures = f"energy {energies[n]:.4g} m, largest energy {largest:.4g} m"
        if energies[n] < bar and not is_upright(tracks[n].xyz[0], settings.upright_ratio):
            notes.append(
                TrackNote(
                    tracks[n].body, "not upright", f"dropped: not upright in its first frame, {figures}"
                )
            )
        elif len(persons) == settings.max_persons:
            notes.append(
                TrackNote(
                    tracks[n].body, "energy", f"dropped: {len(persons)} tracks have more energy, {figures}"
                )
            )
        else:
            persons.append(n)
    return Selection(tuple((n,) for n in persons), tuple(notes))


def is_upright(xyz: NDArray[np.float32], ratio: float) -> bool:
    """Whether the extent of a body in y times ``ratio`` exceeds its extent in x.

    Args:
        xyz: float32 (V, 3), metres, camera coordinates.
        ratio: Threshold for the ratio of the extents.
    """
    # In float64, as in the original implementation; the extent in z is not used.
    width, height, _ = (xyz.max(axis=0).astype(np.float64) - xyz.min(axis=0)).tolist()
    return bool(height * ratio > width)
