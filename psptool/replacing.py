"""Putting a new file in an old one's place: a reader sees the old or the whole new one, whatever happens.

`write_whole` serves all that fits in memory (texts, pictures, weights); `Replacement` what grows on the disk, and
`replacing` several files that belong together.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from psptool.errors import PspError

try:
    import fcntl
except ImportError:  # Windows has no flock; two writers of one file are then not told apart.
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".partial"


class Replacement:
    """A partial file beside ``path`` that one process at a time may fill, and that then takes its name.

    A partial file that a killed process left is taken over: its lock went with the process. Whoever fills it
    truncates it first.

    Args:
        path: The final file; its folder must exist.
        wait: Where another process is filling the file, wait for it instead of refusing.

    Attributes:
        partial: The file to fill.
        done: Whether `commit` or `abandon` has run.

    Raises:
        PspError: The folder is absent or cannot be written, or another process is filling the file.
    """

    def __init__(self, path: Path, wait: bool = False) -> None:
        self._path, self._wait = path, wait
        self.partial = path.with_name(f".{path.name}{_PARTIAL}")
        self.done = False
        self._held = self._hold()

    def _hold(self) -> IO[bytes]:
        while True:
            try:
                held = self.partial.open("ab")
            except OSError as error:
                raise PspError(
                    f"{self._path}: cannot be written ({error.strerror or error})",
                    way_out="Make the folder, mend its permissions, or choose another file.",
                ) from error
            if not lock(held, self._wait):
                held.close()
                raise PspError(
                    f"{self._path}: another psptool process is writing this file",
                    way_out="Wait for it to end, or choose another file.",
                )
            if self._is_held(held):
                return held
            held.close()  # Its writer gave it the final name between our opening and our locking.

    def _is_held(self, held: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.fstat(held.fileno()), self.partial.stat())
        except FileNotFoundError:
            return False

    def sync(self) -> None:
        """Put the partial file's bytes on the disk."""
        os.fsync(self._held.fileno())

    def commit(self) -> None:
        """Give the partial file its final name; the change of the folder goes to the disk too."""
        self.partial.replace(self._path)
        self.done = True
        self._held.close()
        sync_folder(self._path.parent)

    def abandon(self) -> None:
        """Remove the partial file."""
        self.done = True
        try:
            self.partial.unlink(missing_ok=True)
        finally:
            self._held.close()


def is_partial(path: Path) -> bool:
    """Whether this is a file that is being written, or whose writer was killed."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def lock(file: IO[bytes], wait: bool = False) -> bool:
    """Lock an open file for this process until it is closed or the process ends, however it ends.

    Args:
        file: Open for writing.
        wait: Where another process has it, wait for that one.

    Returns:
        False where another process has it. Where the system has no locks, nobody does.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass  # A file system without locks.
    return True


def write_whole(path: Path, data: str | bytes) -> None:
    """Write ``data`` to ``path``, making its folder where that is absent: whole or not at all.

    Text is written as UTF-8; a byte of a file name that is no text becomes an escape.

    That holds when the machine stops in between. Of two processes that write at once, one comes after the other.

    Raises:
        PspError: The path cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replacement = Replacement(path, wait=True)
        try:
            replacement.partial.write_bytes(
                data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
            )
            replacement.sync()
            replacement.commit()
        finally:
            if not replacement.done:
                replacement.abandon()
    except OSError as error:
        raise PspError(
            f"{path}: cannot be written ({error.strerror or error})",
            way_out="Free space on the disk, mend the folder's permissions, or name another place.",
        ) from error


@contextlib.contextmanager
def replacing(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Partial files to fill that take the names of ``paths`` together at the end, or leave nothing behind.

    All of their bytes are on the disk before the first takes its name.

    Raises:
        PspError: A file cannot be written, or another process is writing it.
    """
    held: list[Replacement] = []
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.append(Replacement(path))
            held[-1].partial.write_bytes(b"")
        yield [replacement.partial for replacement in held]
        for replacement in held:
            replacement.sync()
        for replacement in held:
            replacement.commit()
    except OSError as error:
        raise PspError(
            f"{error.filename2 or error.filename or paths[0]}: cannot be written ({error.strerror or error})",
            way_out="Free space on the disk, mend the folder's permissions, or name another place.",
        ) from error
    finally:
        for replacement in held:
            if not replacement.done:
                replacement.abandon()


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders.
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
