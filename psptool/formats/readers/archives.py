"""Reading members of zip archives where they lie, from several threads, trusting nothing that the archive
says.

A process keeps the archives it reads open, as reading the table of contents of one with 57,000 members takes
a while. Archives are known by path and by what the file system says of the file, so one that was written anew
is opened anew.
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
"""Archives kept open in one process."""

_ENCRYPTED = 0x1
_READ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What zipfile and zlib raise for bytes that are no whole archive.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError)


def members(path: Path) -> list[tuple[str, int]]:
    """(name, size as stated) of an archive's files, sorted by name; of two under one name, the last counts.

    Raises:
        PspError: It is not a whole zip archive.
        OSError: It cannot be read.
    """
    contents = _ARCHIVES.get(path).contents
    # Some programs on Windows write backslashes, also at the end of a folder's name.
    folders = ("/", "\\")
    return [(name, size) for name, size in contents.sizes() if not name.endswith(folders)]


def read_member(file: FileRef, archive: Path, most: int) -> bytes:
    """The bytes of one member, at most the first `most`, so that a bomb costs no memory.

    Raises:
        RawFormatError: It is damaged, encrypted or packed in a way that is not read.
        PspError: The archive is not whole, or no longer has this member.
        OSError: The archive cannot be read.
    """
    opened = _ARCHIVES.get(archive)
    try:
        member = opened.contents.member(file.path)
    except KeyError:
        raise PspError(
            f"{file}: no longer in the archive", fix="The archive was changed; run again."
        ) from None
    if member.flag_bits & _ENCRYPTED:
        raise RawFormatError("encrypted", str(file), "a member with a password", "one without")
    if member.compress_type not in _READ_METHODS:
        found = f"method {member.compress_type}"
        raise RawFormatError("compression", str(file), found, "a member that is stored or deflated")
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
            "damaged in the archive", str(file), str(error), "the bytes as packed"
        ) from error


class _Contents:
    """An archive's table of contents, in a tenth of the memory that a `ZipInfo` a member takes.

    Of each member's numbers only those are kept that are not the same for all of them.
    """

    def __init__(self, members: Mapping[str, zipfile.ZipInfo]) -> None:
        self._names = sorted(members)
        self._odd = {name: m.orig_filename for name, m in members.items() if m.orig_filename != name}
        self._columns: dict[str, NDArray[np.int64]] = {}
        for slot in zipfile.ZipInfo.__slots__:
            values = [getattr(members[name], slot, None) for name in self._names]
            if all(isinstance(value, int) for value in values):
                column = np.array(values, np.int64)
                # A copy, since a view would keep the whole column.
                self._columns[slot] = column[:1].copy() if (column == column[:1]).all() else column

    def sizes(self) -> Iterator[tuple[str, int]]:
        """(name, size as stated) of each member, sorted by name."""
        sizes = np.broadcast_to(self._columns["file_size"], len(self._names))
        return zip(self._names, map(int, sizes), strict=True)

    def member(self, name: str) -> zipfile.ZipInfo:
        """The member of that name.

        Raises:
            KeyError: There is none.
        """
        place = bisect.bisect_left(self._names, name)
        if self._names[place : place + 1] != [name]:
            raise KeyError(name)
        member = zipfile.ZipInfo(self._odd.get(name, name))
        for slot, column in self._columns.items():
            setattr(member, slot, int(column[place if len(column) > 1 else 0]))
        return member


class _Opened(NamedTuple):
    """An archive that is held open, and what is in it."""

    zip: zipfile.ZipFile
    contents: _Contents


class _Archives:
    """The archives that this process holds open.

    Attributes:
        opening: Held while a member is opened or closed: zipfile counts its open members without a lock.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start with none: after a fork, file positions and locks are shared with, or held by, the parent."""
        self._open: OrderedDict[tuple[str, int, int, int], _Opened] = OrderedDict()
        self._listing, self.opening = threading.Lock(), threading.Lock()

    def get(self, path: Path) -> _Opened:
        """The archive, opened if it was not."""
        status = path.stat()
        key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
        with self._listing:
            if key not in self._open:
                self._open[key] = _open(path)
            self._open.move_to_end(key)
            if len(self._open) > MAX_OPEN:
                # Not closed here, as another thread may be reading it: it closes when the last one lets go.
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
            f"{path}: not a whole zip archive ({error})",
            fix="Download or copy it again; `unzip -t` tests it.",
        ) from error


_ARCHIVES = _Archives()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ARCHIVES.forget)
