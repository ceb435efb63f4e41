"""Reading members of zip archives where they lie, from several threads, trusting nothing that the archive
says.

A process keeps the archives it reads open, as reading the table of contents of one with 57,000 members takes
a while. Archives are known by path and by what the file system says of the file, so one that was written anew
is opened anew.
"""

from __future__ import annotations

import os
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

from psptool.errors import PspError, RawFormatError
from psptool.readers.base import FileRef

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
    found = {member.filename: member for member in _ARCHIVES.get(path).infolist()}
    return sorted(
        (name, member.file_size)
        for name, member in found.items()
        if not member.is_dir() and not is_shadow(name)
    )


def read_member(file: FileRef, archive: Path, most: int) -> bytes:
    """The bytes of one member, at most the first `most`, so that a bomb costs no memory.

    Raises:
        RawFormatError: It is damaged, encrypted or packed in a way that is not read.
        PspError: The archive is not whole, or no longer has this member.
        OSError: The archive cannot be read.
    """
    opened = _ARCHIVES.get(archive)
    try:
        member = opened.getinfo(file.path)
    except KeyError:
        raise PspError(
            f"{file}: no longer in the archive", way_out="The archive was changed; run again."
        ) from None
    if member.flag_bits & _ENCRYPTED:
        raise RawFormatError("encrypted", str(file), "a member with a password", "one without")
    if member.compress_type not in _READ_METHODS:
        found = f"method {member.compress_type}"
        raise RawFormatError("compression", str(file), found, "a member that is stored or deflated")
    try:
        with _ARCHIVES.opening:
            stream = opened.open(member)
        try:
            return stream.read(most)
        finally:
            with _ARCHIVES.opening:
                stream.close()
    except (*_DAMAGE, NotImplementedError) as error:
        raise RawFormatError(
            "damaged in the archive", str(file), str(error), "the bytes as packed"
        ) from error


def is_shadow(name: str) -> bool:
    """Whether a file is what macOS puts beside another: with its name after ``._``, but not its content."""
    return name.rsplit("/", 1)[-1].startswith("._")


def points_outside(file: FileRef) -> bool:
    """Whether the name of an archive's member is absolute or climbs out of the archive."""
    if file.archive is None:
        return False
    parts = file.path.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or ":" in parts[0]


class _Archives:
    """The archives that this process holds open.

    Attributes:
        opening: Held while a member is opened or closed: zipfile counts its open members without a lock.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start with none: after a fork, file positions and locks are shared with, or held by, the parent."""
        self._open: OrderedDict[tuple[str, int, int, int], zipfile.ZipFile] = OrderedDict()
        self._listing, self.opening = threading.Lock(), threading.Lock()

    def get(self, path: Path) -> zipfile.ZipFile:
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


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (*_DAMAGE, NotImplementedError) as error:
        raise PspError(
            f"{path}: not a whole zip archive ({error})",
            way_out="Download or copy it again; `unzip -t` tests it.",
        ) from error


_ARCHIVES = _Archives()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ARCHIVES.forget)
