"""Which body tracks are persons: the sensor changes a performer's id, and sees bodies in furniture and reflections.

Two sets of rules, chosen by `PreparationSettings.tracks`; both keep a single track as it is.

``joined``, the default for the alignments ``body`` and ``none``, follows the NTU RGB+D preparation of CTR-GCN (Chen et
al., ICCV 2021, `get_raw_denoised_data.py`):

1. *length*: tracks of at most `short_track` frames are dropped, the shortest first, while another one remains.
2. *spread*: a frame is spread when the extent of the joints in x exceeds `spread_ratio` times the extent in y. Tracks
   with at least `spread_share` spread frames are dropped, the most spread first, while another one remains.
3. *overlap*: in order of motion (`kernel.spread_and_motion`) each track continues the first person with whom it
   shares no frame, begins a new person while there are fewer than `max_persons`, and is dropped otherwise.

It differs from CTR-GCN's code where that depends on the order of a dictionary or loses frames: CTR-GCN drops in order
of appearance, lets rule 1 drop every track, and compares the first and last frames of tracks in rule 3, so that a
track between two others of one performer counts as overlapping, and tracks that share one frame do not.

``released``, the default for the alignment ``released``, is that of PSP Learning's released preprocessing (Xu and Shu,
arXiv 2302.02327) to the letter: the strongest track is not tested, and no tracks are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.data.skeletons.topology import Topology
from psptool.data.store.arrays import TrackNote
from psptool.formats.readers.base import RawClip
from psptool.preparation import kernel
from psptool.preparation.tracks import Persons, Track, fill_missing_joints, join, place, split_tracks
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.report import TrackRule


class Selection(NamedTuple):
    """The persons among some tracks.

    Attributes:
        persons: For each person, the leading one first, the indices of the tracks that are joined to it.
        notes: Every track that was joined or dropped.
    """

    persons: tuple[tuple[int, ...], ...]
    notes: tuple[TrackNote, ...] = ()


class _Measured(NamedTuple):
    """What the ``joined`` rules need to know of a track: motion in square metres, spread frames over frames."""

    frames: int
    spread: int
    motion: float

    @property
    def share(self) -> float:
        return self.spread / self.frames


def find_persons(clip: RawClip, topology: Topology, settings: PreparationSettings) -> Persons:
    """The persons of ``clip``, the leading one first.

    Raises:
        RawFormatError: ``no body``: nobody is in the clip with at least half of the joints.
    """
    tracks, missing, unseen = split_tracks(clip)
    if not tracks:
        found = f"{len(clip.frame)} bodies in {clip.frames} frames, none with half of its joints"
        raise RawFormatError("no body", clip.name, found, "at least one body")
    if missing:
        tracks = [fill_missing_joints(track, topology) for track in tracks]
    persons = place_persons(tracks, select(tracks, topology.center, settings), clip.frames)
    if unseen:
        note = (
            f"{unseen} of {len(clip.frame)} bodies have fewer than half of their joints; absent in that frame"
        )
        persons = persons._replace(notes=(note, *persons.notes))
    return persons


def place_persons(tracks: Sequence[Track], selection: Selection, frames: int) -> Persons:
    """The persons of a selection, laid out over T = ``frames`` frames."""
    persons = place([join([tracks[n] for n in own]) for own in selection.persons], frames)
    return persons._replace(tracks=selection.notes) if selection.notes else persons


def select(tracks: Sequence[Track], center: int, settings: PreparationSettings) -> Selection:
    """The persons among the tracks of a clip.

    Ties go to the track that begins first, then to the smaller body id.

    Args:
        tracks: At least one, without missing joints.
        center: The joint that the ``released`` rules take positions relative to.
        settings: The rules, and their thresholds.
    """
    if len(tracks) == 1:
        return Selection(((0,),))
    if settings.tracks == "released":
        return _released(tracks, center, settings)
    return _joined(tracks, settings)


def _by(measure: Sequence[float], tracks: Sequence[Track]) -> list[int]:
    """Indices of the tracks, the largest measure first."""
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
        """Drop the tracks for which ``unfit`` is a number, from the largest one, the one with less motion first."""
        found = [(how, n) for n in reversed(order) if (how := unfit(measured[n])) is not None]
        found.sort(key=lambda one: -one[0])
        for _, n in found[: len(order) - 1]:
            order.remove(n)
            notes.append(TrackNote(tracks[n].body, rule, text(measured[n])))

    short, share = settings.short_track, settings.spread_share
    drop(
        "length",
        lambda one: -one.frames if one.frames <= short else None,
        lambda one: f"dropped: {one.frames} frames, at most {short}",
    )
    drop(
        "spread",
        lambda one: one.share if one.share >= share else None,
        lambda one: f"dropped: {one.spread} of {one.frames} frames are spread, at least {100 * share:.5g} %",
    )
    if len(order) == 1:
        return Selection(((order[0],),), tuple(notes))
    persons, more = _continue(tracks, order, settings.max_persons)
    return Selection(persons, (*notes, *more))


def _continue(
    tracks: Sequence[Track], order: Sequence[int], most: int
) -> tuple[tuple[tuple[int, ...], ...], list[TrackNote]]:
    """Rule 3: the tracks of each person, and what became of those that are no person of their own."""
    persons: list[list[int]] = []
    taken: list[set[int]] = []
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
            text = f"dropped: {_span(tracks[n])}, of which it shares {' and '.join(map(str, shared))} with the persons"
            notes.append(TrackNote(tracks[n].body, "overlap", text))
    return tuple(map(tuple, persons)), notes


def _span(track: Track) -> str:
    return f"frames {int(track.frame[0])} to {int(track.frame[-1])} from 0, {len(track.frame)} in all"


def _released(tracks: Sequence[Track], center: int, settings: PreparationSettings) -> Selection:
    energies = [kernel.energy(track.xyz, center) for track in tracks]
    order = _by(energies, tracks)
    largest = energies[order[0]]
    bar = settings.energy_ratio * largest
    persons: list[int] = []
    notes: list[TrackNote] = []
    for n in order:
        figures = f"energy {energies[n]:.4g} m, the largest {largest:.4g} m"
        if energies[n] < bar and not is_upright(tracks[n].xyz[0], settings.upright_ratio):
            notes.append(
                TrackNote(
                    tracks[n].body, "not upright", f"dropped: not upright in its first frame, {figures}"
                )
            )
        elif len(persons) == settings.max_persons:
            notes.append(
                TrackNote(tracks[n].body, "energy", f"dropped: {len(persons)} are stronger, {figures}")
            )
        else:
            persons.append(n)
    return Selection(tuple((n,) for n in persons), tuple(notes))


def is_upright(xyz: NDArray[np.float32], ratio: float) -> bool:
    """Whether a body's extent in y times ``ratio`` exceeds its extent in x; xyz is float32 (V, 3)."""
    width, height, _ = (xyz.max(axis=0).astype(np.float64) - xyz.min(axis=0)).tolist()
    return bool(height * ratio > width)
