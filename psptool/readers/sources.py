"""Where raw recordings lie: the files of folders and zip archives, and their bytes.

Archives are untrusted. Nothing is ever unpacked: a member's bytes are read into memory, as many as `MAX_BYTES` at most,
whatever the archive says of their number; a member's name is only ever compared, never used as a path.
"""

from __future__ import annotations

import difflib
import os
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from psptool.errors import PspError, RawFormatError
from psptool.readers.base import ClipSource, FileRef, Reader, Stray

MAX_BYTES = 64 * 2**20
"""Bytes a clip's file may have; the longest NTU clip has 2 MB."""
MAX_OPEN = 16
"""Archives kept open in one process."""

_OTHER_ARCHIVES = (".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar", ".zst")
_ENCRYPTED = 0x1


def list_files(paths: Sequence[Path | str]) -> list[FileRef]:
    """All files that ``--raw`` names: folders at any depth, zip archives (also those inside a folder), single files.

    The order is that of the names, so it does not depend on the file system. A folder or archive that is reached twice,
    also by a symlink, is taken once.

    Raises:
        PspError: A path does not exist or cannot be read, or an archive is damaged; names it.
    """
    seen: set[tuple[int, int]] = set()
    return [file for path in paths for file in _named(Path(path), seen)]


def find_clips(paths: Sequence[Path | str], reader: Reader) -> tuple[list[ClipSource], list[Stray]]:
    """The clips that ``--raw`` names, sorted by name, and the files of the reader's kind that are no clip.

    A clip name that is found twice is returned twice: whether the two are the same takes a look at their bytes. A member
    whose name points out of its archive is a stray.

    Raises:
        PspError: As for `list_files`.
    """
    return clips_among(list_files(paths), reader)


def clips_among(files: list[FileRef], reader: Reader) -> tuple[list[ClipSource], list[Stray]]:
    """As `find_clips`, for files that are already listed."""
    clips, strays = reader.find([file for file in files if not _points_outside(file)])
    odd_clips, odd_strays = reader.find([file for file in files if _points_outside(file)])
    reason = "its name in the archive points outside of it"
    strays += [Stray(clip.name, str(clip.files[0]), reason) for clip in odd_clips]
    strays += [Stray(stray.name, stray.source, reason) for stray in odd_strays]
    clips.sort(key=lambda clip: (clip.name, str(clip.files[0])))
    return clips, sorted(strays, key=lambda stray: (stray.name, stray.source))


def read_clip(source: ClipSource) -> list[bytes]:
    """The bytes of a clip's files, in their order.

    Raises:
        RawFormatError: A file is too large, or its member of the archive is damaged, encrypted or packed in an unknown way.
        PspError: A file cannot be read.
    """
    return [read_file(file) for file in source.files]


def read_file(file: FileRef) -> bytes:
    """The bytes of one file; errors as for `read_clip`. Any number of threads may read at once."""
    if file.size > MAX_BYTES:
        raise _too_large(file, f"{file.size} bytes")
    try:
        blob = _read_member(file, file.archive) if file.archive else _read_at_most(Path(file.path))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise RawFormatError("damaged in the archive", str(file), str(error)) from error
    except OSError as error:
        raise _unreadable(str(file), error) from error
    # The size that an archive or folder stated may be wrong; what was read tells.
    if len(blob) > MAX_BYTES:
        raise _too_large(file, f"more than {MAX_BYTES} bytes")
    return blob


def _too_large(file: FileRef, found: str) -> RawFormatError:
    return RawFormatError("too large", str(file), found, f"at most {MAX_BYTES} bytes")


def _unreadable(name: str, error: OSError) -> PspError:
    return PspError(
        f"{name}: cannot be read ({error.strerror or error})",
        way_out="Check the file, its disk and your permissions.",
    )


def _read_at_most(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _read_member(file: FileRef, archive: Path) -> bytes:
    opened = _ARCHIVES.get(archive)
    try:
        member = opened.getinfo(file.path)
        if member.flag_bits & _ENCRYPTED:
            raise RawFormatError("encrypted", str(file), "a member with a password", "one without")
        with opened.open(member) as stream:
            return stream.read(MAX_BYTES + 1)
    except KeyError:
        raise PspError(
            f"{file}: no longer in the archive", way_out="Run again; the archive was changed."
        ) from None
    except NotImplementedError as error:
        raise RawFormatError(
            "unknown compression", str(file), str(error), "a member stored or deflated"
        ) from error


class _Archives:
    """The archives that this process holds open; opening one reads its table of contents, which takes a while."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, zipfile.ZipFile] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def get(self, path: Path) -> zipfile.ZipFile:
        """The archive, opened if it was not; zipfile itself guards reads by several threads."""
        with self._lock:
            if self._process != os.getpid():
                # A forked process shares the file position with its parent, so it must open its own.
                self._open, self._process = OrderedDict(), os.getpid()
            if path not in self._open:
                self._open[path] = _open_archive(path)
            self._open.move_to_end(path)
            while len(self._open) > MAX_OPEN:
                # Not closed here: another thread may be reading it. It closes when the last one lets go.
                self._open.popitem(last=False)
            return self._open[path]


_ARCHIVES = _Archives()


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise PspError(
            f"{path}: not a whole zip archive ({error})",
            way_out="Download or copy it again; `unzip -t` tests it.",
        ) from error
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _named(path: Path, seen: set[tuple[int, int]]) -> Iterator[FileRef]:
    """The files of one path as the user gave it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise _no_such(path) from None
    except OSError as error:
        raise _unreadable(str(path), error) from error
    if path.is_dir():
        yield from _in_folder(path, seen)
    elif path.suffix.lower() == ".zip":
        yield from _in_archive(path, seen)
    elif path.suffix.lower() in _OTHER_ARCHIVES:
        raise PspError(
            f"{path}: an archive of this kind is not read", way_out="Unpack it and name the folder."
        )
    else:
        yield FileRef(str(path), None, status.st_size)


def _no_such(path: Path) -> PspError:
    """The error for a path that does not exist, with near misses from the nearest folder that does."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    try:
        names = sorted(entry.name for entry in missing.parent.iterdir())
    except OSError:
        names = []
    near = difflib.get_close_matches(missing.name, names, n=3)
    shown = ", ".join(str(missing.parent / name) for name in near)
    return PspError(
        f"{path}: no such file or folder", way_out=f"Did you mean {shown}?" if near else "Check the path."
    )


def _is_new(path: Path, seen: set[tuple[int, int]]) -> bool:
    status = path.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _in_folder(folder: Path, seen: set[tuple[int, int]]) -> Iterator[FileRef]:
    """Files below a folder by name; an explicit stack, as a hostile tree may be deeper than Python's."""
    if not _is_new(folder, seen):
        return
    stack = [iter(_entries(folder))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif entry.is_dir():
            if _is_new(Path(entry.path), seen):
                stack.append(iter(_entries(Path(entry.path))))
        elif entry.name.lower().endswith(".zip"):
            yield from _in_archive(Path(entry.path), seen)
        elif entry.is_file() and not _is_shadow(entry.name):
            yield FileRef(entry.path, None, entry.stat().st_size)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(str(folder), error) from error


def _in_archive(path: Path, seen: set[tuple[int, int]]) -> Iterator[FileRef]:
    archive = _ARCHIVES.get(path)
    if _is_new(path, seen):
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            if not member.is_dir() and not _is_shadow(member.filename):
                yield FileRef(member.filename, path, member.file_size)


def _is_shadow(name: str) -> bool:
    """Whether a file is what macOS puts beside another, with its name but not its content."""
    return PurePosixPath(name).name.startswith("._")


def _points_outside(file: FileRef) -> bool:
    if file.archive is None:
        return False
    parts = file.path.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or ":" in parts[0]
