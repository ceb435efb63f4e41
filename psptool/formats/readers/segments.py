"""Clips that are segments of long recordings."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np

from psptool.common.errors import RawFormatError
from psptool.common.text import counted
from psptool.formats.readers.adapted import Adapted
from psptool.formats.readers.base import ClipSource, FileRef, RawClip, Reader

KEPT_BYTES = 64 * 2**20
"""Maximum size of the recordings whose parsed content is kept for their other segments, in bytes of their files."""


class SegmentReader(Adapted):
    """A reader of the segments of recordings, which another reader finds and parses.

    A recording is parsed once for several segments that follow each other.

    Args:
        reader: The reader of the recordings.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader, reader.topology)
        self._parsed: OrderedDict[tuple[FileRef, ...], tuple[list[bytes], RawClip]] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        """Without the parsed recordings, which are not sent to other processes."""
        return {**self.__dict__, "_parsed": OrderedDict()}

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the recording, and cut the segment out of it.

        Raises:
            RawFormatError: The recording is malformed, or as for `cut`.
        """
        if source.segment is None:
            return self.reader.parse(source, blobs)
        # Files of a compressed archive carry their bytes, which are compared below.
        key = tuple(file._replace(content=None) for file in source.files)
        kept = self._parsed.pop(key, None)
        # Compared, because a file may have been changed since.
        if kept is not None and kept[0] == blobs:
            recording = kept[1]
        else:
            recording = self.reader.parse(source, blobs)
        self._parsed[key] = (blobs, recording)
        while sum(len(blob) for held, _ in self._parsed.values() for blob in held) > KEPT_BYTES:
            self._parsed.popitem(last=False)
        return cut(recording, source)


def cut(recording: RawClip, source: ClipSource) -> RawClip:
    """The segment of a recording that is the clip ``source``; the recording itself if it has no segment.

    A tracker may write no row while nobody is there, so a segment may begin before the first frame of the recording or
    end after its last. These frames have no body. If they are more than half of the segment, its range is wrong.

    Raises:
        RawFormatError: ``frame range`` if more than half of the segment is outside of the recording, or it ends before
            it begins; ``no body`` if there is none in it.
    """
    if source.segment is None:
        return recording
    (first, last), start = source.segment, recording.first_frame
    end = start + recording.frames - 1
    where, wanted = f"{source.files[0]}, {source.name}", f"{first} to {last}"
    frames = last - first + 1
    inside = min(last, end) - max(first, start) + 1
    if frames < 1 or 2 * inside < frames:
        raise RawFormatError("frame range", where, wanted, f"frames of {start} to {end}")
    low, high = np.searchsorted(recording.frame, (first - start, last - start + 1))
    if low == high:
        raise RawFormatError(
            "no body", where, f"no body in the frames {wanted}", "a body in at least one frame"
        )
    notes = recording.notes
    if inside < frames:
        outside = counted(frames - inside, "frame")
        notes = (*notes, f"{outside} of the range {wanted} outside of the recording, without a body")
    return replace(
        recording,
        name=source.name,
        key=source.key,
        frames=frames,
        frame=recording.frame[low:high] - np.int32(first - start),
        body=recording.body[low:high],
        xyz=recording.xyz[low:high],
        state=recording.state[low:high],
        first_frame=first,
        notes=notes,
    )
