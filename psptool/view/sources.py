"""Finds the clips to view: in a prepared dataset, in raw recordings, or in a prediction."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from psptool.common.errors import PspError
from psptool.common.paths import recalled, shown
from psptool.common.text import counted
from psptool.data.skeletons.datasets import DATASETS, NTU120, UCLA
from psptool.data.skeletons.topologies import TOPOLOGIES
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.reading import Store, open_store
from psptool.formats.readers.ahead import ReadAhead
from psptool.formats.readers.base import ClipSource, RawClip, Reader, Stray
from psptool.formats.readers.ntu import NtuReader
from psptool.formats.readers.packing import ARCHIVE_SUFFIXES, without_packing
from psptool.formats.readers.sources import LOST, MAX_BYTES, clips_among, list_files, read_clip
from psptool.formats.readers.ucla import MAX_JSON_BYTES, UclaJsonReader, UclaTextReader
from psptool.preparation.interpolation import is_missing
from psptool.preparation.normalize import normalize
from psptool.preparation.raw_input import ANY_NAME
from psptool.preparation.selection import find_persons, place_persons, select
from psptool.preparation.tracks import fill_missing_joints, join, place, split_tracks
from psptool.preparation.worker import notes_of
from psptool.schemas.dataset import PreparationSettings, prepared_up
from psptool.schemas.prediction import Prediction
from psptool.view.scene import Scene, ViewedClip, normalized_scene, recorded_scene

FEW = 6
"""Clips shown where none is named."""
MOST = 24
"""Clips shown where more match the names given: a page of hundreds would be too large for a browser."""
DATASET_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class Found:
    """The clips to view.

    Attributes:
        clips: In the order asked for.
        of: How many clips there are or, where names were given, how many match.
        settings: How they were prepared.
        model: The run behind a prediction.
        lost: Files that may hold recordings but cannot be read.
    """

    clips: tuple[ViewedClip, ...]
    of: int
    settings: PreparationSettings
    model: str | None = None
    lost: tuple[Stray, ...] = ()


def find(file: Path, names: Sequence[str] = (), settings: PreparationSettings | None = None) -> Found:
    """The clips of ``file`` that ``names`` match; without names up to `FEW`, evenly spaced.

    Args:
        file: A prepared dataset; a raw file, folder, zip or tar archive of either dataset; or the JSON of
            ``psptool predict``.
        names: Clip names, glob patterns, or parts of names; see `matching`.
        settings: How raw recordings are prepared.

    Raises:
        PspError: The file is missing or of an unknown kind, no clip matches, or a recording is damaged.
    """
    settings = settings or PreparationSettings()
    names = tuple(map(shown, names))
    if file.suffix.lower() in DATASET_SUFFIXES:
        with open_store(file) as store:
            return stored(store, names)
    if file.suffix.lower() == ".json" and not _is_recording(file):
        return _predicted(file, names, settings)
    reader, sources, lost = _recordings(file)
    chosen, of = _choose(file, tuple(source.name for source in sources), names)
    by_name = {source.name: source for source in sources}
    clips = _viewed([(reader, by_name[name]) for name in chosen], settings)
    return Found(clips, of, settings, lost=lost)


def _viewed(
    chosen: Sequence[tuple[Reader, ClipSource]], settings: PreparationSettings
) -> tuple[ViewedClip, ...]:
    ahead = ReadAhead([source for _, source in chosen], MAX_BYTES)
    return tuple(viewed_recording(reader, ahead.attach(source), settings) for reader, source in chosen)


def stored(store: Store, names: Sequence[str] = ()) -> Found:
    """Clips of a prepared dataset; arguments and errors as for `find`."""
    manifest = store.manifest
    chosen, of = _choose(store.path, store.names, names)
    clips = []
    for name in chosen:
        clip = store.clip(name)
        prepared = clip.prepared()
        recorded = recorded_scene(prepared, DATASETS[manifest.dataset].up)
        scenes = (recorded, normalized_scene(prepared, manifest.up))
        action = manifest.class_names[clip.key.label]
        clips.append(ViewedClip(TOPOLOGIES[manifest.topology], action, prepared, scenes))
    return Found(tuple(clips), of, manifest.settings)


def viewed_recording(reader: Reader, source: ClipSource, settings: PreparationSettings) -> ViewedClip:
    """One raw recording: every body as recorded, and the persons after preparation.

    Raises:
        PspError: The recording cannot be read or prepared.
    """
    raw = reader.parse(source, read_clip(source))
    dataset = UCLA if reader.topology is UCLA.topology else NTU120
    tracks = split_tracks(raw).tracks
    if not tracks:
        find_persons(raw, reader.topology, settings)  # raises an error that says why there is no person
    filled = [fill_missing_joints(track, reader.topology) for track in tracks]
    kept = select(filled, reader.topology.center, settings)
    persons = place_persons(filled, kept, raw.frames)
    prepared = normalize(raw.name, raw.key, persons, reader.topology, settings)
    # Persons first, in order: a person has the same colour in both scenes.
    taken = {n for own in kept.persons for n in own}
    bodies = [*kept.persons, *((n,) for n in range(len(tracks)) if n not in taken)]
    laid = place([join([tracks[n] for n in own]) for own in bodies], raw.frames)
    xyz = np.where(is_missing(laid.xyz)[..., None], np.nan, laid.xyz)
    is_kept = tuple(n < len(kept.persons) for n in range(len(bodies)))
    recorded = Scene("recorded", dataset.up, "m", xyz, laid.present, laid.state, is_kept)
    scenes = (recorded, normalized_scene(prepared, prepared_up(dataset.up, settings.align)))
    return ViewedClip(
        reader.topology,
        dataset.class_names[raw.key.label] if raw.key.label >= 0 else "",
        prepared,
        scenes,
        said=_said(raw, is_kept, prepared),
    )


def _said(raw: RawClip, kept: Sequence[bool], prepared: PreparedClip) -> tuple[str, ...]:
    left_out, empty = len(kept) - sum(kept), raw.frames - len(np.unique(raw.frame))
    said = list(notes_of(prepared))
    if left_out:
        said.append(f"{left_out} of {len(kept)} bodies not selected as persons (grey)")
    if empty:
        said.append(f"{counted(empty, 'frame')} without a body")
    return tuple(said)


def _recordings(path: Path) -> tuple[Reader, list[ClipSource], tuple[Stray, ...]]:
    """The reader for the files at ``path``, the clips (the first of each name), and files that cannot be read."""
    # A text recording is recognized by its folder and the one above, which a relative path may not name.
    files = list_files([path.resolve() if path.is_dir() else path])
    strays: list[Stray] = []
    readers: tuple[Reader, ...] = (NtuReader(), UclaJsonReader(), UclaTextReader(), *ANY_NAME)
    for reader in readers:
        sources, more = clips_among(files, reader)
        if sources:
            clips = list({source.name: source for source in reversed(sources)}.values())[::-1]
            return reader, clips, tuple(stray for stray in more if stray.reason in LOST)
        strays += more
    raise PspError(
        f"{path}: no recording found",
        f"{strays[0].name}: {strays[0].reason}"
        if strays
        else f"{counted(len(files), 'file')} of other kinds",
        "a prepared dataset (.h5), a .skeleton, an NW-UCLA JSON or text folder, a zip or tar archive of such, or a "
        "prediction",
    )


def _is_recording(file: Path) -> bool:
    """Whether a JSON file has the key of NW-UCLA's recordings, or of OpenPose's, which their reader refuses."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_JSON_BYTES)
        return b'"skeletons"' in content or b'"people"' in content
    except OSError:
        return False  # Reading the whole file reports the error.


def matching(name: str, there: Sequence[str]) -> list[str]:
    """The clips that ``name`` means: that clip, all that fit a glob pattern, or all whose name contains it.

    Args:
        name: A clip's name; a pattern such as ``S017*``; or a part such as ``A058``, in upper or lower case. Of names
            that contain it, those that begin with it are preferred.
        there: The names to choose from.
    """
    if name in there:
        return [name]
    low = name.lower()
    if set("*?[") & set(name):
        return [one for one in there if fnmatchcase(one.lower(), low)]
    return [one for one in there if one.lower().startswith(low)] or [
        one for one in there if low in one.lower()
    ]


def _choose(file: Path, there: Sequence[str], names: Sequence[str]) -> tuple[Sequence[str], int]:
    """The clips to view, at most `MOST` of those that match, and how many there are to choose from.

    Raises:
        PspError: A name matches no clip.
    """
    if not names:
        return _spaced(there), len(there)
    found: dict[str, None] = {}
    for name in names:
        matches = matching(name, there)
        if not matches:
            near = sorted(difflib.get_close_matches(name, there, n=5, cutoff=0.5))
            some = ", ".join(near or _spaced(there))
            raise PspError(
                f"{file}: has no clip {name!r}",
                fix=f"Did you mean {some}?" if near else f"There are, for example: {some}.",
            )
        found.update(dict.fromkeys(matches))
    return _spaced(tuple(found), MOST), len(found)


def _spaced(there: Sequence[str], most: int = FEW) -> list[str]:
    """At most ``most`` names, evenly spaced."""
    count = min(most, len(there))
    return [there[n * len(there) // count] for n in range(count)]


def _predicted(file: Path, names: Sequence[str], settings: PreparationSettings) -> Found:
    """The recordings of a prediction, read from the paths it holds, with their most probable actions."""
    prediction = Prediction.load(file)
    by_name = {clip.name: clip for clip in prediction.clips}
    chosen, of = _choose(file, tuple(by_name), names)
    look = _Lookup()
    clips = _viewed([look(by_name[name].source, name) for name in chosen], settings)
    tops = [tuple((guess.class_name, guess.probability) for guess in by_name[name].top) for name in chosen]
    with_top = tuple(replace(clip, top=top) for clip, top in zip(clips, tops, strict=True))
    return Found(with_top, of, settings, prediction.model)


class _Lookup:
    """Finds recordings by the source that a prediction names; each archive is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, tuple[Reader, list[ClipSource], tuple[Stray, ...]]] = {}

    def __call__(self, source: str, name: str) -> tuple[Reader, ClipSource]:
        place = _place_of(source)
        if place not in self._listed:
            self._listed[place] = _recordings(place)
        reader, sources, _ = self._listed[place]
        for found in sources:
            if found.name == name:
                return reader, found
        raise PspError(
            f"{source}: the recording {name} is no longer there",
            fix="Put it back, or predict again.",
        )


def _place_of(source: str) -> Path:
    """The path to list for a prediction's source: the archive, the folder of a text recording, or the file."""
    for colon in re.finditer(":", source):
        archive = source[: colon.start()]
        if archive.lower().endswith(ARCHIVE_SUFFIXES):
            return recalled(archive)
    path = recalled(source)
    return path.parent if without_packing(source).endswith("_skeletons.txt") else path
