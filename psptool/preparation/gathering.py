"""What there is to prepare: the clips among the raw files, those to leave out, and a digest of the input."""

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
"""Every format's reader, for recordings that are to be recognized and whose names may be any."""
Copies = tuple[ClipSource, ...]
"""One clip, and further files of the same name."""

LISTED = "missing-skeleton list"


@dataclass(frozen=True)
class Gathered:
    """The work of one preparation.

    Attributes:
        dataset: Which dataset the clips make.
        reader: Reads them.
        clips: Names ascending.
        skipped: Clips on the missing-skeleton list, then strays.
        found: All of them, copies counted.
        raw_bytes: Bytes of the files of ``clips``.
        digest: Equal where the files (paths, sizes, times of change), settings and tool are.
    """

    dataset: Dataset
    reader: Reader
    clips: tuple[Copies, ...]
    skipped: tuple[LeftOut, ...]
    found: int
    raw_bytes: int
    digest: str


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Without Python's garbage collector, which goes over all records again each time a quarter has come to them: a
    third of the time that listing them takes, and none of them is garbage.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collector_at_rest()
def gather(kind: Kind, raw: Sequence[Path], settings: PreparationSettings) -> Gathered:
    """List the raw files and find the clips among them, without reading any.

    NTU recordings are NTU RGB+D 120 as soon as one of their actions is above 60.

    Raises:
        PspError: A path is absent or unreadable, or there is no clip in any.
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
    return Gathered(
        dataset,
        reader,
        tuple(copies),
        tuple(skipped),
        len(sources) + len(strays),
        sum(raw_size(clip) for clip in copies),
        _digest(raw, sources, strays, settings),
    )


def raw_size(copies: Copies) -> int:
    """Bytes that reading a clip takes, its copies included."""
    return sum(file.size for source in copies for file in source.files)


def _dataset(kind: Kind, sources: Iterable[ClipSource]) -> Dataset:
    if kind == "ucla":
        return UCLA
    return NTU120 if any(s.key.label >= len(NTU60.class_names) for s in sources) else NTU60


def _left_out(source: ClipSource, reason: str) -> LeftOut:
    return LeftOut(name=source.name, source=str(source.files[0]), reason=reason)


def _nothing_found(reader: Reader, files: Sequence[FileRef], strays: Sequence[Stray]) -> PspError:
    found = f"{len(files)} files, none of them a clip"
    if strays:
        found += f"; {len(strays)} of the right kind, such as {strays[0].source}: {strays[0].reason}"
    return PspError(
        f"no {reader.format} recordings in the raw files",
        found,
        fix="Check --raw, and that the dataset named on the command line is the one there.",
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
