"""Reading members of tar archives without unpacking them to disk: uncompressed, or with gzip, bzip2 or xz.

A tar archive has no table of contents. It is read once when its files are listed, and each file is then identified by
its byte offset. In an uncompressed archive, members are read at their offset. A compressed archive can only be unpacked
from its start; `psptool.formats.readers.ahead` does so once for many members.

Archives are untrusted: links and devices are not followed, a header may have at most `MAX_HEADER` bytes, and an archive
that unpacks to more than `MAX_RATIO` times its size is refused.
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
"""Maximum size in bytes of a member's extended header, such as a long name."""
MAX_RATIO, FREE_BYTES = 200, 2**30
"""Maximum compression ratio; recordings have 3 to 20. It applies to archives that unpack to more than `FREE_BYTES`."""
MAX_GLOBAL_FIELDS = 100
"""Maximum number of header fields that apply to all later members."""
LINK, NO_FILE = "link in an archive", "archive member that is not a regular file"
_PIECE = 2**20
_END = bytes(tarfile.BLOCKSIZE)


class TarMember(NamedTuple):
    """A member of a tar archive that is not a folder.

    Attributes:
        name: The member's name.
        offset: First byte of its content in the uncompressed archive.
        size: Size in bytes.
        unread: Reason why it is not read, such as being a link; empty for a regular file.
    """

    name: str
    offset: int
    size: int
    unread: str


class TarStream:
    """The uncompressed bytes of a tar archive as a forward-only file object for `tarfile`.

    Args:
        path: The archive.

    Attributes:
        packed: Whether the archive is compressed.
        last: The bytes returned by the last call of `read`.

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
        """The current position in the uncompressed archive."""
        return self._position

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes of a header; fewer at the end of the archive.

        Raises:
            tarfile.TarError: ``size`` is larger than a header may be.
        """
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self.take(size)
        return self.last

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer at the end of the archive.

        Raises:
            tarfile.TarError: The archive unpacks to more than `MAX_RATIO` times its size.
        """
        blob = self._file.read(size)
        self._position += len(blob)
        if self.packed and self._position > self._most:
            raise tarfile.ReadError(f"it unpacks to more than {MAX_RATIO} times its size")
        return blob

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move forward to byte ``offset``.

        Raises:
            tarfile.TarError: ``offset`` is before the current position.
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
    """Convert the exceptions of tarfile and the decompressors for damaged data to an error that names the archive.

    Raises:
        PspError: The archive is damaged.
    """
    try:
        yield
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PspError(
            f"{shown(path)}: damaged or not a tar archive ({error})",
            fix="Download or copy it again; test it with `tar -tf`.",
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[TarStream]:
    """An open archive; damage is reported with the archive's name."""
    with damage_named(path):
        stream = TarStream(path)
        try:
            yield stream
        finally:
            stream.close()


def members(path: Path) -> list[TarMember]:
    """The members of an archive without its folders, sorted by name. Of several members with one name, the last counts.

    Reads the whole archive.

    Raises:
        PspError: The archive is damaged, not a tar archive, or exceeds `MAX_RATIO`.
        OSError: The archive cannot be read.
    """
    found: dict[str, TarMember] = {}
    with _reading(path) as stream:
        # The constructor reads the first header. The stream has all methods that TarFile uses.
        archive = tarfile.TarFile(fileobj=cast("IO[bytes]", stream), mode="r")
        while (member := archive.next()) is not None:
            if member.size < 0 or len(archive.pax_headers) > MAX_GLOBAL_FIELDS:
                raise tarfile.ReadError("invalid header")
            if not member.isdir():
                found[member.name] = TarMember(member.name, member.offset_data, member.size, _fault(member))
            # TarFile stores every member, which takes much memory for a large archive.
            cast("Any", archive).members.clear()
        # TarFile treats a damaged header as the end of the archive, so the end marker is checked here.
        if stream.last != _END:
            raise tarfile.ReadError("a header is damaged, or the end is missing")
        _require_padding(stream)
    return sorted(found.values())


def _require_padding(stream: TarStream) -> None:
    """Read to the end, where the decompressor verifies the checksum. Only zeros may follow the last member."""
    while piece := stream.take(_PIECE):
        if piece.count(0) != len(piece):
            raise tarfile.ReadError("data after the end of the archive")


def _fault(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return LINK
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) or member.issparse():
        return NO_FILE
    return ""


def read_member(file: FileRef, archive: Path, most: int) -> bytes:
    """The bytes of one member, at most the first ``most``. A compressed archive is unpacked up to the member.

    Raises:
        RawFormatError: The archive ends before the end of the member.
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
    """Check that an archive was not changed after it was listed.

    Raises:
        PspError: It was changed.
    """
    if archive.stat().st_mtime_ns != file.changed:
        raise PspError(f"{file}: the archive was changed while it was read", fix="Run the command again.")


def is_stream(archive: Path) -> bool:
    """Whether a tar archive is compressed and can only be unpacked from its start.

    Raises:
        OSError: The archive cannot be read.
    """
    with archive.open("rb", buffering=0) as opened:
        return is_packed(opened.read(MAGIC_BYTES))
