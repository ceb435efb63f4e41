"""Reading files of compressed tar archives ahead of their use, as such an archive can only be unpacked from its start.

Clips are used in the order of their names, and the archive may have any order. On its way to the member that is
needed, the reader keeps the bytes of those that are needed later, up to a limit; beyond it those go that are needed
last. So an archive in name order is read once and nothing is kept; one in another order is read once where its
recordings fit under the limit, and once more for each time that they exceed it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path

from psptool.common.errors import PspError
from psptool.common.paths import shown
from psptool.formats.readers.base import ClipSource, FileRef
from psptool.formats.readers.tars import TarStream, damage_named, is_stream, require_unchanged

KEPT_BYTES = 2**30
"""Bytes of recordings kept for later use, over all archives."""


class ReadAhead:
    """Attaches their bytes to the files that lie in compressed tar archives.

    Args:
        clips: All clips that will be asked for.
        most: Bytes kept at most, next to the file that is asked for.
        largest: Bytes a file may have; larger ones are left to `psptool.formats.readers.sources.read_file` to refuse.

    Attributes:
        archives: The compressed tar archives among them.
    """

    def __init__(self, clips: Iterable[ClipSource], largest: int, most: int = KEPT_BYTES) -> None:
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
        """The clip with the bytes of its files; clips are to be asked for in the order given at the beginning.

        Raises:
            PspError: An archive was changed after it was listed, is damaged or cannot be read.
        """
        if not any(file.archive in self._archives for file in clip.files):
            return clip
        return clip._replace(files=tuple(self._attached(file) for file in clip.files))

    def _attached(self, file: FileRef) -> FileRef:
        archive = None if file.archive is None else self._archives.get(file.archive)
        return file if archive is None else archive.attach(file)


class _Archive:
    """One compressed tar archive, which is unpacked from its start to its end, as often as it takes."""

    def __init__(self, path: Path, files: Sequence[FileRef], most: int) -> None:
        self._path, self._most = path, most
        self._turns = {file.offset: turn for turn, file in enumerate(files)}  # in the order of their use
        self._files = sorted(files, key=lambda file: file.offset)  # in the order of the archive
        self._next = 0  # of the files in the archive's order
        self._stream: TarStream | None = None
        self._kept: dict[int, bytes] = {}  # by turn
        self._bytes = 0
        self._latest: list[int] = []  # a heap of the kept turns, negative so that the last one comes first

    def attach(self, file: FileRef) -> FileRef:
        turn = self._turns[file.offset]
        while turn not in self._kept:
            self._read_next(turn)
        content = self._kept.pop(turn)
        self._bytes -= len(content)
        if turn == len(self._files) - 1:
            self._restart()
        return file._replace(content=content)

    def _read_next(self, turn: int) -> None:
        """Keep the next file in the archive unless it was used before ``turn``; after the last comes the first."""
        if self._next == len(self._files):
            self._restart()
        file = self._files[self._next]
        self._next += 1
        its_turn = self._turns[file.offset]
        if its_turn < turn or its_turn in self._kept:
            return
        self._kept[its_turn] = self._read(file)
        self._bytes += file.size
        heapq.heappush(self._latest, -its_turn)
        while self._bytes > self._most and len(self._kept) > 1:
            dropped = self._kept.pop(-heapq.heappop(self._latest), b"")
            self._bytes -= len(dropped)

    def _read(self, file: FileRef) -> bytes:
        try:
            with damage_named(self._path):
                if self._stream is None:
                    require_unchanged(file, self._path)
                    self._stream = TarStream(self._path)
                self._stream.seek(file.offset)
                content = self._stream.take(file.size)
        except OSError as error:
            raise PspError(
                f"{shown(self._path)}: cannot be read ({error.strerror or error})",
                fix="Check the file, its disk and your permissions.",
            ) from error
        if len(content) < file.size:
            raise PspError(f"{file}: the archive was changed meanwhile", fix="Run again.")
        return content

    def _restart(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream, self._next = None, 0
