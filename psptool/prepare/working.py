"""What a worker does with a clip: read, parse, choose persons, normalize, take differences and digests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psptool.errors import PspError, RawFormatError
from psptool.prepare.gathering import Copies, raw_size
from psptool.prepare.normalize import normalize
from psptool.prepare.tracks import find_persons
from psptool.readers.base import Reader
from psptool.readers.sources import read_clip
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.report import LeftOut
from psptool.store.writing import PackedClip, pack

# A task long enough that handing it over costs nothing, and short enough that its results fit many times in
# memory.
BATCH_BYTES = 4 * 2**20
BATCH_CLIPS = 64


@dataclass(frozen=True)
class Outcome:
    """What became of a clip: packed, or left out.

    Attributes:
        packed: The clip, ready for the store.
        left_out: Why it is not.
        repeated: Further copies, byte for byte the same.
    """

    packed: PackedClip | None
    left_out: LeftOut | None
    repeated: int


def batches(clips: Sequence[Copies]) -> Iterator[tuple[Copies, ...]]:
    """Runs of clips of about `BATCH_BYTES`, in order."""
    batch: list[Copies] = []
    size = 0
    for copies in clips:
        batch.append(copies)
        size += raw_size(copies)
        if size >= BATCH_BYTES or len(batch) == BATCH_CLIPS:
            yield tuple(batch)
            batch, size = [], 0
    if batch:
        yield tuple(batch)


def prepare_batch(
    batch: Sequence[Copies], reader: Reader, settings: PreparationSettings, folder: str = ""
) -> list[Outcome]:
    """`prepare_clip` of each."""
    return [prepare_clip(copies, reader, settings, folder) for copies in batch]


def prepare_clip(copies: Copies, reader: Reader, settings: PreparationSettings, folder: str = "") -> Outcome:
    """Prepare one clip.

    Args:
        copies: The clip.
        reader: Reads it.
        settings: How it is treated.
        folder: What paths that are not absolute are relative to, where that is not the working directory.

    Raises:
        PspError: A file cannot be read, or two files of one clip name differ.
    """
    source = copies[0]
    try:
        blobs = read_clip(source, folder)
        for other in copies[1:]:
            if read_clip(other, folder) != blobs:
                raise PspError(
                    f"two different recordings have the clip name {source.name}",
                    f"{source.files[0]} and {other.files[0]}",
                    way_out="Name only one of them with --raw, or remove the wrong one.",
                )
        clip = reader.parse(source, blobs)
        persons = find_persons(clip, reader.topology, settings)
        packed = pack(normalize(clip.name, clip.key, persons, reader.topology, settings))
    except RawFormatError as error:
        where = str(source.files[0])
        left_out = LeftOut(name=source.name, source=where, reason=error.reason, detail=str(error))
        return Outcome(None, left_out, len(copies) - 1)
    return Outcome(packed, None, len(copies) - 1)
