"""Importing another tool's clips as a dataset. Labels are checked against the clip names, and positions are normalized
as in a preparation.

Dataset and report are written atomically, as in a preparation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psptool.common.atomic_write import differing, write_together
from psptool.common.errors import PspError, RawFormatError
from psptool.data.splits.making import split_name
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.reading import open_store
from psptool.data.store.writing import StoreWriter, pack
from psptool.exchange.contents import Contents, dataset_named, leave_out
from psptool.exchange.parts import absent_from, splits_of
from psptool.exchange.positions import Coordinates, prepared
from psptool.preparation.pipeline import DEFAULT_FOLDER, ProgressCallback, make_folder, report_beside
from psptool.preparation.raw_input import LISTED
from psptool.preparation.report import ReportBuilder, make_manifest, make_report
from psptool.preparation.worker import PACK_CLIPS, BatchOutcome
from psptool.schemas import builtin
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.description import DatasetDescription
from psptool.schemas.problems import listed
from psptool.schemas.report import ClipNote, LeftOut, PreparationReport

ImportedCopies = tuple[tuple[Contents, int], ...]
"""A clip and its copies: (file, index of the clip in it)."""


@dataclass(frozen=True)
class Collected:
    """The input of one import.

    Attributes:
        dataset: The dataset that the clips belong to.
        clips: Name and location of each clip, in ascending order of the names.
        skipped: Clips on the missing-skeleton list, and entries whose name is not a clip name.
        unreadable: Clips that cannot be read.
        found: Number of all clips, including copies.
        digest: Empty, so that a preparation never takes the dataset for an up-to-date one of its own.
    """

    dataset: DatasetDescription
    clips: tuple[tuple[str, ImportedCopies], ...]
    skipped: tuple[LeftOut, ...]
    unreadable: tuple[LeftOut, ...]
    found: int
    digest: str = ""


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        path: The dataset.
        report_path: The report, in the same folder.
        report: The content of the report.
        splits: The split files.
        lost: The lists of clips that are not splits, with reasons.
        absent: Warnings about lists with clips that are not in the dataset.
    """

    path: Path
    report_path: Path
    report: PreparationReport
    splits: tuple[Path, ...] = ()
    lost: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def import_clips(
    contents: Sequence[Contents],
    out: Path | None,
    coordinates: Coordinates,
    settings: PreparationSettings,
    *,
    force: bool = False,
    progress: ProgressCallback | None = None,
    splits: Path | None = None,
) -> Imported:
    """Write the clips of ``contents`` as a dataset, with its report and splits: all files or none.

    Args:
        contents: Contents of the files; a clip may be in several.
        out: The dataset's file; ``data/<dataset>.h5`` if None.
        coordinates: Coordinate system of the positions.
        settings: Settings of the normalization: to apply, or already applied to normalized positions.
        force: Replace an existing dataset, and an existing report or split with other content.
        progress: Called after every batch of clips.
        splits: The folder for the splits that the files have; None to leave them out.

    Raises:
        PspError: No clip is usable; two clips with one name differ; the number of joints is not the dataset's; a file
            exists or cannot be written. No file is changed then.
    """
    collected = collect(contents)
    path = out if out is not None else DEFAULT_FOLDER / f"{collected.dataset.name}.h5"
    if path.exists() and not path.is_dir() and not force:
        raise _exists([path], "Choose another file with --out")
    make_folder(path)
    builder = ReportBuilder(quarantined=list(collected.unreadable))
    with StoreWriter(path, collected.dataset.topology.size) as writer:
        for outcome in _batches(collected, coordinates, settings):
            builder.add(outcome)
            writer.add(outcome.packed)
            if progress is not None:
                progress(builder.done, len(collected.clips))
        if not writer.clips:
            raise _nothing([*builder.quarantined, *collected.skipped])
        manifest = make_manifest(collected, settings, writer, builder)
        sources = [one.path for one in contents]
        report = make_report(sources, collected, settings, manifest, builder)
        writer.close(manifest)
        done = Imported(path, report_beside(path), report)
        files: dict[Path, str | bytes] = {done.report_path: report.dump()}
        if splits is not None:
            # The dataset is complete, but it has its final name only when the other files are written.
            with open_store(writer.partial, locked=False) as store:
                found, lost = splits_of(store, contents)
                absent = absent_from(store, contents)
            texts: dict[Path, str | bytes] = {
                splits / f"{split_name(split, collected.dataset)}.json": split.dump() for split in found
            }
            done = replace(done, splits=tuple(texts), lost=tuple(lost), absent=tuple(absent))
            files |= texts
        if not force and (others := differing(files)):
            raise _exists(others, "Move what you want to keep")
        write_together(files, first=writer.commit)
    return done


def _exists(paths: Sequence[Path], instead: str) -> PspError:
    """The error for files that would be replaced; ``instead`` is the way to keep them."""
    return PspError(
        f"{listed(paths)}: {'the file exists' if len(paths) == 1 else 'the files exist'} already",
        fix=f"{instead}, or replace existing files with --force.",
    )


def collect(contents: Sequence[Contents]) -> Collected:
    """The clips of the files by name, and the clips to exclude.

    Raises:
        PspError: No clip can be read, no name belongs to a known dataset, or a file has another number of joints than
            the dataset.
    """
    names = [name for one in contents for name in one.names]
    unreadable = tuple(clip for one in contents for clip in one.left_out)
    if not names and unreadable:
        raise _nothing(unreadable, f"Check the files to import. {_own_data_fix(contents[0].path)}")
    dataset = dataset_named(names)
    if dataset is None:
        raise PspError(
            f"{contents[0].path}: clip names",
            ", ".join(map(repr, names[:3])) or "none",
            "names of "
            + " or ".join(f"{one.title} ({one.clips.in_words})" for one in builtin.builtin_datasets()),
            _own_data_fix(contents[0].path),
        )
    for one in contents:
        if one.names and one.joints != dataset.topology.size:
            raise PspError(
                f"{one.path}: joints", str(one.joints), f"{dataset.topology.size} ({dataset.name})"
            )
    places = sorted(
        (name, file, place) for file, one in enumerate(contents) for place, name in enumerate(one.names)
    )
    listed = frozenset(dataset.missing)
    clips: list[tuple[str, ImportedCopies]] = []
    skipped: list[LeftOut] = []
    for name, group in groupby(places, lambda place: place[0]):
        copies = tuple((contents[file], place) for _, file, place in group)
        reason = LISTED if name in listed else None if dataset.parse(name) else "name"
        if reason is None:
            clips.append((name, copies))
        else:
            skipped += [LeftOut(name=name, source=str(one.path), reason=reason) for one, _ in copies]
    return Collected(dataset, tuple(clips), tuple(skipped), unreadable, len(places) + len(unreadable))


def _batches(
    collected: Collected, coordinates: Coordinates, settings: PreparationSettings
) -> Iterator[BatchOutcome]:
    for start in range(0, len(collected.clips), PACK_CLIPS):
        batch = collected.clips[start : start + PACK_CLIPS]
        outcomes = [_clip(name, copies, collected.dataset, coordinates, settings) for name, copies in batch]
        clips = [one for one in outcomes if isinstance(one, PreparedClip)]
        yield BatchOutcome(
            len(batch),
            pack(clips, collected.dataset.topology.size),
            tuple(one for one in outcomes if isinstance(one, LeftOut)),
            tuple(ClipNote(name=clip.name, note=note) for clip in clips for note in clip.notes),
            sum(len(copies) - 1 for _, copies in batch),
            sum(clip.interpolated for clip in clips),
        )


def _clip(
    name: str,
    copies: ImportedCopies,
    dataset: DatasetDescription,
    coordinates: Coordinates,
    settings: PreparationSettings,
) -> PreparedClip | LeftOut:
    """The prepared clip, or the reason for its exclusion.

    Raises:
        PspError: Two clips with this name differ.
    """
    contents, place = copies[0]
    xyz = contents.read(place)
    for other, there in copies[1:]:
        if not np.array_equal(other.read(there), xyz, equal_nan=True):
            raise PspError(
                f"two different recordings have the clip name {name}",
                f"{contents.path} and {other.path}",
                fix="Import only one of the files, or remove the wrong one.",
            )
    try:
        return _checked(name, copies, xyz, dataset, coordinates, settings)
    except RawFormatError as error:
        return leave_out(contents.path, name, error)


def _checked(
    name: str,
    copies: ImportedCopies,
    xyz: NDArray[np.floating],
    dataset: DatasetDescription,
    coordinates: Coordinates,
    settings: PreparationSettings,
) -> PreparedClip:
    key = dataset.parse(name)
    assert key is not None
    for contents, place in copies:
        if contents.labels[place] != key.label:
            raise RawFormatError(
                "label", name, str(contents.labels[place]), f"{key.label}, according to the name"
            )
    if xyz.shape[2] != dataset.topology.size:
        raise RawFormatError("joint count", name, str(xyz.shape[2]), str(dataset.topology.size))
    # Values beyond float32 become infinite and are refused by `prepared`.
    with np.errstate(over="ignore"):
        plain = xyz.astype(np.float32)
    return prepared(name, key, plain, coordinates, dataset.topology, settings)


def _own_data_fix(path: Path) -> str:
    """How to read a dataset of one's own, which has other clip names or a 2D skeleton."""
    if path.suffix not in (".pkl", ".pickle"):
        return "A dataset of your own is prepared with a description: psptool prepare DESCRIPTION.yaml --raw FILE."
    return (
        "For a dataset of your own, write a description with format: {reader: pyskl} (psptool describe --from "
        f"{path}), and run psptool prepare DESCRIPTION.yaml --raw {path}."
    )


def _nothing(left_out: Sequence[LeftOut], fix: str = "Check the files to import.") -> PspError:
    counted = Counter(one.reason for one in left_out).most_common()
    reasons = ", ".join(f"{n} {reason}" for reason, n in counted)
    detail = next((one.detail for one in left_out if one.detail), None)
    return PspError(f"no usable clip: {len(left_out)} excluded ({reasons})", detail, fix=fix)
