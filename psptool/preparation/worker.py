"""The work on one clip: read, parse, select persons, normalize, compute motion and digests; and the division of the
clips into tasks for the workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psptool.common.errors import PspError, RawFormatError
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.writing import PackedClips, pack
from psptool.formats.readers.ahead import ReadAhead
from psptool.formats.readers.base import ClipSource, RawClip, Reader
from psptool.formats.readers.sources import read_clip
from psptool.formats.readers.text import same_text
from psptool.preparation.normalize import normalize
from psptool.preparation.raw_input import ClipCopies, raw_size
from psptool.preparation.selection import find_persons
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.report import ClipNote, LeftOut
from psptool.skeletons.topology import Topology

# Largest task: long enough that the transfer is negligible, short enough that many results fit in memory.
TASK_BYTES, TASK_CLIPS = 16 * 2**20, 256
# Largest batch: its arrays fit into a processor's cache. A task has at least this size, except the last one.
PACK_BYTES, PACK_CLIPS = 4 * 2**20, 64
SHARE_OF_THE_REST = 8
"""A task has at most 1/8 of the remaining bytes, so that all workers finish at about the same time."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one clip: prepared or excluded.

    Attributes:
        clip: The prepared clip; None if it was excluded.
        left_out: The reason for its exclusion; None if it was prepared.
        repeated: Number of additional copies with the same content.
    """

    clip: PreparedClip | None
    left_out: LeftOut | None
    repeated: int


@dataclass(frozen=True)
class BatchOutcome:
    """The outcome of a batch of clips.

    Attributes:
        done: Number of clips in the batch.
        packed: The prepared clips, ready for the store.
        left_out: The excluded clips with their reasons.
        notes: Notes on the prepared clips for the report.
        repeated: Number of additional copies.
        interpolated: Number of missing joints that were interpolated.
    """

    done: int
    packed: PackedClips
    left_out: tuple[LeftOut, ...]
    notes: tuple[ClipNote, ...]
    repeated: int
    interpolated: int


def tasks(clips: Sequence[ClipCopies]) -> Iterator[tuple[ClipCopies, ...]]:
    """Divide the clips into tasks of up to `TASK_BYTES`, in order; tasks are smaller towards the end.

    Clips in a compressed tar archive are read here and sent with their bytes. Their tasks are smaller, because several
    tasks are in memory at the same time.

    Raises:
        PspError: Such an archive was changed after it was listed, is damaged, or cannot be read.
    """
    ahead = ReadAhead(every_source(clips))
    largest = PACK_BYTES if ahead else TASK_BYTES
    left, first = sum(map(raw_size, clips)), 0
    while first < len(clips):
        most = max(PACK_BYTES, min(largest, left // SHARE_OF_THE_REST))
        task = next(_runs(clips[first : first + TASK_CLIPS], most, TASK_CLIPS))
        yield attached(task, ahead)
        left, first = left - sum(map(raw_size, task)), first + len(task)


def every_source(clips: Sequence[ClipCopies]) -> list[ClipSource]:
    """All recordings, including copies."""
    return [source for copies in clips for source in copies]


def attached(clips: Sequence[ClipCopies], ahead: ReadAhead) -> tuple[ClipCopies, ...]:
    """The clips, with the bytes of the files that ``ahead`` reads."""
    return tuple(tuple(map(ahead.attach, copies)) for copies in clips) if ahead else tuple(clips)


def prepare_task(
    task: Sequence[ClipCopies], reader: Reader, settings: PreparationSettings, folder: str = ""
) -> list[BatchOutcome]:
    """Prepare a task in batches; arguments as for `prepare_clip`."""
    return [prepare_batch(batch, reader, settings, folder) for batch in _runs(task, PACK_BYTES, PACK_CLIPS)]


def prepare_batch(
    batch: Sequence[ClipCopies], reader: Reader, settings: PreparationSettings, folder: str = ""
) -> BatchOutcome:
    """Prepare each clip of a batch and pack the results; arguments as for `prepare_clip`."""
    outcomes = [prepare_clip(copies, reader, settings, folder) for copies in batch]
    clips = [outcome.clip for outcome in outcomes if outcome.clip is not None]
    return BatchOutcome(
        len(batch),
        pack(clips, reader.topology.size),
        tuple(outcome.left_out for outcome in outcomes if outcome.left_out is not None),
        tuple(note for clip in clips for note in report_notes(clip)),
        sum(outcome.repeated for outcome in outcomes),
        sum(clip.interpolated for clip in clips),
    )


def report_notes(clip: PreparedClip) -> Iterator[ClipNote]:
    """The notes on a clip for the report: first on the whole clip, then on its tracks."""
    for note in clip.notes:
        yield ClipNote(name=clip.name, note=note)
    for track in clip.tracks:
        yield ClipNote(name=clip.name, note=track.text, track=str(track.body), rule=track.rule)


def _runs(clips: Sequence[ClipCopies], most_bytes: int, most_clips: int) -> Iterator[tuple[ClipCopies, ...]]:
    """Consecutive clips, in groups that end when they reach ``most_bytes`` bytes or ``most_clips`` clips."""
    run: list[ClipCopies] = []
    size = 0
    for copies in clips:
        run.append(copies)
        size += raw_size(copies)
        if size >= most_bytes or len(run) == most_clips:
            yield tuple(run)
            run, size = [], 0
    if run:
        yield tuple(run)


def notes_of(clip: PreparedClip) -> tuple[str, ...]:
    """The notes of `report_notes` as text, without the clip's name."""
    return (*clip.notes, *(f"track {track.body} {track.text}" for track in clip.tracks))


def _same(one: list[bytes], other: list[bytes]) -> bool:
    return len(one) == len(other) and all(map(same_text, one, other))


def read_copies(copies: ClipCopies, folder: str = "") -> list[bytes]:
    """The bytes of a clip's files, after a comparison with its copies; arguments as for `prepare_clip`.

    Raises:
        PspError: A file cannot be read, or two recordings with one clip name differ.
    """
    source = copies[0]
    blobs = read_clip(source, folder)
    for other in copies[1:]:
        if not _same(read_clip(other, folder), blobs):
            raise PspError(
                f"--raw: two different recordings have the clip name {source.name}",
                f"{source.files[0]} and {other.files[0]}",
                fix="Use only one of them with --raw, or remove the wrong one.",
            )
    return blobs


def prepare_clip(
    copies: ClipCopies, reader: Reader, settings: PreparationSettings, folder: str = ""
) -> Outcome:
    """Prepare one clip.

    Args:
        copies: The clip and its copies.
        reader: The reader of its format.
        settings: Settings of the preparation.
        folder: Base folder of relative paths; the working directory if empty.

    Returns:
        The outcome. A malformed clip is excluded and raises no error.

    Raises:
        PspError: A file cannot be read, or two recordings with one clip name differ.
    """
    source = copies[0]
    try:
        clip = reader.parse(source, read_copies(copies, folder))
        prepared = prepare_raw(clip, reader.topology, settings)
    except RawFormatError as error:
        return Outcome(None, left_out(source, error), len(copies) - 1)
    return Outcome(prepared, None, len(copies) - 1)


def prepare_raw(clip: RawClip, topology: Topology, settings: PreparationSettings) -> PreparedClip:
    """Prepare a parsed clip.

    Raises:
        RawFormatError: There is no person in it, or its positions are out of range.
    """
    return normalize(clip.name, clip.key, find_persons(clip, topology, settings), topology, settings)


def left_out(source: ClipSource, error: RawFormatError) -> LeftOut:
    """The entry of the report for a clip that cannot be used."""
    return LeftOut(name=source.name, source=str(source.files[0]), reason=error.reason, detail=str(error))
