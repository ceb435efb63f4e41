"""Where raw recordings lie: the files of folders and zip archives, and the clips among them.

Archives are untrusted: nothing is ever unpacked, and a member's name is compared but never used as a path.
Their bytes are read in `psptool.readers.archives`.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from psptool.errors import PspError, RawFormatError
from psptool.readers import archives
from psptool.readers.base import ClipSource, FileRef, Reader, Stray

MAX_BYTES = 64 * 2**20
"""Bytes that a clip's file may have, unpacked; the longest NTU clip has about 2 MB."""

_OTHER_ARCHIVES = (".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar", ".zst")

_Seen = set[tuple[int, int]]
"""Device and inode of each folder and archive that was entered."""


def list_files(paths: Sequence[Path | str]) -> list[FileRef]:
    """All files that ``--raw`` names: folders at any depth, zip archives, also inside a folder, single files.

    The order is that of the names, so it does not depend on the file system. A folder or archive that is
    reached twice, also by a symlink, is taken once.

    Raises:
        PspError: A path does not exist or cannot be read, or an archive is damaged; names it.
    """
    seen: _Seen = set()
    return [file for path in paths for file in _named(Path(path), seen)]


def find_clips(paths: Sequence[Path | str], reader: Reader) -> tuple[list[ClipSource], list[Stray]]:
    """The clips that ``--raw`` names, sorted by name, and the files of the reader's kind that are no clip.

    A clip name that is found twice is returned twice: whether the two are the same takes a look at their
    bytes. A member whose name points out of its archive is a stray.

    Raises:
        PspError: As for `list_files`.
    """
    return clips_among(list_files(paths), reader)


def clips_among(files: list[FileRef], reader: Reader) -> tuple[list[ClipSource], list[Stray]]:
    """As `find_clips`, for files that are already listed."""
    clips, strays = reader.find([file for file in files if not archives.points_outside(file)])
    odd_clips, odd_strays = reader.find([file for file in files if archives.points_outside(file)])
    reason = "its name points out of the archive"
    strays += [Stray(clip.name, str(clip.files[0]), reason) for clip in odd_clips]
    strays += [Stray(stray.name, stray.source, reason) for stray in odd_strays]
    clips.sort(key=lambda clip: (clip.name, str(clip.files[0])))
    return clips, sorted(strays, key=lambda stray: (stray.name, stray.source))


def read_clip(source: ClipSource, folder: str = "") -> list[bytes]:
    """The bytes of a clip's files, in their order.

    Args:
        source: The clip.
        folder: What paths that are not absolute are relative to; the working directory where empty.

    Raises:
        RawFormatError: A file is too large, or its member of the archive is damaged, encrypted or packed in
            a way that is not read.
        PspError: A file cannot be read at all.
    """
    return [read_file(file, folder) for file in source.files]


def read_file(file: FileRef, folder: str = "") -> bytes:
    """The bytes of one file; errors as for `read_clip`. Any number of threads may read at once."""
    if file.size > MAX_BYTES:
        raise _too_large(file, f"{file.size} bytes")
    try:
        if file.archive is not None:
            archive = Path(folder, file.archive) if folder else file.archive
            blob = archives.read_member(file, archive, MAX_BYTES + 1)
        else:
            blob = _read(os.path.join(folder, file.path), file.size)  # noqa: PTH118
    except OSError as error:
        raise _unreadable(str(file), error) from error
    # The size that was stated may be wrong; what was read tells.
    if len(blob) > MAX_BYTES:
        raise _too_large(file, f"more than {MAX_BYTES} bytes")
    return blob


def _read(path: str, size: int) -> bytes:
    """The bytes of a file of about ``size`` bytes, at most a few more than `MAX_BYTES`.

    With as few system calls as can be: in each a thread lets go of the interpreter, and waits for it after.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        # Asked for as many as there are, since memory for as many as there may be is slow to get.
        blob = os.read(descriptor, size + 1)
        if len(blob) == size:
            return blob
        # It has grown or shrunk since it was listed, or comes in pieces.
        parts, left = [blob], MAX_BYTES + 1 - len(blob)
        while left > 0 and (part := os.read(descriptor, min(left, 2**20))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _too_large(file: FileRef, found: str) -> RawFormatError:
    return RawFormatError("too large", str(file), found, f"at most {MAX_BYTES} bytes")


def _unreadable(name: str, error: OSError) -> PspError:
    way_out = "Check the file, its disk and your permissions."
    return PspError(f"{name}: cannot be read ({error.strerror or error})", way_out=way_out)


def _named(path: Path, seen: _Seen) -> Iterator[FileRef]:
    """The files of one path as the user gave it."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise _no_such(path) from None
    except OSError as error:
        raise _unreadable(str(path), error) from error
    try:
        if stat.S_ISDIR(status.st_mode):
            yield from _in_folder(path, seen)
        elif path.suffix.lower() == ".zip":
            yield from _in_archive(path, seen)
        elif path.suffix.lower() in _OTHER_ARCHIVES:
            raise PspError(
                f"{path}: archives other than zip are not read", way_out="Unpack it and name the folder."
            )
        elif stat.S_ISREG(status.st_mode):
            yield FileRef(str(path), None, status.st_size, status.st_mtime_ns)
        else:
            raise PspError(f"{path}: not a file, folder or archive", way_out="Check the path.")
    except OSError as error:
        raise _unreadable(error.filename or str(path), error) from error


def _no_such(path: Path) -> PspError:
    """The error for a path that does not exist, with near misses from the nearest folder that does."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    try:
        names = sorted(entry.name for entry in missing.parent.iterdir())
    except OSError:
        names = []
    near = [str(missing.parent / name) for name in difflib.get_close_matches(missing.name, names)]
    way_out = f"Did you mean {' or '.join(near)}?" if near else "Check the path."
    return PspError(f"{path}: no such file or folder", way_out=way_out)


def _is_new(path: Path, seen: _Seen) -> bool:
    status = path.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _in_folder(folder: Path, seen: _Seen) -> Iterator[FileRef]:
    """Files below a folder by name, with a stack of its own, as a tree may be deeper than Python's."""
    stack = [iter(_entries(folder))] if _is_new(folder, seen) else []
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif _leads_nowhere(entry) or archives.is_shadow(entry.name):
            continue
        elif entry.is_dir():
            folder = Path(entry.path)
            if _is_new(folder, seen):
                stack.append(iter(_entries(folder)))
        elif entry.is_file() and entry.name.lower().endswith(".zip"):
            yield from _in_archive(Path(entry.path), seen)
        elif entry.is_file():
            status = entry.stat()
            yield FileRef(entry.path, None, status.st_size, status.st_mtime_ns)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a symlink to nothing, or to itself."""
    return entry.is_symlink() and not Path(entry.path).exists()


def _in_archive(path: Path, seen: _Seen) -> Iterator[FileRef]:
    if _is_new(path, seen):
        changed = path.stat().st_mtime_ns
        for name, size in archives.members(path):
            yield FileRef(name, path, size, changed)
