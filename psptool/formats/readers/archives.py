"""Reading members of zip archives without unpacking them to disk, from several threads. Archives are untrusted.

A process keeps its archives open, because reading the table of contents of an archive with 57,000 members is slow. An
archive is identified by path, inode, size and modification time, so a changed archive is opened again.
"""

from __future__ import annotations

import bisect
import os
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError, RawFormatError
from psptool.formats.readers.base import FileRef

MAX_OPEN = 16
"""Maximum number of archives kept open in one process."""

_ENCRYPTED = 0x1
_READ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Exceptions of zipfile and zlib for damaged archives.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError)


def members(path: Path) -> list[tuple[str, int]]:
    """(name, stated size) of the files in an archive, sorted by name; of members with one name, the last counts.

    Raises:
        PspError: The archive is damaged or not a zip archive.
        OSError: The archive cannot be read.
    """
    contents = _ARCHIVES.get(path).contents
    # Some Windows programs write backslashes, also at the end of a folder's name.
    folders = ("/", "\\")
    return [(name, size) for name, size in contents.sizes() if not name.endswith(folders)]


def read_member(file: FileRef, archive: Path, most: int) -> bytes:
    """The bytes of one member, at most the first ``most``, so that a zip bomb does not fill the memory.

    Raises:
        RawFormatError: The member is damaged, encrypted, or compressed with an unsupported method.
        PspError: The archive is damaged, or no longer has this member.
        OSError: The archive cannot be read.
    """
    opened = _ARCHIVES.get(archive)
    try:
        member = opened.contents.member(file.path)
    except KeyError:
        raise PspError(
            f"{file}: no longer in the archive; the archive was changed", fix="Run the command again."
        ) from None
    if member.flag_bits & _ENCRYPTED:
        raise RawFormatError("encrypted", str(file), "a member with a password", "a member without password")
    if member.compress_type not in _READ_METHODS:
        found = f"compression method {member.compress_type}"
        raise RawFormatError("compression", str(file), found, "a stored or deflated member")
    try:
        with _ARCHIVES.opening:
            stream = opened.zip.open(member)
        try:
            return stream.read(most)
        finally:
            with _ARCHIVES.opening:
                stream.close()
    except (*_DAMAGE, NotImplementedError) as error:
        raise RawFormatError(
            "damaged in the archive", str(file), str(error), "a member with a valid checksum"
        ) from error


class _Contents:
    """The table of contents of an archive, in a tenth of the memory of one `ZipInfo` per member.

    Integer fields are stored as columns; a field with one value for all members is stored once.
    """

    def __init__(self, members: Mapping[str, zipfile.ZipInfo]) -> None:
        self._names = sorted(members)
        self._odd = {name: m.orig_filename for name, m in members.items() if m.orig_filename != name}
        self._columns: dict[str, NDArray[np.int64]] = {}
        for slot in zipfile.ZipInfo.__slots__:
            values = [getattr(members[name], slot, None) for name in self._names]
            if all(isinstance(value, int) for value in values):
                column = np.array(values, np.int64)
                # Copied, because a view would keep the whole column in memory.
                self._columns[slot] = column[:1].copy() if (column == column[:1]).all() else column

    def sizes(self) -> Iterator[tuple[str, int]]:
        """(name, stated size) of each member, sorted by name."""
        sizes = np.broadcast_to(self._columns["file_size"], len(self._names))
        return zip(self._names, map(int, sizes), strict=True)

    def member(self, name: str) -> zipfile.ZipInfo:
        """The member with this name.

        Raises:
            KeyError: There is no such member.
        """
        place = bisect.bisect_left(self._names, name)
        if self._names[place : place + 1] != [name]:
            raise KeyError(name)
        member = zipfile.ZipInfo(self._odd.get(name, name))
        for slot, column in self._columns.items():
            setattr(member, slot, int(column[place if len(column) > 1 else 0]))
        return member


class _Opened(NamedTuple):
    """An open archive and its table of contents."""

    zip: zipfile.ZipFile
    contents: _Contents


class _Archives:
    """The open archives of this process.

    Attributes:
        opening: Lock for opening and closing members: zipfile counts its open members without a lock.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop all open archives. After a fork, file positions and locks belong to the parent process."""
        self._open: OrderedDict[tuple[str, int, int, int], _Opened] = OrderedDict()
        self._listing, self.opening = threading.Lock(), threading.Lock()

    def get(self, path: Path) -> _Opened:
        """The archive at ``path``, opened if necessary."""
        status = path.stat()
        key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
        with self._listing:
            if key not in self._open:
                self._open[key] = _open(path)
            self._open.move_to_end(key)
            if len(self._open) > MAX_OPEN:
                # Not closed explicitly, because another thread may be reading it: it closes with its last reference.
                self._open.popitem(last=False)
            return self._open[key]


def _open(path: Path) -> _Opened:
    try:
        archive = zipfile.ZipFile(path)
        opened = _Opened(archive, _Contents(archive.NameToInfo))
        archive.NameToInfo.clear()
        archive.filelist.clear()
        return opened
    except (*_DAMAGE, NotImplementedError) as error:
        raise PspError(
            f"{path}: damaged or not a zip archive ({error})",
            fix="Download or copy it again; test it with `unzip -t`.",
        ) from error


_ARCHIVES = _Archives()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ARCHIVES.forget)
