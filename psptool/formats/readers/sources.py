"""Listing and reading raw files in folders, zip archives and tar archives, and finding the clips among them.

Archives are untrusted: nothing is unpacked to disk, and a member's name is never used as a path. The bytes of members
are read by `psptool.formats.readers.archives` (zip) and `psptool.formats.readers.tars`.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from psptool.common.errors import PspError, RawFormatError, cannot_read
from psptool.formats.readers import archives, tars
from psptool.formats.readers.base import ClipSource, FileRef, Reader, Stray
from psptool.formats.readers.packing import (
    ARCHIVE_SUFFIXES,
    PACKED_SUFFIXES,
    TAR_SUFFIXES,
    UNREAD_PART,
    UNREAD_SUFFIXES,
    unpack,
)

MAX_BYTES = 64 * 2**20
"""Maximum size of an uncompressed file in bytes; the largest NTU clip has about 2 MB."""

OUTSIDE = "member name with a path outside of the archive"
NESTED = "archive inside an archive"
OTHER_ARCHIVE = "unsupported archive format"
OTHER_CONTENT = "compressed file whose name is not a recording's"
LOST = frozenset((OUTSIDE, NESTED, OTHER_ARCHIVE, OTHER_CONTENT, tars.LINK, tars.NO_FILE))
"""Reasons of strays that may contain recordings; the user is warned of them."""

_READ = f"a folder, {', '.join(ARCHIVE_SUFFIXES)}, or a file, optionally compressed as {', '.join(PACKED_SUFFIXES)}"

_Seen = set[tuple[int, int]]
"""Device and inode of each folder and archive that was listed."""


def list_files(paths: Sequence[Path | str]) -> list[FileRef]:
    """All files in ``paths``: single files, and recursively the files in folders and in zip and tar archives.

    The files are sorted by name, so their order does not depend on the file system. A folder or archive that is reached
    twice, for example by a symbolic link, is listed once.

    Raises:
        PspError: A path does not exist or cannot be read, or an archive is damaged. The message names it.
    """
    seen: _Seen = set()
    return [file for path in paths for file in _named(Path(path), seen)]


def find_clips(paths: Sequence[Path | str], reader: Reader) -> tuple[list[ClipSource], list[Stray]]:
    """The clips in ``paths``, sorted by name, and the strays.

    Several recordings with one clip name are all returned; only their bytes can tell whether they are copies. Strays
    are files of the reader's format whose name is not a clip name, and files that may contain recordings but are not
    read: members with a path outside of their archive, links in an archive, archives inside an archive, archives of
    unsupported formats, and compressed files whose name is not a recording's.

    Raises:
        PspError: As for `list_files`.
    """
    return clips_among(list_files(paths), reader)


def clips_among(files: list[FileRef], reader: Reader) -> tuple[list[ClipSource], list[Stray]]:
    """As `find_clips`, for files from `list_files`."""
    readable: list[FileRef] = []
    refused: dict[str, list[FileRef]] = defaultdict(list)
    for file in files:
        reason = _refusal(file)
        (refused[reason] if reason else readable).append(file)
    strays: list[Stray] = []
    for reason, some in refused.items():
        odd_clips, odd_strays = reader.find(some)
        strays += [Stray(clip.name, str(clip.files[0]), reason) for clip in odd_clips]
        strays += [Stray(stray.name, stray.source, reason) for stray in odd_strays]
    # Last, because a reader keeps the lists of clips of the files that it searched last.
    clips, more = reader.find(readable)
    strays += more
    strays += _unread_archives(files, clips, strays)
    clips.sort(key=lambda clip: (clip.name, str(clip.files[0])))
    return clips, sorted(strays, key=lambda stray: (stray.name, stray.source))


def _refusal(file: FileRef) -> str:
    """The reason why a member of an archive is not read: its type, or a name that is absolute or contains ``..``; empty
    if it is read.
    """
    if file.archive is None:
        return ""
    parts = file.path.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0][1:2] == ":":  # also C:, a drive of Windows
        return OUTSIDE
    return file.unread


def _unread_archives(files: list[FileRef], clips: list[ClipSource], strays: list[Stray]) -> list[Stray]:
    """Archives and compressed files that are not read but may contain recordings."""
    found = []
    for file in files:
        name = file.path.lower()
        suffix = name[name.rfind(".") :]
        if file.archive is not None and name.endswith(ARCHIVE_SUFFIXES):
            reason = NESTED
        elif suffix in UNREAD_SUFFIXES or (suffix[-1:].isdigit() and UNREAD_PART.search(name)):
            reason = OTHER_ARCHIVE
        elif suffix in PACKED_SUFFIXES:
            reason = OTHER_CONTENT
        else:
            continue
        found.append(Stray(PurePath(file.path).name, str(file), reason))
    if not found:
        return []
    taken = {str(file) for clip in clips for file in clip.files} | {stray.source for stray in strays}
    return [stray for stray in found if stray.source not in taken]


def _is_shadow(path: str) -> bool:
    """Whether a file is macOS metadata: in a folder ``__MACOSX``, or with a name that begins with ``._``."""
    if "._" not in path and "__MACOSX" not in path:
        return False
    parts = path.replace("\\", "/").split("/")
    return parts[-1].startswith("._") or "__MACOSX" in parts


def read_clip(source: ClipSource, folder: str = "") -> list[bytes]:
    """The bytes of the files of a clip, in order.

    Args:
        source: The clip.
        folder: Base folder of relative paths; the working directory if empty.

    Raises:
        RawFormatError: A file is too large; a member is damaged, encrypted or compressed with an unsupported method.
        PspError: A file cannot be read.
    """
    return [read_file(file, folder) for file in source.files]


def read_file(file: FileRef, folder: str = "") -> bytes:
    """The bytes of one file, decompressed if necessary. Arguments and errors as for `read_clip`. Thread-safe."""
    if file.size > MAX_BYTES:
        raise _too_large(file, f"{file.size} bytes")
    blob = _stored(file, folder) if file.content is None else file.content
    # The size stated in an archive may be wrong, so the bytes read are checked too.
    if len(blob) > MAX_BYTES:
        raise _too_large(file, f"more than {MAX_BYTES} bytes")
    if not file.path.lower().endswith(PACKED_SUFFIXES):
        return blob
    try:
        blob = unpack(blob, MAX_BYTES + 1)
    except ValueError as error:
        expected = f"a complete {', '.join(PACKED_SUFFIXES)} file"
        raise RawFormatError("damaged compressed file", str(file), str(error), expected) from error
    if len(blob) > MAX_BYTES:
        raise _too_large(file, f"more than {MAX_BYTES} bytes once unpacked")
    return blob


def _stored(file: FileRef, folder: str) -> bytes:
    """The bytes of one file as stored, without decompressing it; at most about `MAX_BYTES`."""
    try:
        if file.archive is None:
            return _read(os.path.join(folder, file.path), file.size)  # noqa: PTH118
        archive = Path(folder, file.archive) if folder else file.archive
        read_member = archives.read_member if file.offset < 0 else tars.read_member
        return read_member(file, archive, MAX_BYTES + 1)
    except OSError as error:
        raise cannot_read(file, error) from error


def _read(path: str, size: int) -> bytes:
    """The bytes of a file of about ``size`` bytes, at most about `MAX_BYTES`.

    Uses few system calls: each one releases the interpreter lock, and the thread waits to reacquire it.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        # Request the listed size: allocating a buffer of the maximum size would be slow.
        blob = os.read(descriptor, size + 1)
        if len(blob) == size:
            return blob
        # The file changed since it was listed, or is read in pieces.
        parts, left = [blob], MAX_BYTES + 1 - len(blob)
        while left > 0 and (part := os.read(descriptor, min(left, 2**20))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _too_large(file: FileRef, found: str) -> RawFormatError:
    return RawFormatError("too large", str(file), found, f"at most {MAX_BYTES} bytes")


def _named(path: Path, seen: _Seen) -> Iterator[FileRef]:
    """The files of one path given by the user."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise _no_such(path) from None
    except OSError as error:
        raise cannot_read(path, error) from error
    try:
        if stat.S_ISDIR(status.st_mode):
            yield from _in_folder(path, seen)
        elif not stat.S_ISREG(status.st_mode):
            raise PspError(f"{path}: not a file, folder or archive", fix="Check the path.")
        elif path.name.lower().endswith(ARCHIVE_SUFFIXES):
            yield from _in_archive(path, seen)
        elif path.suffix.lower() in UNREAD_SUFFIXES or UNREAD_PART.search(path.name.lower()):
            raise PspError(
                f"{path}: unsupported archive format",
                path.suffix,
                _READ,
                "Unpack it and use the folder instead.",
            )
        else:
            yield FileRef(str(path), None, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise cannot_read(error.filename or path, error) from error


def _no_such(path: Path) -> PspError:
    """The error for a path that does not exist, with similar names in the nearest existing folder."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    try:
        names = sorted(entry.name for entry in missing.parent.iterdir())
    except OSError:
        names = []
    near = [str(missing.parent / name) for name in difflib.get_close_matches(missing.name, names)]
    fix = f"Did you mean {' or '.join(near)}?" if near else "Check the path."
    return PspError(f"{path}: no such file or folder", fix=fix)


def _is_new(path: Path, seen: _Seen) -> bool:
    status = path.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _in_folder(folder: Path, seen: _Seen) -> Iterator[FileRef]:
    """The files below a folder, sorted by name. An explicit stack avoids Python's recursion limit."""
    stack = [iter(_entries(folder))] if _is_new(folder, seen) else []
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif _is_broken_link(entry) or _is_shadow(entry.name):
            continue
        elif entry.is_dir():
            folder = Path(entry.path)
            if _is_new(folder, seen):
                stack.append(iter(_entries(folder)))
        elif entry.is_file() and entry.name.lower().endswith(ARCHIVE_SUFFIXES):
            yield from _in_archive(Path(entry.path), seen)
        elif entry.is_file():
            status = entry.stat()
            yield FileRef(entry.path, None, status.st_size, status.st_mtime_ns)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a broken or circular symbolic link."""
    return entry.is_symlink() and not Path(entry.path).exists()


def _in_archive(path: Path, seen: _Seen) -> Iterator[FileRef]:
    if not _is_new(path, seen):
        return
    changed = path.stat().st_mtime_ns
    if path.name.lower().endswith(TAR_SUFFIXES):
        members = (FileRef(m.name, path, m.size, changed, m.offset, m.unread) for m in tars.members(path))
    else:
        members = (FileRef(name, path, size, changed) for name, size in archives.members(path))
    yield from (file for file in members if not _is_shadow(file.path))
