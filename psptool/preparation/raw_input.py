"""The input of a preparation: the clips among the raw files, the files to skip, and a digest of the input."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from psptool.common.errors import PspError
from psptool.common.paths import shown
from psptool.common.text import counted
from psptool.common.version import __version__
from psptool.data.skeletons.datasets import NTU60, NTU120, UCLA, Dataset
from psptool.data.skeletons.missing import missing_clips
from psptool.formats.readers.base import ClipSource, FileRef, Reader, Stray
from psptool.formats.readers.ntu import NtuReader
from psptool.formats.readers.sources import clips_among, list_files
from psptool.formats.readers.ucla import UclaJsonReader, UclaTextReader, ucla_reader_for
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.report import LeftOut

Kind = Literal["ntu", "ucla"]
ANY_NAME: tuple[Reader, ...] = (
    NtuReader(any_name=True),
    UclaJsonReader(any_name=True),
    UclaTextReader(any_name=True),
)
"""A reader of each format for prediction, where recordings may have any name."""
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
        raw_bytes: Size of the files of ``clips``, in bytes.
        digest: Digest of the files (paths, sizes, modification times), the settings and the tool version.
    """

    dataset: Dataset
    reader: Reader
    clips: tuple[ClipCopies, ...]
    skipped: tuple[LeftOut, ...]
    found: int
    raw_bytes: int
    digest: str


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
def find_raw_input(kind: Kind, raw: Sequence[Path], settings: PreparationSettings) -> RawInput:
    """List the raw files and find the clips among them, without reading their content.

    NTU recordings are taken as NTU RGB+D 120 if any action number is above 60.

    Raises:
        PspError: A path does not exist or cannot be read, or contains no clip.
    """
    files = list_files(raw)
    reader: Reader = NtuReader() if kind == "ntu" else ucla_reader_for(files)
    sources, strays = clips_among(files, reader)
    if not sources:
        raise _nothing_found(reader, files, strays)
    dataset = _dataset(kind, sources)
    listed = missing_clips(dataset.name)
    copies = [tuple(group) for name, group in groupby(sources, lambda s: s.name) if name not in listed]
    skipped = [_left_out(source, LISTED) for source in sources if source.name in listed]
    skipped += [LeftOut(name=stray.name, source=stray.source, reason=stray.reason) for stray in strays]
    return RawInput(
        dataset,
        reader,
        tuple(copies),
        tuple(skipped),
        len(sources) + len(strays),
        sum(raw_size(clip) for clip in copies),
        _digest(raw, sources, strays, settings),
    )


def raw_size(copies: ClipCopies) -> int:
    """Size of a clip's files and of its copies, in bytes."""
    return sum(file.size for source in copies for file in source.files)


def _dataset(kind: Kind, sources: Iterable[ClipSource]) -> Dataset:
    if kind == "ucla":
        return UCLA
    return NTU120 if any(s.key.label >= len(NTU60.class_names) for s in sources) else NTU60


def _left_out(source: ClipSource, reason: str) -> LeftOut:
    return LeftOut(name=source.name, source=str(source.files[0]), reason=reason)


def _nothing_found(reader: Reader, files: Sequence[FileRef], strays: Sequence[Stray]) -> PspError:
    found = f"{counted(len(files), 'file')}, none of which is a clip"
    if strays:
        found += (
            f"; {counted(len(strays), 'file')} of this format, such as {strays[0].source}: {strays[0].reason}"
        )
    return PspError(
        f"--raw: no {reader.format} recordings",
        found,
        fix="Check the paths after --raw, and the dataset named on the command line.",
    )


def _digest(
    raw: Sequence[Path], sources: Iterable[ClipSource], strays: Iterable[Stray], settings: PreparationSettings
) -> str:
    digest = hashlib.sha256(f"psptool-input-1\n{__version__}\n{settings.model_dump_json()}\n".encode())
    if not all(path.is_absolute() for path in raw):
        digest.update(f"{shown(Path.cwd())}\n".encode())
    for source in sources:
        for file in source.files:
            digest.update(f"{file}\t{file.size}\t{file.changed}\n".encode())
    for stray in strays:
        digest.update(f"{stray.source}\t{stray.reason}\n".encode())
    return digest.hexdigest()
