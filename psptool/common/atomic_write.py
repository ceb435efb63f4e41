"""Putting a new file in an old one's place: a reader sees the old or the whole new one, whatever happens.

`write_whole` serves all that fits in memory (texts, pictures, weights); `Replacement` what grows on the disk, and
`replacing` several files that belong together. A symbolic link stays, and the file that it leads to is replaced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from psptool.common.errors import PspError

try:
    import fcntl
except ImportError:  # Windows has no flock; two writers of one file are then not told apart.
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".partial"


class Replacement:
    """A partial file beside ``path`` that one process at a time may fill, and that then takes its name.

    Where ``path`` is a symbolic link, it is beside the file that the link leads to, and takes that one's name.

    A partial file that a killed process left is taken over: its lock went with the process. Whoever fills it
    truncates it first.

    Args:
        path: The final file; its folder must exist.
        wait: Where another process is filling the file, wait for it instead of refusing.

    Attributes:
        target: The file that is replaced: ``path``, or what it leads to.
        partial: The file to fill.
        done: Whether `commit` or `abandon` has run.

    Raises:
        PspError: The folder is absent or cannot be written, a link leads nowhere, or another process is filling the
            file.
    """

    def __init__(self, path: Path, wait: bool = False) -> None:
        self._path, self._wait = path, wait
        self.target = link_target(path)
        self.partial = self.target.with_name(f".{self.target.name}{_PARTIAL}")
        self.done = False
        self._held = self._hold()

    def _hold(self) -> IO[bytes]:
        while True:
            try:
                held = self.partial.open("ab")
            except OSError as error:
                raise PspError(
                    f"{self._path}: cannot be written ({error.strerror or error})",
                    fix="Make the folder, mend its permissions, or choose another file.",
                ) from error
            if not lock(held, self._wait):
                held.close()
                raise PspError(
                    f"{self._path}: another psptool process is writing this file",
                    fix="Wait for it to end, or choose another file.",
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
        self.partial.replace(self.target)
        self.done = True
        self._held.close()
        sync_folder(self.target.parent)

    def abandon(self) -> None:
        """Remove the partial file."""
        self.done = True
        try:
            self.partial.unlink(missing_ok=True)
        finally:
            self._held.close()


def link_target(path: Path) -> Path:
    """The file to replace where ``path`` is written: itself, or what it leads to as a symbolic link.

    To be asked before a folder is made, as the system says of a link that leads nowhere that it exists.

    Raises:
        PspError: It, or a folder that it lies in, is a link that leads nowhere or in a circle.
    """
    for place in (path, *path.parents):
        if not os.path.islink(place):  # noqa: PTH114 (Path.is_symlink raises where a folder may not be entered)
            continue
        try:
            real = Path(os.path.realpath(place, strict=True))
        except OSError as error:
            # A missing file and a circle of links are told apart by the system's words.
            raise PspError(
                f"{path}: cannot be written ({error.strerror or error})",
                f"{place}, a link to {place.readlink()}",
                "a link to what is there",
                "Mend or remove the link, or choose another file.",
            ) from error
        if place == path:
            return real
    return path


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
    Where the path is a symbolic link, the file that it leads to is written.

    Raises:
        PspError: The path cannot be written, or is a link that leads nowhere.
    """
    try:
        _make_folder(path)
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
        raise _unwritable(path, error) from error


def _make_folder(path: Path) -> None:
    """Make the folder of ``path``.

    Raises:
        PspError: It cannot be made, or a link leads nowhere.
    """
    link_target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: object, error: OSError) -> PspError:
    return PspError(
        f"{path}: cannot be written ({error.strerror or error})",
        fix="Free space on the disk, mend the folder's permissions, or name another place.",
    )


@contextlib.contextmanager
def replacing(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Partial files to fill that take the names of ``paths`` together at the end, or leave nothing behind.

    All of their bytes are on the disk before the first takes its name. Where one cannot take its name, those that
    did are given back what they replaced. Where the process is killed between two of them, the first are new, and
    the old ones lie beside them as ``.NAME.old.partial``.

    Raises:
        PspError: A file cannot be written, or another process is writing it.
    """
    held: list[Replacement] = []
    try:
        for path in paths:
            _make_folder(path)
            held.append(Replacement(path))
            held[-1].partial.write_bytes(b"")
        yield [replacement.partial for replacement in held]
        for replacement in held:
            replacement.sync()
        _commit_all(held)
    except OSError as error:
        raise _unwritable(error.filename2 or error.filename or paths[0], error) from error
    finally:
        for replacement in held:
            if not replacement.done:
                replacement.abandon()


def _commit_all(held: Sequence[Replacement]) -> None:
    """Give all files their names, or none.

    Raises:
        OSError: One cannot take its name; those that did are given back what they replaced.
        PspError: One cannot be given it back either; what it replaced stays where the error says.
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
            kept = ", ".join(f"{one.target} (the old one: {olds[one] or 'none'})" for one in stuck)
            raise PspError(
                f"{kept}: new already, while another file cannot be written ({error}), and not to be given back",
                fix="Move the old files back, or write all of them again.",
            ) from error
        raise
    finally:
        for replacement, old in olds.items():
            if old is not None and replacement not in stuck:
                with contextlib.suppress(OSError):
                    old.unlink(missing_ok=True)


def _keep_old(target: Path) -> Path | None:
    """A second name for the file that is to be replaced; None where there is none."""
    if not target.exists():
        return None
    old = target.with_name(f".{target.name}.old{_PARTIAL}")
    old.unlink(missing_ok=True)
    try:
        os.link(target, old)
    except OSError:
        shutil.copy2(target, old)  # A file system without hard links.
    return old


def _give_back(target: Path, old: Path | None) -> bool:
    """Undo a replacement; False where that cannot be done."""
    try:
        if old is None:
            target.unlink(missing_ok=True)
        else:
            old.replace(target)
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders.
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
