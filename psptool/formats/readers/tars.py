"""Reading members of tar archives where they lie: plain, or compressed with gzip, bzip2 or xz.

A tar archive has no table of contents: it is walked once, when its files are listed, and each file is then known by
the offset of its bytes. In a plain archive they are read there. A compressed archive can only be unpacked from its
start; `psptool.formats.readers.ahead` does so once for many members.

An archive is not trusted: nothing is unpacked to disk, links and devices are not followed, a header may take at most
`MAX_HEADER` bytes, and an archive that unpacks to more than `MAX_RATIO` times its size is refused.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from psptool.common.errors import PspError, RawFormatError
from psptool.common.paths import shown
from psptool.formats.readers.base import FileRef
from psptool.formats.readers.packing import DAMAGE, MAGIC_BYTES, is_packed, unpacking

MAX_HEADER = 2**20
"""Bytes of a member's extended header, such as a long name."""
MAX_RATIO, FREE_BYTES = 200, 2**30
"""Recordings are 3 to 20 times as large unpacked. Up to `FREE_BYTES` bytes an archive may have any ratio."""
MAX_GLOBAL_FIELDS = 100
"""Fields that hold for all members after them."""
LINK, NO_FILE = "a link in an archive, which is not followed", "a member that is no plain file"
_PIECE = 2**20
_END = bytes(tarfile.BLOCKSIZE)


class TarMember(NamedTuple):
    """A member of a tar archive that is no folder.

    Attributes:
        name: Its name.
        offset: First byte of its content in the unpacked archive.
        size: Bytes.
        unread: Why it is not read, as a link; empty for a file.
    """

    name: str
    offset: int
    size: int
    unread: str


class TarStream:
    """The unpacked bytes of a tar archive, from its start to its end; what `tarfile` asks of a file.

    Args:
        path: The archive.

    Attributes:
        packed: Whether the archive is compressed, so that it can only be read forward.
        last: The bytes that `read` returned last.

    Raises:
        OSError: The archive cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._raw = path.open("rb")
        head = self._raw.read(MAGIC_BYTES)
        self._raw.seek(0)
        self.packed, self.last = is_packed(head), b""
        self._file: IO[bytes] = unpacking(self._raw, head)
        self._position = 0
        self._most = max(FREE_BYTES, MAX_RATIO * os.fstat(self._raw.fileno()).st_size)

    def tell(self) -> int:
        """Bytes before the next one that is read."""
        return self._position

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes of a header, fewer at the end of the archive.

        Raises:
            tarfile.TarError: ``size`` is no header's.
        """
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self.take(size)
        return self.last

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer at the end of the archive."""
        blob = self._file.read(size)
        self._position += len(blob)
        if self.packed and self._position > self._most:
            raise tarfile.ReadError(f"it unpacks to more than {MAX_RATIO} times its size")
        return blob

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on at byte ``offset``, which lies ahead.

        Raises:
            tarfile.TarError: It does not.
        """
        if whence != os.SEEK_SET or offset < self._position:
            raise tarfile.ReadError("a member of negative size")
        if not self.packed:
            self._position = self._file.seek(offset)
        while self._position < offset and self.take(min(_PIECE, offset - self._position)):
            pass
        return self._position

    def close(self) -> None:
        """Close the archive."""
        self._file.close()
        self._raw.close()


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what tarfile and the decompressors raise for wrong bytes into an error that names the archive.

    Raises:
        PspError: The archive is damaged.
    """
    try:
        yield
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PspError(
            f"{shown(path)}: not a whole tar archive ({error})",
            fix="Download or copy it again; `tar -tf` tests it.",
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[TarStream]:
    """An opened archive."""
    with damage_named(path):
        stream = TarStream(path)
        try:
            yield stream
        finally:
            stream.close()


def members(path: Path) -> list[TarMember]:
    """An archive's members but its folders, by name; of two under one name, the last counts. It is read to its end.

    Raises:
        PspError: It is not a whole tar archive, or unpacks to more than it may.
        OSError: It cannot be read.
    """
    found: dict[str, TarMember] = {}
    with _reading(path) as stream:
        # Opening reads the first header. The stream has what TarFile asks for.
        archive = tarfile.TarFile(fileobj=cast("IO[bytes]", stream), mode="r")
        while (member := archive.next()) is not None:
            if member.size < 0 or len(archive.pax_headers) > MAX_GLOBAL_FIELDS:
                raise tarfile.ReadError("a header that no program writes")
            if not member.isdir():
                found[member.name] = TarMember(member.name, member.offset_data, member.size, _fault(member))
            # TarFile keeps every member; a large archive has very many.
            cast("Any", archive).members.clear()
        # TarFile takes a damaged header for the end.
        if stream.last != _END:
            raise tarfile.ReadError("a header is damaged, or the end is missing")
        _require_padding(stream)
    return sorted(found.values())


def _require_padding(stream: TarStream) -> None:
    """Read to the end, where the decompressor compares checksums; only zeros may follow the last member."""
    while piece := stream.take(_PIECE):
        if piece.count(0) != len(piece):
            raise tarfile.ReadError("more bytes after its end")


def _fault(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return LINK
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) or member.issparse():
        return NO_FILE
    return ""


def read_member(file: FileRef, archive: Path, most: int) -> bytes:
    """The bytes of one member, at most the first ``most``. In a compressed archive all before it is unpacked too.

    Raises:
        RawFormatError: The archive ends before the member does.
        PspError: The archive was changed after it was listed, or is damaged.
        OSError: The archive cannot be read.
    """
    require_unchanged(file, archive)
    with _reading(archive) as stream:
        stream.seek(file.offset)
        blob = stream.take(min(file.size, most))
    if len(blob) < min(file.size, most):
        raise RawFormatError("damaged in the archive", str(file), f"{len(blob)} bytes", f"{file.size} bytes")
    return blob


def require_unchanged(file: FileRef, archive: Path) -> None:
    """Refuse an archive that was changed after it was listed.

    Raises:
        PspError: It was.
    """
    if archive.stat().st_mtime_ns != file.changed:
        raise PspError(f"{file}: the archive was changed meanwhile", fix="Run again.")


def is_stream(archive: Path) -> bool:
    """Whether a tar archive is compressed, so that it can only be unpacked from its start.

    Raises:
        OSError: It cannot be read.
    """
    with archive.open("rb", buffering=0) as opened:
        return is_packed(opened.read(MAGIC_BYTES))
