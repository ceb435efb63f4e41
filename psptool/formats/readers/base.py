"""What a reader is: it finds clips in folders and archives, and turns one clip's bytes into a `RawClip`.

Notation for array shapes: B body detections (one body in one frame), T frames, V joints.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from psptool.common.paths import shown
from psptool.data.skeletons.datasets import ClipKey
from psptool.data.skeletons.topology import Topology
from psptool.formats.readers.packing import without_packing

STATE_UNKNOWN = 255
"""Joint state where a format has none; else 0 not tracked, 1 inferred, 2 tracked."""


# Named tuples, as they are made and sent to other processes by the hundred thousand, where dataclasses take longer.
class FileRef(NamedTuple):
    """One file of a clip: on disk (`archive` None), or a member of a zip or tar archive.

    Attributes:
        path: The file's path on disk, or the member's name in the archive.
        archive: The zip or tar file, or None.
        size: Bytes: of the file on disk, or of the member as the archive has it once unpacked.
        changed: When the file, or the archive, was changed; nanoseconds since 1970.
        offset: In a tar archive the first byte of the member in the unpacked archive, from 0; -1 elsewhere.
        unread: Why the member is not read, as a link; empty where it is.
        content: Its bytes as `psptool.formats.readers.sources.read_file` reads them, where they were read ahead.
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
        """`path` without ``.gz``, ``.bz2`` or ``.xz``; in an archive with slashes where a program wrote backslashes."""
        path = self.path if self.archive is None else self.path.replace("\\", "/")
        return without_packing(path)

    @property
    def place(self) -> PurePath:
        """`plain` in its parts; archives write them with slashes on every system."""
        return PurePath(self.plain) if self.archive is None else PurePosixPath(self.plain)

    @property
    def name(self) -> str:
        """The last part of `place`, which is slow to make for each of very many files."""
        if self.archive is None:
            return os.path.basename(self.plain)  # noqa: PTH119
        return self.plain.rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return shown(self.path if self.archive is None else f"{self.archive}:{self.path}")


class ClipSource(NamedTuple):
    """Where one clip lies.

    Attributes:
        name: The clip's name as the dataset writes it.
        key: What the name says.
        files: The clip's files in frame order; one for most formats.
    """

    name: str
    key: ClipKey
    files: tuple[FileRef, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        # As plain tuples: every named one would be asked in Python for its fields.
        return _unpickled, (self.name, tuple(self.key), [tuple(file) for file in self.files])


def _unpickled(name: str, key: tuple[int, ...], files: list[tuple[Any, ...]]) -> ClipSource:
    return ClipSource(name, ClipKey(*key), tuple(FileRef(*file) for file in files))


@dataclass(frozen=True, slots=True)
class Stray:
    """A file that may be a recording and is not read, such as one whose name is no clip's; it is skipped and counted.

    Attributes:
        name: The file's name.
        source: The file, as `FileRef` is printed.
        reason: Why it is not read.
    """

    name: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class RawClip:
    """One recording as its file has it: every body in every frame, nothing chosen and nothing changed.

    Attributes:
        name: The clip's name.
        key: What the name says.
        frames: T, also counting frames without a body.
        frame: int32 (B,), the frame of each detection from 0, ascending.
        body: int64 (B,), the body's id as the sensor gave it; ids never go through float64, which merges
            some.
        xyz: float32 (B, V, 3), metres, camera frame; never infinite. A joint with a NaN, or at exactly
            (0, 0, 0), is missing.
        state: uint8 (B, V), tracking states, `STATE_UNKNOWN` where the format has none.
    """

    name: str
    key: ClipKey
    frames: int
    frame: NDArray[np.int32]
    body: NDArray[np.int64]
    xyz: NDArray[np.float32]
    state: NDArray[np.uint8]


class Reader(Protocol):
    """One raw format. To add a format, write one such class and inherit the conformance tests.

    Its constructor's ``any_name`` lets it find recordings whose names are not the dataset's, for prediction alone:
    without a key there is no label.

    Attributes:
        format: Short name, such as ``ntu-skeleton``.
        topology: The joints it yields.
    """

    format: str
    topology: Topology

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """The clips among ``files``, and the files of the format's kind whose name is no clip's."""
        ...

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Turn the bytes of ``source.files`` into a clip.

        Raises:
            RawFormatError: The bytes are not what the format promises; names file and line or key.
        """
        ...
