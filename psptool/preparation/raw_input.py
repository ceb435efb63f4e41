"""The input of a preparation: the clips among the raw files, the files to skip, and a digest of the input."""

from __future__ import annotations

import gc
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from psptool.common.errors import PspError
from psptool.common.paths import shown
from psptool.common.text import counted
from psptool.common.version import __version__
from psptool.formats.readers.base import ClipSource, FileRef, Reader, Stray
from psptool.formats.readers.making import make_readers
from psptool.formats.readers.sources import clips_among, list_files
from psptool.preparation.naming import name_clips
from psptool.schemas import builtin
from psptool.schemas.clip_names import NOT_A_CLASS
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.description import DatasetDescription
from psptool.schemas.problems import listed
from psptool.schemas.protocols import ListProtocol, Protocol
from psptool.schemas.report import LeftOut

ClipCopies = tuple[ClipSource, ...]
"""A clip, followed by its copies: further recordings with the same clip name."""

LISTED = "missing-skeleton list"


@dataclass(frozen=True)
class RawInput:
    """The input of one preparation.

    Attributes:
        dataset: The dataset that the clips belong to.
        reader: The reader of their format.
        clips: The clips to prepare, in ascending order of their names.
        skipped: Clips on the missing-skeleton list, then files whose name is not a clip name.
        found: Number of all clips and skipped files, including copies.
        raw_bytes: Size of the files of ``clips``, in bytes; a file with several segments counts once.
        digest: Digest of the description, the files (paths, sizes, modification times), the settings and the version.
    """

    dataset: DatasetDescription
    reader: Reader
    clips: tuple[ClipCopies, ...]
    skipped: tuple[LeftOut, ...]
    found: int
    raw_bytes: int
    digest: str

    @property
    def copies(self) -> tuple[tuple[str, str], ...]:
        """The first file of each additional copy, and of the clip that is used instead."""
        return tuple(
            (str(other.files[0]), str(used.files[0])) for used, *others in self.clips for other in others
        )


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Disable Python's garbage collector. It would scan the records again and again while they are listed, which takes
    a third of the time, and none of them is garbage.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collector_at_rest()
def find_raw_input(
    datasets: Sequence[DatasetDescription], raw: Sequence[Path], settings: PreparationSettings
) -> RawInput:
    """List the raw files and find the clips among them, without reading their content.

    Args:
        datasets: The dataset. Of several with one format, whose first classes are the same, the first that has the
            classes of all clips is chosen; they are in ascending order of their number of classes.
        raw: Folders, archives and files.
        settings: Settings of the preparation.

    Raises:
        PspError: A path does not exist or cannot be read, or contains no clip; a clip is in a training list and in the
            test list of its protocol.
    """
    files = list_files(raw)
    largest = datasets[-1]
    reader, sources, strays = _find_clips(largest, files, datasets[0].title or largest.name)
    labels = max(source.key.label for source in sources)
    dataset = next((one for one in datasets if labels < len(one.class_names)), largest)
    dataset = _with_lists(dataset, reader)
    missing = frozenset(dataset.missing)
    copies = [tuple(group) for name, group in groupby(sources, lambda s: s.name) if name not in missing]
    skipped = [_left_out(source, LISTED) for source in sources if source.name in missing]
    skipped += [LeftOut(name=stray.name, source=stray.source, reason=stray.reason) for stray in strays]
    return RawInput(
        dataset,
        reader,
        tuple(copies),
        tuple(skipped),
        len(sources) + len(strays),
        sum({str(file): file.size for clip in copies for source in clip for file in source.files}.values()),
        _digest(dataset, raw, sources, strays, settings),
    )


def _with_lists(dataset: DatasetDescription, reader: Reader) -> DatasetDescription:
    """The dataset with the training and test lists in its files as protocols, if its description has none.

    Raises:
        PspError: A clip is in the training list and in the test list of one protocol.
    """
    if "protocols" in dataset.model_fields_set:
        return dataset
    while hasattr(reader, "reader"):  # the reader of the files, without those that change what it parses
        reader = reader.reader
    lists: dict[str, tuple[str, ...]] = getattr(reader, "lists", {})
    found: dict[str, Protocol] = {}
    for key, train in lists.items():
        name = re.sub(r"[^A-Za-z0-9_-]", "_", key.removesuffix("train").rstrip("_-")) or "own"
        other = next((key[:-5] + part for part in ("val", "test") if key[:-5] + part in lists), None)
        if (
            key.endswith("train")
            and train
            and other is not None
            and lists[other]
            and re.fullmatch(r"[A-Za-z0-9][\w-]{0,39}", name, re.ASCII)
        ):
            test = set(lists[other])
            if both := sorted(test.intersection(train)):
                raise PspError(
                    f"--raw: the lists {key} and {other} of the files",
                    f"{listed(both, 3)} in both lists",
                    "each clip in one list",
                    "Correct the lists, or write protocols in the dataset's description.",
                )
            found[name] = ListProtocol(train_clips=train, test_clips=tuple(sorted(test)))
    return dataset.model_copy(update={"protocols": found}) if found else dataset


def unlisted_notes(dataset: DatasetDescription, names: Sequence[str]) -> list[str]:
    """A note on each protocol with a training and a test list, if clips are in neither.

    Args:
        dataset: The dataset with its protocols.
        names: Names of the clips.
    """
    notes = []
    for name, protocol in dataset.protocols.items():
        if not isinstance(protocol, ListProtocol) or protocol.test_clips is None:
            continue
        in_lists = {*protocol.train_clips, *protocol.test_clips}
        if neither := [clip for clip in names if clip not in in_lists]:
            clips = f"{len(neither):,} of {counted(len(names), 'clip')}"
            notes.append(
                f"protocol {name}: {clips} in neither list, and so in no split: {listed(neither, 3)}"
            )
    return notes


def empty_class_warnings(raw_input: RawInput) -> list[str]:
    """A warning if classes have no clip; it names the labels that are not classes.

    There is none for a built-in dataset, of which a user may have a part.
    """
    dataset = raw_input.dataset
    labels = {copies[0].key.label for copies in raw_input.clips}
    empty = [name for label, name in enumerate(dataset.class_names) if label not in labels]
    if not empty or dataset.name in builtin.dataset_names():
        return []
    unknown = sorted({one.reason for one in raw_input.skipped if one.reason.endswith(NOT_A_CLASS)})
    text = f"{dataset.name}: no clip of {'class' if len(empty) == 1 else 'the classes'} {listed(empty)}"
    return [f"{text}, but {listed(unknown)}" if unknown else text]


def raw_size(copies: ClipCopies) -> int:
    """Size of a clip's files and of its copies, in bytes."""
    return sum(file.size for source in copies for file in source.files)


def _find_clips(
    dataset: DatasetDescription, files: list[FileRef], title: str
) -> tuple[Reader, list[ClipSource], list[Stray]]:
    """The reader for the recordings, the clips and the strays.

    Raises:
        PspError: No reader finds a clip, or two do.
    """
    readers = make_readers(dataset, any_name=not dataset.keys_in_names)
    found = []
    all_strays: list[Stray] = []
    for reader in readers:
        clips, strays = clips_among(files, reader)
        clips, more = name_clips(dataset, clips)
        strays += more
        if not dataset.keys_in_names:
            clips.sort(key=lambda clip: (clip.name, str(clip.files[0])))
        if clips:
            found.append((reader, clips, strays))
        all_strays += strays
    if not found:
        raise _nothing_found(dataset, title, readers, files, all_strays)
    if len(found) > 1:
        formats = " and ".join(f"{clips[0].files[0]} ({reader.format})" for reader, clips, _ in found)
        raise PspError(
            f"--raw: {title} recordings in several formats",
            formats,
            "one format; otherwise the same recordings would count twice",
            "Use the folder of one format with --raw.",
        )
    return found[0]


def _left_out(source: ClipSource, reason: str) -> LeftOut:
    return LeftOut(name=source.name, source=str(source.files[0]), reason=reason)


def _nothing_found(
    dataset: DatasetDescription,
    title: str,
    readers: Sequence[Reader],
    files: Sequence[FileRef],
    strays: Sequence[Stray],
) -> PspError:
    found = f"{counted(len(files), 'file')}, none of which is a clip"
    if strays:
        found += (
            f"; {counted(len(strays), 'file')} of this format, such as {strays[0].source}: {strays[0].reason}"
        )
    formats = " or ".join(reader.format for reader in readers)
    return PspError(
        f"--raw: no {title} recordings",
        found,
        f"{formats} files" + (f" named {dataset.clips.in_words}" if dataset.keys_in_names else ""),
        fix="Check the paths after --raw, and the dataset named on the command line.",
    )


def _digest(
    dataset: DatasetDescription,
    raw: Sequence[Path],
    sources: Iterable[ClipSource],
    strays: Iterable[Stray],
    settings: PreparationSettings,
) -> str:
    text = f"psptool-input-2\n{__version__}\n{dataset.model_dump_json()}\n{settings.model_dump_json()}\n"
    digest = hashlib.sha256(text.encode())
    if not all(path.is_absolute() for path in raw):
        digest.update(f"{shown(Path.cwd())}\n".encode())
    for source in sources:
        if not dataset.keys_in_names:
            digest.update(f"{source.name}\t{tuple(source.key)}\t{source.segment}\n".encode())
        for file in source.files:
            digest.update(f"{file}\t{file.size}\t{file.changed}\n".encode())
    for stray in strays:
        digest.update(f"{stray.source}\t{stray.reason}\n".encode())
    return digest.hexdigest()
