"""Estimating the time and disk space of a preparation from a sample of its clips."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from psptool.common.errors import RawFormatError
from psptool.data.store.layout import bytes_per_row
from psptool.formats.readers.ahead import ReadAhead
from psptool.preparation.plausibility import coordinate_warnings
from psptool.preparation.raw_input import ClipCopies, RawInput, raw_size
from psptool.preparation.worker import attached, every_source, prepare_batch, read_copies
from psptool.schemas.dataset import PreparationSettings

SAMPLE = 16
"""Number of clips in a sample."""


@dataclass(frozen=True)
class Sample:
    """Measurements of preparing a sample of clips.

    Attributes:
        clips: Number of clips.
        bad: Number of malformed clips.
        raw_bytes: Size of their raw files in bytes; a file counts once for each of its segments.
        file_bytes: Size in the dataset in bytes.
        seconds: Duration on one core.
        warnings: Warnings if the coordinates contradict the description.
    """

    clips: int
    bad: int
    raw_bytes: int
    file_bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()

    def scaled_to(self, raw_input: RawInput) -> tuple[int | None, float | None]:
        """Estimated size of the dataset in bytes, and seconds on one core, for all clips of ``raw_input``."""
        if not self.file_bytes:
            return None, None
        share = sum(map(raw_size, raw_input.clips)) / self.raw_bytes
        return int(self.file_bytes * share), self.seconds * share


def take_sample(raw_input: RawInput, settings: PreparationSettings) -> Sample:
    """Prepare up to `SAMPLE` clips and measure size and duration.

    Raises:
        PspError: A file cannot be read.
    """
    if not raw_input.clips:
        return Sample(0, 0, 1, 0, 0.0)
    chosen = _chosen(raw_input.clips)
    packed = []
    began = 0.0
    for place, copies in enumerate((chosen[0], *chosen)):
        # The first clip is prepared twice and timed once: the first call compiles the kernels or loads them.
        if place == 1:
            began = time.perf_counter()
        packed.append(prepare_batch((copies,), raw_input.reader, settings).packed)
    seconds = time.perf_counter() - began
    kept = packed[1:]
    bad = sum(not one.names for one in kept)
    size = bytes_per_row(raw_input.dataset.topology.size) * sum(len(one.joint) for one in kept)
    raw_bytes = sum(raw_size(copies) for copies in chosen)
    scale, rotation = (np.concatenate([getattr(one, key) for one in kept]) for key in ("scale", "rotation"))
    warnings = coordinate_warnings(raw_input.dataset, scale, rotation)
    return Sample(len(chosen), bad, max(1, raw_bytes), size, seconds, warnings)


def check_copies(clips: Sequence[ClipCopies]) -> None:
    """Compare the copies of each clip if their sizes differ. Equal sizes are compared by `prepare_clip` only.

    Raises:
        PspError: Two recordings with one clip name differ, or a file cannot be read.
    """
    suspect = [copies for copies in clips if len({raw_size((source,)) for source in copies}) > 1]
    ahead = ReadAhead(every_source(suspect))
    for copies in suspect:
        # A malformed clip is excluded by the preparation, whatever its copies are.
        with suppress(RawFormatError):
            read_copies(attached((copies,), ahead)[0])


def _chosen(clips: Sequence[ClipCopies]) -> Sequence[ClipCopies]:
    """Up to `SAMPLE` evenly spaced clips. With compressed tar archives, the clips nearest to the archive's start, since
    such an archive must be unpacked up to each clip.
    """
    step = max(1, len(clips) // SAMPLE)
    if not ReadAhead(every_source(clips)):
        return clips[::step][:SAMPLE]
    first = heapq.nsmallest(SAMPLE, clips, key=lambda copies: max(f.offset for s in copies for f in s.files))
    return attached(first, ReadAhead(every_source(first)))
