"""Finds the clips to view: in a prepared dataset, in raw recordings, or in a prediction."""

from __future__ import annotations

import difflib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import numpy as np

from psptool.common.errors import PspError
from psptool.common.paths import MAX_JSON, read_text, recalled, regular_size, shown
from psptool.common.text import counted
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.reading import Store, open_store
from psptool.formats.readers.ahead import ReadAhead
from psptool.formats.readers.base import ClipSource, RawClip, Reader, Stray
from psptool.formats.readers.making import builtin_readers, make_readers
from psptool.formats.readers.packing import ARCHIVE_SUFFIXES, without_packing
from psptool.formats.readers.sources import LOST, clips_among, list_files, read_clip
from psptool.preparation.interpolation import is_missing
from psptool.preparation.normalize import normalize
from psptool.preparation.selection import every_track, find_persons, place_persons, select
from psptool.preparation.tracks import Track, fill_missing_joints, join, place, split_tracks
from psptool.preparation.worker import notes_of
from psptool.schemas.dataset import PreparationSettings, prepared_up
from psptool.schemas.description import DatasetDescription
from psptool.schemas.prediction import Prediction
from psptool.schemas.timeline import Timeline, Timelines
from psptool.skeletons.keys import class_name
from psptool.view.scene import Scene, ViewedClip, normalized_scene, recorded_scene

DEFAULT_CLIPS = 6
"""Number of clips shown if no name is given."""
MAX_CLIPS = 24
"""Maximum number of clips on a page; browsers cannot display hundreds."""
DATASET_SUFFIXES = (".h5", ".hdf5")
_MOST_JSON = 4 * 2**20
_Format = tuple[DatasetDescription, Reader]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Found:
    """The clips to view.

    Attributes:
        clips: The clips, in the requested order.
        of: Number of all clips or, with names, of all matching clips.
        settings: Preparation of the clips.
        model: The model of a prediction.
        lost: Files that may have recordings but cannot be read.
    """

    clips: tuple[ViewedClip, ...]
    of: int
    settings: PreparationSettings
    model: str | None = None
    lost: tuple[Stray, ...] = ()


def find(
    file: Path,
    names: Sequence[str] = (),
    settings: PreparationSettings | None = None,
    dataset: DatasetDescription | None = None,
) -> Found:
    """Find the clips of ``file`` that match ``names``; without names, up to `DEFAULT_CLIPS` evenly spaced clips.

    Args:
        file: A prepared dataset; a raw file, folder, zip or tar archive; or the JSON of
            ``psptool predict``.
        names: Clip names, glob patterns, or parts of names; see `matching`.
        settings: Preparation of raw recordings; by default that of the prediction, or the default of psptool.
        dataset: The dataset of raw recordings; the built-in ones are recognized without it.

    Raises:
        PspError: The file is missing or of an unknown kind, no clip matches, or a recording is damaged.
    """
    names = tuple(map(shown, names))
    if file.suffix.lower() in DATASET_SUFFIXES:
        with open_store(file) as store:
            return stored(store, names)
    if file.suffix.lower() == ".json" and not _is_recording(file):
        prediction = Timelines.load(file) if _has_windows(file) else Prediction.load(file)
        return predicted(prediction, names, settings, file)
    settings = settings or PreparationSettings()
    form, sources, lost = _recordings(file, dataset)
    chosen, of = _choose(file, [source.name for source in sources], names)
    clips = _viewed([(form, sources[index]) for index in chosen], settings)
    return Found(clips, of, settings, lost=lost)


def _viewed(
    chosen: Sequence[tuple[_Format, ClipSource]], settings: PreparationSettings
) -> tuple[ViewedClip, ...]:
    ahead = ReadAhead([source for _, source in chosen])
    return tuple(viewed_recording(*form, ahead.attach(source), settings) for form, source in chosen)


def stored(store: Store, names: Sequence[str] = ()) -> Found:
    """Clips of a prepared dataset; arguments and errors as for `find`."""
    manifest, description = store.manifest, store.manifest.description
    chosen, of = _choose(store.path, store.names, names)
    clips = []
    for index in chosen:
        clip = store.clip(store.names[index])
        prepared = clip.prepared()
        recorded = recorded_scene(prepared, description.up, description.unit_read)
        scenes = (recorded, normalized_scene(prepared, manifest.up))
        clips.append(
            ViewedClip(
                manifest.topology, clip.class_name, prepared, scenes, frame_rate=description.frame_rate
            )
        )
    return Found(tuple(clips), of, manifest.settings)


def viewed_recording(
    dataset: DatasetDescription, reader: Reader, source: ClipSource, settings: PreparationSettings
) -> ViewedClip:
    """Read one raw recording of a dataset: all recorded bodies, and the persons after preparation.

    Raises:
        PspError: The recording cannot be read or prepared.
    """
    raw, tracks = _parsed(reader, source, settings)
    filled = [fill_missing_joints(track, reader.topology) for track in tracks]
    kept = select(filled, reader.topology.center, settings, raw.up)
    persons = place_persons(filled, kept, raw.frames)
    prepared = normalize(raw.name, raw.key, persons, reader.topology, settings)
    # Persons first, in order: a person has the same colour in both scenes.
    taken = {n for own in kept.persons for n in own}
    bodies = [*kept.persons, *((n,) for n in range(len(tracks)) if n not in taken)]
    is_kept = tuple(n < len(kept.persons) for n in range(len(bodies)))
    recorded = _recorded(dataset, tracks, bodies, raw.frames, is_kept)
    scenes = (recorded, normalized_scene(prepared, prepared_up(dataset.up, settings.align)))
    return ViewedClip(
        reader.topology,
        class_name(dataset.class_names, raw.key.label),
        prepared,
        scenes,
        notes=_notes(raw, is_kept, prepared),
        frame_rate=dataset.frame_rate,
    )


def viewed_timeline(
    dataset: DatasetDescription,
    reader: Reader,
    source: ClipSource,
    settings: PreparationSettings,
    timeline: Timeline,
    frame_rate: float,
) -> ViewedClip:
    """Read one long recording with the predictions of its windows. It has all bodies, and no normalized scene.

    Raises:
        PspError: The recording cannot be read or prepared.
    """
    raw, tracks = _parsed(reader, source, settings)
    bodies = every_track(tracks)
    filled = [fill_missing_joints(track, reader.topology) for track in tracks]
    persons = place_persons(filled, bodies, raw.frames)
    prepared = normalize(raw.name, raw.key, persons, reader.topology, settings)
    is_kept = (True,) * len(bodies.persons)
    return ViewedClip(
        reader.topology,
        "",
        prepared,
        (_recorded(dataset, tracks, bodies.persons, raw.frames, is_kept),),
        notes=_notes(raw, is_kept, prepared),
        frame_rate=frame_rate,
        windows=timeline.windows,
    )


def _parsed(reader: Reader, source: ClipSource, settings: PreparationSettings) -> tuple[RawClip, list[Track]]:
    raw = reader.parse(source, read_clip(source))
    tracks = split_tracks(raw).tracks
    if not tracks:
        find_persons(raw, reader.topology, settings)  # raises an error that says why there is no person
    return raw, tracks


def _recorded(
    dataset: DatasetDescription,
    tracks: Sequence[Track],
    bodies: Sequence[tuple[int, ...]],
    frames: int,
    is_kept: tuple[bool, ...],
) -> Scene:
    """The recorded scene of bodies, each given by the indices of its tracks."""
    laid = place([join([tracks[n] for n in own]) for own in bodies], frames)
    xyz = np.where(is_missing(laid.xyz)[..., None], np.nan, laid.xyz)
    return Scene("recorded", dataset.up, dataset.unit_read, xyz, laid.present, laid.state, is_kept)


def _notes(raw: RawClip, kept: Sequence[bool], prepared: PreparedClip) -> tuple[str, ...]:
    left_out, empty = len(kept) - sum(kept), raw.frames - len(np.unique(raw.frame))
    notes = list(notes_of(prepared))
    if left_out:
        notes.append(f"{left_out} of {counted(len(kept), 'body', 'bodies')} not selected as persons (grey)")
    if empty:
        notes.append(f"{counted(empty, 'frame')} without a body")
    return tuple(notes)


def _recordings(
    path: Path, dataset: DatasetDescription | None
) -> tuple[_Format, list[ClipSource], tuple[Stray, ...]]:
    """Dataset and reader for the files at ``path``, the clips, and unreadable files."""
    # A text recording is recognized by its two parent folders, which a relative path may not contain.
    files = list_files([path.resolve() if path.is_dir() else path])
    strays: list[Stray] = []
    for form in _formats(dataset):
        sources, more = clips_among(files, form[1])
        if sources:
            return form, sources, tuple(stray for stray in more if stray.reason in LOST)
        strays += more
    formats = ", ".join(dict.fromkeys(form[1].format for form in _formats(dataset)))
    raise PspError(
        f"{path}: no recording found",
        f"{strays[0].name}: {strays[0].reason}"
        if strays
        else f"{counted(len(files), 'file')} of other kinds",
        f"a prepared dataset (.h5), recordings ({formats}), a zip or tar archive of them, or a prediction (.json)",
        "For recordings in the format of your own dataset, add --data DATASET.h5, --data DESCRIPTION.yaml or "
        "--model RUN."
        if dataset is None
        else None,
    )


def _formats(dataset: DatasetDescription | None) -> Iterator[_Format]:
    """The readers to try: those of the dataset, then those of built-in datasets, first for clip names only."""
    for any_name in (False, True):
        if dataset is not None:
            yield from ((dataset, reader) for reader in make_readers(dataset, any_name))
        yield from builtin_readers(any_name)


def _is_recording(file: Path) -> bool:
    """Whether a JSON file may be a recording, or one of OpenPose, which its reader rejects."""
    try:
        regular_size(file)
        with file.open("rb") as opened:
            content = opened.read(_MOST_JSON)
        return b'"skeletons"' in content or b'"people"' in content
    except OSError:
        return False  # The error is reported when the file is read.


def matching(name: str, available: Sequence[str]) -> list[str]:
    """The clip names that match ``name``, which is a clip name, a glob pattern, or a part of a name.

    Args:
        name: A clip name, a pattern such as ``S017*``, or a part such as ``A058``, in upper or lower case. If names
            begin with the part, names that only contain it do not match.
        available: All clip names.
    """
    if name in available:
        return [name]
    low = name.lower()
    if set("*?[") & set(name):
        return [one for one in available if fnmatchcase(one.lower(), low)]
    return [one for one in available if one.lower().startswith(low)] or [
        one for one in available if low in one.lower()
    ]


def _choose(file: Path, available: Sequence[str], names: Sequence[str]) -> tuple[list[int], int]:
    """The indices of the clips to view, at most `MAX_CLIPS`, and the number of all matching clips.

    Args:
        file: The file with the clips, for messages.
        available: The name of each clip. Several clips may have one name.
        names: As in `find`.

    Raises:
        PspError: A name matches no clip.
    """
    if not names:
        return _evenly_spaced(range(len(available))), len(available)
    indices: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(available):
        indices[name].append(index)
    found: dict[str, None] = {}
    for name in names:
        matches = matching(name, available)
        if not matches:
            near = sorted(difflib.get_close_matches(name, available, n=5, cutoff=0.5))
            some = ", ".join(near or _evenly_spaced(available))
            raise PspError(
                f"{file}: has no clip {name!r}",
                fix=f"Did you mean {some}?" if near else f"Examples of its clips: {some}.",
            )
        found.update(dict.fromkeys(matches))
    chosen = [index for name in found for index in indices[name]]
    return _evenly_spaced(chosen, MAX_CLIPS), len(chosen)


def _evenly_spaced(available: Sequence[_Item], limit: int = DEFAULT_CLIPS) -> list[_Item]:
    """At most ``limit`` items, evenly spaced."""
    count = min(limit, len(available))
    return [available[n * len(available) // count] for n in range(count)]


def predicted(
    prediction: Prediction | Timelines,
    names: Sequence[str] | None = None,
    settings: PreparationSettings | None = None,
    file: Path = Path(),
) -> Found:
    """The recordings of a prediction, read from their recorded paths.

    Args:
        prediction: The prediction.
        names: As in `find`; None for up to `MAX_CLIPS` evenly spaced recordings.
        settings: Preparation of the recordings; by default that of the prediction.
        file: The file of the prediction, for messages.

    Raises:
        PspError: A recording does not exist any more, or is damaged.
    """
    settings = settings or prediction.preparation or PreparationSettings()
    if isinstance(prediction, Timelines):
        names = [one.name for one in prediction.recordings] if names is None else names
        return _with_windows(prediction, names, settings, file)
    names = [clip.name for clip in prediction.clips] if names is None else names
    return _with_classes(prediction, names, settings, file)


def _has_windows(file: Path) -> bool:
    try:
        values = json.loads(read_text(file, MAX_JSON))
    except (OSError, ValueError, RecursionError):
        return False  # Reading it as a prediction reports the error.
    return isinstance(values, dict) and "recordings" in values


def _with_windows(
    prediction: Timelines, names: Sequence[str], settings: PreparationSettings, file: Path
) -> Found:
    chosen, of = _choose(file, [timeline.name for timeline in prediction.recordings], names)
    find_recording = _Lookup(prediction.description)
    clips = []
    for timeline in (prediction.recordings[index] for index in chosen):
        (dataset, reader), source = find_recording(timeline.source, timeline.name)
        clips.append(viewed_timeline(dataset, reader, source, settings, timeline, prediction.frame_rate))
    return Found(tuple(clips), of, settings, prediction.model)


def _with_classes(
    prediction: Prediction, names: Sequence[str], settings: PreparationSettings, file: Path
) -> Found:
    indices, of = _choose(file, [clip.name for clip in prediction.clips], names)
    chosen = [prediction.clips[index] for index in indices]
    find_recording = _Lookup(prediction.description)
    clips = _viewed([find_recording(clip.source, clip.name) for clip in chosen], settings)
    tops = [tuple((found.class_name, found.probability) for found in clip.top) for clip in chosen]
    with_top = tuple(replace(clip, top=top) for clip, top in zip(clips, tops, strict=True))
    return Found(with_top, of, settings, prediction.model)


class _Lookup:
    """Finds recordings by their source in a prediction; each archive is listed once."""

    def __init__(self, dataset: DatasetDescription | None) -> None:
        self._dataset = dataset
        self._listed: dict[Path, tuple[_Format, list[ClipSource], tuple[Stray, ...]]] = {}

    def __call__(self, source: str, name: str) -> tuple[_Format, ClipSource]:
        place = _place_of(source)
        if place not in self._listed:
            self._listed[place] = _recordings(place, self._dataset)
        form, sources, _ = self._listed[place]
        same = [found for found in sources if found.name == name]
        if same:
            # An archive may have several recordings of one name.
            return form, next((found for found in same if str(found.files[0]) == source), same[0])
        if self._dataset is not None:
            # A recording whose clip name is made of its folders has another name in a prediction.
            for reader in make_readers(self._dataset, any_name=True):
                for found in clips_among(list_files([place]), reader)[0]:
                    if found.name == name:
                        return (self._dataset, reader), found
        raise PspError(
            f"{source}: the recording {name} does not exist any more",
            fix="Restore it, or run psptool predict again.",
        )


def _place_of(source: str) -> Path:
    """The path to list for a source in a prediction: the archive or pickle file with it, the folder of a text
    recording, or the file.
    """
    for colon in re.finditer(":", source):
        archive = recalled(source[: colon.start()])
        if archive.name.lower().endswith(ARCHIVE_SUFFIXES) or archive.is_file():
            return archive
    path = recalled(source)
    return path.parent if without_packing(source).endswith("_skeletons.txt") else path
