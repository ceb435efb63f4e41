"""Reading members of compressed tar archives ahead of their use.

A compressed archive can only be unpacked from its start. Clips are used in the order of their names; the archive may
have another order. While unpacking up to the next member, the reader keeps the bytes of members that are used later, up
to a limit. Beyond the limit it drops those used last. An archive in name order is unpacked once and nothing is kept.
Another archive is unpacked once if its recordings fit below the limit, and again each time they exceed it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from psptool.common.errors import PspError, cannot_read
from psptool.common.paths import shown
from psptool.formats.readers.base import ClipSource, FileRef
from psptool.formats.readers.sources import MAX_BYTES
from psptool.formats.readers.tars import TarStream, damage_named, is_stream, require_unchanged

KEPT_BYTES = 2**30
"""Maximum number of bytes kept for later use, over all archives."""


class ReadAhead:
    """Attaches bytes to the files that are members of compressed tar archives. False if there are no such files.

    Args:
        clips: All clips that will be attached, in this order.
        largest: Maximum size of a file in bytes; by default that of `psptool.formats.readers.sources.read_file`.
        most: Maximum number of bytes kept, in addition to the current file.
    """

    def __init__(self, clips: Iterable[ClipSource], largest: int = MAX_BYTES, most: int = KEPT_BYTES) -> None:
        wanted: dict[Path, list[FileRef]] = {}
        known: dict[Path, bool] = {}
        for clip in clips:
            for file in clip.files:
                if file.archive is None or file.offset < 0 or file.size > largest:
                    continue
                if file.archive not in known:
                    known[file.archive] = is_stream(file.archive)
                if known[file.archive]:
                    wanted.setdefault(file.archive, []).append(file)
        share = most // max(1, len(wanted))
        self._archives = {path: _Archive(path, files, share) for path, files in wanted.items()}

    def __bool__(self) -> bool:
        return bool(self._archives)

    def attach(self, clip: ClipSource) -> ClipSource:
        """The clip with the bytes of its files. Clips must be requested in the order of the constructor's argument.

        A file larger than the constructor's ``largest`` is returned without its bytes.

        Raises:
            PspError: An archive was changed after it was listed, is damaged, or cannot be read.
        """
        if not any(file.archive in self._archives for file in clip.files):
            return clip
        return clip._replace(files=tuple(self._attached(file) for file in clip.files))

    def _attached(self, file: FileRef) -> FileRef:
        archive = None if file.archive is None else self._archives.get(file.archive)
        return file if archive is None else archive.attach(file)


class _Archive:
    """One compressed tar archive, unpacked from its start as often as needed. Files may be used several times."""

    def __init__(self, path: Path, files: Sequence[FileRef], most: int) -> None:
        self._path, self._most = path, most
        # The turns at which each file is used: positions in the order of use. Those in the past are removed.
        self._uses: dict[int, deque[int]] = {}
        for turn, file in enumerate(files):
            self._uses.setdefault(file.offset, deque()).append(turn)
        self._left = len(files)  # uses in the future
        # Each file once, in the order of the archive.
        self._files = sorted({file.offset: file for file in files}.values(), key=lambda file: file.offset)
        self._next = 0  # index in self._files
        self._stream: TarStream | None = None
        self._kept: dict[int, bytes] = {}  # content by offset
        self._bytes = 0
        # Heap of (next turn, negated so that the latest comes first; offset) of the kept files, and outdated entries.
        self._latest: list[tuple[int, int]] = []

    def attach(self, file: FileRef) -> FileRef:
        uses = self._uses.get(file.offset)
        if uses is None:
            return file  # too large to be read ahead
        while file.offset not in self._kept:
            self._read_next()
        content = self._kept[file.offset]
        uses.popleft()
        if uses:
            heapq.heappush(self._latest, (-uses[0], file.offset))
        else:
            self._drop(file.offset)
        self._left -= 1
        if not self._left:
            self._restart()
        return file._replace(content=content)

    def _drop(self, offset: int) -> None:
        self._bytes -= len(self._kept.pop(offset))

    def _read_next(self) -> None:
        """Read and keep the next file of the archive that is still used; restart after the last one."""
        if self._next == len(self._files):
            self._restart()
        file = self._files[self._next]
        self._next += 1
        uses = self._uses[file.offset]
        if not uses or file.offset in self._kept:
            return
        self._kept[file.offset] = self._read(file)
        self._bytes += len(self._kept[file.offset])
        heapq.heappush(self._latest, (-uses[0], file.offset))
        while self._bytes > self._most and len(self._kept) > 1:
            turn, offset = heapq.heappop(self._latest)
            if offset in self._kept and self._uses[offset][0] == -turn:
                self._drop(offset)

    def _read(self, file: FileRef) -> bytes:
        try:
            with damage_named(self._path):
                if self._stream is None:
                    require_unchanged(file, self._path)
                    self._stream = TarStream(self._path)
                self._stream.seek(file.offset)
                content = self._stream.take(file.size)
        except OSError as error:
            raise cannot_read(shown(self._path), error) from error
        if len(content) < file.size:
            raise PspError(f"{file}: the archive was changed while it was read", fix="Run the command again.")
        return content

    def _restart(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream, self._next = None, 0
