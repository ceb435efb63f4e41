"""Atomic replacement of files: a reader sees the complete old file or the complete new one, even after a crash.

- `write_whole` writes content that fits in memory (text, images, weights).
- `Replacement` writes a file that grows on disk.
- `write_together` and `replacing` write several files that belong together.

A symbolic link is kept; its target is replaced. A device or pipe is never replaced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from psptool.common.errors import PspError, cannot_write, system_message

try:
    import fcntl
except ImportError:  # Windows has no flock: two processes that write one file are not detected there.
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".partial"


class Replacement:
    """A locked temporary file in the folder of ``path`` that is renamed to ``path`` when complete.

    If ``path`` is a symbolic link, the target of the link is replaced.

    A temporary file left by a killed process is reused, because its lock ended with that process. The writer must
    truncate it first.

    Args:
        path: The final file; its folder must exist.
        wait: Wait for another process that is writing the file, instead of raising an error.

    Attributes:
        target: The file to replace: ``path``, or the target of the link.
        partial: The temporary file.
        done: Whether `commit` or `abandon` has run.

    Raises:
        PspError: The folder does not exist or is not writable, the link is broken, the path is a folder, device or
            pipe, or another process is writing the file.
    """

    def __init__(self, path: Path, wait: bool = False) -> None:
        self._path, self._wait = path, wait
        self.target = link_target(path)
        if self.target.exists() and not self.target.is_file():
            raise PspError(
                f"{path}: cannot be written (not a regular file)",
                "a folder" if self.target.is_dir() else "a device, pipe or socket",
                "a new or existing file",
                "Choose another path.",
            )
        self.partial = self.target.with_name(f".{self.target.name}{_PARTIAL}")
        self.done = False
        self._held = self._hold()

    def _hold(self) -> IO[bytes]:
        while True:
            try:
                held = self.partial.open("ab")
            except OSError as error:
                fix = "Create the folder, fix its permissions, or choose another path."
                raise cannot_write(self._path, error, fix) from error
            if not lock(held, self._wait):
                held.close()
                raise PspError(
                    f"{self._path}: another psptool process is writing this file",
                    fix="Wait until it has finished, or choose another path.",
                )
            if is_at(held, self.partial):
                return held
            held.close()  # Its writer renamed it after it was opened here and before it was locked.

    def sync(self) -> None:
        """Flush the temporary file to disk."""
        os.fsync(self._held.fileno())

    def commit(self) -> None:
        """Rename the temporary file to its final name, and flush the folder to disk.

        A file that is replaced keeps its permissions.
        """
        with contextlib.suppress(OSError):  # a new file, or a file system without permissions
            shutil.copymode(self.target, self.partial)
        self.partial.replace(self.target)
        self.done = True
        self._held.close()
        sync_folder(self.target.parent)

    def abandon(self) -> None:
        """Remove the temporary file."""
        self.done = True
        try:
            self.partial.unlink(missing_ok=True)
        finally:
            self._held.close()


def link_target(path: Path) -> Path:
    """The file that writing to ``path`` replaces: ``path`` itself, or the target of a symbolic link.

    Call it before creating folders: the system reports that a broken link exists.

    Raises:
        PspError: ``path`` or one of its folders is a broken or circular link.
    """
    for place in (path, *path.parents):
        if not os.path.islink(place):  # noqa: PTH114 (Path.is_symlink raises where a folder may not be entered)
            continue
        try:
            real = Path(os.path.realpath(place, strict=True))
        except OSError as error:
            # The system's message distinguishes a missing target from a circular link.
            raise PspError(
                f"{path}: cannot be written ({system_message(error)})",
                f"{place}, a link to {place.readlink()}",
                "a link to an existing file or folder",
                "Correct or remove the link, or choose another path.",
            ) from error
        if place == path:
            return real
    return path


def is_partial(path: Path) -> bool:
    """Whether ``path`` is a temporary file of `Replacement`: being written, or left by a killed process."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def lock(file: IO[bytes], wait: bool = False) -> bool:
    """Lock an open file for this process. The lock ends when the file is closed or the process ends.

    Args:
        file: A file opened for writing.
        wait: Wait while another process holds the lock.

    Returns:
        False if another process holds the lock. Always True on systems without file locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass  # The file system does not support locks.
    return True


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the file at ``path``: another process may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def write_whole(path: Path, data: str | bytes) -> None:
    """Write ``data`` to ``path`` atomically, creating its folder if needed.

    Text is encoded as UTF-8; lone surrogates are escaped. Concurrent writers of one path take turns. If the path is
    a symbolic link, its target is written.

    Raises:
        PspError: The path cannot be written, or is a broken link.
    """
    try:
        _make_folder(path)
        replacement = Replacement(path, wait=True)
        try:
            replacement.partial.write_bytes(_encoded(data))
            replacement.sync()
            replacement.commit()
        finally:
            if not replacement.done:
                replacement.abandon()
    except OSError as error:
        raise cannot_write(path, error) from error


def _make_folder(path: Path) -> None:
    """Create the folder of ``path``.

    Raises:
        PspError: It cannot be created, or a link is broken.
    """
    link_target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_together(contents: Mapping[Path, str | bytes], first: Callable[[], None] | None = None) -> None:
    """Write several files, all or none, as `write_whole` writes one; concurrent writers take turns.

    Args:
        contents: The content of each file.
        first: As in `replacing`.

    Raises:
        PspError: A path cannot be written, or is a broken link, or ``first`` raised it. No file is changed.
    """
    paths = sorted(contents)  # In one order, so that two writers never wait for each other.
    with replacing(paths, wait=True, first=first) as partials:
        for path, partial in zip(paths, partials, strict=True):
            partial.write_bytes(_encoded(contents[path]))


def differing(contents: Mapping[Path, str | bytes]) -> list[Path]:
    """The files that exist and have other content than `write_together` would write; unreadable files too."""
    return [path for path, data in contents.items() if _differs(path, _encoded(data))]


def _differs(path: Path, data: bytes) -> bool:
    try:
        return path.is_file() and (path.stat().st_size != len(data) or path.read_bytes() != data)
    except OSError:
        return True


def _encoded(data: str | bytes) -> bytes:
    return data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data


@contextlib.contextmanager
def replacing(
    paths: Sequence[Path], wait: bool = False, first: Callable[[], None] | None = None
) -> Iterator[list[Path]]:
    """Temporary files that replace ``paths`` together when the block ends; an error in the block changes no file.

    All bytes are on disk before the first rename. If a rename fails, the earlier ones are undone. If the process is
    killed between two renames, the files renamed so far are new and their old versions are kept as
    ``.NAME.old.partial``.

    Args:
        paths: The files.
        wait: Wait for another process that is writing one of them, instead of raising an error.
        first: Called when all bytes are on disk under temporary names, before the files get their names.

    Raises:
        PspError: A file cannot be written, or another process is writing it.
    """
    held: list[Replacement] = []
    try:
        for path in paths:
            _make_folder(path)
            held.append(Replacement(path, wait))
            held[-1].partial.write_bytes(b"")
        yield [replacement.partial for replacement in held]
        for replacement in held:
            replacement.sync()
        if first is not None:
            first()
        _commit_all(held)
    except OSError as error:
        raise cannot_write(error.filename2 or error.filename or paths[0], error) from error
    finally:
        for replacement in held:
            if not replacement.done:
                replacement.abandon()


def _commit_all(held: Sequence[Replacement]) -> None:
    """Rename all temporary files, or none.

    Raises:
        OSError: A rename failed; the earlier ones were undone.
        PspError: A rename failed, and an earlier one could not be undone. The message names the old version.
    """
    olds: dict[Replacement, Path | None] = {}
    stuck: list[Replacement] = []
    try:
        for replacement in held:
            olds[replacement] = _keep_old(replacement.target)
        for replacement in held:
            replacement.commit()
    except BaseException as error:
        stuck = [one for one, old in olds.items() if one.done and not _give_back(one.target, old)]
        if stuck:
            kept = ", ".join(f"{one.target} (old version: {olds[one] or 'none'})" for one in stuck)
            raise PspError(
                f"{kept}: replaced and cannot be restored, while another file cannot be written ({error})",
                fix="Move the old versions back, or write all files again.",
            ) from error
        raise
    finally:
        for replacement, old in olds.items():
            if old is not None and replacement not in stuck:
                with contextlib.suppress(OSError):
                    old.unlink(missing_ok=True)


def _keep_old(target: Path) -> Path | None:
    """A second name (hard link or copy) for the file to be replaced; None if it does not exist."""
    if not target.exists():
        return None
    old = target.with_name(f".{target.name}.old{_PARTIAL}")
    old.unlink(missing_ok=True)
    try:
        os.link(target, old)
    except OSError:
        shutil.copy2(target, old)  # The file system does not support hard links.
    return old


def _give_back(target: Path, old: Path | None) -> bool:
    """Undo a replacement; False if that fails."""
    try:
        if old is None:
            target.unlink(missing_ok=True)
        else:
            old.replace(target)
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows cannot open folders.
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
