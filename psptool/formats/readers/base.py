"""The interface of a reader: it finds clips among files, and parses the bytes of a clip to a `RawClip`.

Array shapes: B body detections (one body in one frame), T frames, V joints.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from psptool.common.paths import shown
from psptool.formats.readers.packing import without_packing
from psptool.skeletons.keys import ClipKey, UpAxis
from psptool.skeletons.topology import Topology

STATE_UNKNOWN = 255
"""Tracking state for formats without tracking states. Other values: 0 not tracked, 1 inferred, 2 tracked."""


# Named tuples: hundreds of thousands are created and sent to other processes, for which dataclasses are slower.
class FileRef(NamedTuple):
    """A file of a clip: on disk, or a member of a zip or tar archive.

    Attributes:
        path: Path on disk, or name of the member in the archive.
        archive: The zip or tar archive; None for a file on disk.
        size: Size in bytes, for a member as stated by the archive (uncompressed).
        changed: Modification time of the file or archive, in nanoseconds since 1970.
        offset: In a tar archive, first byte of the member in the uncompressed archive (0-based); otherwise -1.
        unread: Reason why the member is not read, such as being a link; empty if it is read.
        content: The bytes of the file if they were read ahead; otherwise None.
    """

    path: str
    archive: Path | None
    size: int
    changed: int = 0
    offset: int = -1
    unread: str = ""
    content: bytes | None = None

    @property
    def plain(self) -> str:
        """`path` without ``.gz``, ``.bz2`` or ``.xz``; in an archive, with backslashes replaced by slashes."""
        path = self.path if self.archive is None else self.path.replace("\\", "/")
        return without_packing(path)

    @property
    def place(self) -> PurePath:
        """`plain` as a path object; archives use slashes on every system."""
        return PurePath(self.plain) if self.archive is None else PurePosixPath(self.plain)

    @property
    def name(self) -> str:
        """The last part of `place`, without creating a path object, which is slow for many files."""
        if self.archive is None:
            return os.path.basename(self.plain)  # noqa: PTH119
        return self.plain.rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return shown(self.path if self.archive is None else f"{self.archive}:{self.path}")


class ClipSource(NamedTuple):
    """The files of one clip.

    Attributes:
        name: The clip's name in the dataset's notation.
        key: The numbers in the name.
        files: The clip's files in the order of the frames; a single file in most formats.
        segment: First and last frame of the clip in the recording, both included; None for a whole recording.
    """

    name: str
    key: ClipKey
    files: tuple[FileRef, ...]
    segment: tuple[int, int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled as plain tuples: faster, because pickling a named tuple calls a Python method.
        return _unpickled, (self.name, tuple(self.key), [tuple(file) for file in self.files], self.segment)


def _unpickled(
    name: str, key: tuple[int, ...], files: list[tuple[Any, ...]], segment: tuple[int, int] | None
) -> ClipSource:
    return ClipSource(name, ClipKey(*key), tuple(FileRef(*file) for file in files), segment)


@dataclass(frozen=True, slots=True)
class Stray:
    """A file that may be a recording but is skipped, for example because its name is not a clip name.

    Attributes:
        name: The file's name.
        source: The file, in the notation of ``str(FileRef)``.
        reason: The reason why it is skipped.
    """

    name: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class RawClip:
    """One recording, unchanged: all body detections in all frames.

    Attributes:
        name: The clip's name.
        key: The numbers in the name.
        frames: T, including frames without a body.
        frame: int32 (B,), 0-based frame of each detection, ascending.
        body: int64 (B,), the sensor's body ids. Never converted to float64, which cannot distinguish all ids.
        xyz: float32 (B, V, 3), metres, camera coordinates; never infinite. A joint with NaN, or at exactly (0, 0, 0),
            is missing. In 2D, x and y are in pixels or another unit, and z is 0.
        state: uint8 (B, V), tracking states; `STATE_UNKNOWN` if the format has none.
        first_frame: The recording's own number of frame 0, if its frames have numbers.
        notes: Notes for the report.
        up: Vertical axis of the positions.
    """

    name: str
    key: ClipKey
    frames: int
    frame: NDArray[np.int32]
    body: NDArray[np.int64]
    xyz: NDArray[np.float32]
    state: NDArray[np.uint8]
    first_frame: int = 0
    notes: tuple[str, ...] = ()
    up: UpAxis = "y"


class Reader(Protocol):
    """The reader of one raw format. To add a format, write such a class and inherit the conformance tests.

    The constructor of a dataset's own reader has an argument ``any_name``: if true, the reader also finds recordings
    whose name is not a clip name. They have no label, so this is for prediction only. A reader of a general format has
    an argument ``key_of`` instead, which is None for any name.

    Attributes:
        format: Short name, such as ``ntu-skeleton``.
        topology: Topology of the clips.
    """

    format: str
    topology: Topology

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """The clips among ``files``, and the files of this format whose name is not a clip name."""
        ...

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the bytes of ``source.files`` to a clip.

        Raises:
            RawFormatError: The bytes do not have this format. The message names the file and the line or key.
        """
        ...
