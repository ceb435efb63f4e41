"""The run folder: names of its files, reading and writing.

``config.json`` is written before the first step. ``log.jsonl`` grows during training. Weights are written completely
or not at all. A folder without ``last.safetensors`` is an unfinished run; it can be resumed if it has a ``resume.pt``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from psptool.common.atomic_write import is_at, is_partial, lock, write_whole
from psptool.common.errors import PspError, cannot_read, cannot_write, suggest, system_message
from psptool.common.paths import MAX_JSON, read_text, regular_size
from psptool.schemas.run import RunConfig
from psptool.training.runs.weights import weights_bytes

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 2**53
_LARGEST_FINITE = 3.5e38
"""Losses are float32. The curves of larger values have no axis."""
NOT_TERMS = ("step", "lr", "seconds", "validation")
"""Keys of a log entry other than the loss and its terms."""


@dataclass(frozen=True)
class RunFolder:
    """One run folder.

    Attributes:
        path: Path of the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The run configuration: dataset, split, training configuration and provenance."""
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        """One JSON object per line: step, loss and its terms, learning rate, seconds, validation accuracy."""
        return self.path / "log.jsonl"

    def weights(self, which: str) -> Path:
        """The weights of the last step (``last``), or the best ones on the validation clips (``best``)."""
        return self.path / f"{which}.safetensors"

    @property
    def resume(self) -> Path:
        """The checkpoint to resume from; removed when the training is finished."""
        return self.path / "resume.pt"

    @property
    def lock(self) -> Path:
        """Locked by the process that trains in the folder. Never replaced, and removed only with the folder."""
        return self.path / ".lock"

    @property
    def curves(self) -> Path:
        """The learning curves, written at the end of the training."""
        return self.path / "curves.png"

    @property
    def finished(self) -> bool:
        """Whether the training is finished."""
        return self.weights("last").exists()

    def read_config(self) -> RunConfig:
        """Read ``config.json``.

        Raises:
            PspError: The folder does not exist or is not a run folder, or the file is damaged.
        """
        if not self.path.exists():
            names = [path.name for path in _entries(self.path.parent) if path.is_dir()]
            raise PspError(
                f"{self.path}: there is no such run",
                fix=suggest(self.path.name, names) or "Train one with psptool train, or check the path.",
            )
        if not self.config.exists():
            raise PspError(
                f"{self.path}: not a run folder",
                "no config.json",
                "a folder written by psptool train",
                "Check the path.",
            )
        return RunConfig.load(self.config)

    @classmethod
    def create(
        cls, config: RunConfig, out: Path | None = None, runs: Path = Path("runs")
    ) -> tuple[RunFolder, IO[bytes]]:
        """Create a new folder, lock it (see `acquire_lock`), and write its configuration.

        Args:
            config: The run configuration.
            out: The folder; by default ``<split>-<method>-<preset>`` in ``runs``, with ``-2``, ``-3``, … appended
                if it has a run.
            runs: The folder of all runs.

        Returns:
            The folder, and an open file that holds the lock until it is closed.

        Raises:
            PspError: ``out`` exists and is not empty, another process is training in it, or the folder cannot be
                created.
        """
        if out is not None:
            folder = cls(out)
            held = folder.create_and_lock()
            if folder.config.exists():
                held.close()
                raise _not_empty(out)
        else:
            with _creation_errors(runs):
                runs.mkdir(parents=True, exist_ok=True)
            folder, held = cls._new(runs, config)
        try:
            config.save(folder.config)
        except BaseException:
            held.close()
            raise
        return folder, held

    def create_and_lock(self) -> IO[bytes]:
        """Create the folder if it does not exist, and lock it (see `acquire_lock`) before anything is written.

        Raises:
            PspError: The folder has files but is not a run folder, cannot be created, or another process is training
                in it.
        """
        with _creation_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if self._has_files() and not self.config.exists():
                raise _not_empty(self.path)
        return self.acquire_lock()

    @classmethod
    def _new(cls, runs: Path, config: RunConfig) -> tuple[RunFolder, IO[bytes]]:
        """Create and lock the first of ``<split>-<method>-<preset>``, ``…-2``, ``…-3`` without files.

        The lock decides which of two trainings that start at the same time gets a name.
        """
        stem = f"{config.split_name}-{config.training.method}-{config.training.preset}"
        for number in count(1):
            folder = cls(runs / (stem if number == 1 else f"{stem}-{number}"))
            with _creation_errors(folder.path):
                try:
                    folder.path.mkdir(exist_ok=True)
                except FileExistsError:
                    continue  # a file
                if folder._has_files():
                    continue
            try:
                held = folder.acquire_lock()
            except PspError:
                if folder.in_use:
                    continue
                raise
            if not folder._has_files():
                return folder, held
            held.close()
        raise AssertionError("count never ends")

    def _has_files(self) -> bool:
        """Whether the folder has other files than a process killed before it wrote the configuration leaves."""
        return any(path != self.lock and not is_partial(path) for path in self.path.iterdir())

    def restart(self, config: RunConfig) -> None:
        """Remove the files of a training that stopped before its first checkpoint, and write the configuration.

        Raises:
            PspError: A file cannot be written.
        """
        self.weights("best").unlink(missing_ok=True)
        self.cut_log(0)
        config.save(self.config)

    @contextmanager
    def removed_on_error(self, kept: Path) -> Iterator[None]:
        """Context that removes a new run after an error before its first log entry and its first checkpoint.

        The caller must hold the lock.

        Args:
            kept: The folder above which nothing is removed: the innermost one that was there before the run.
        """
        try:
            yield
        except Exception:
            if not (self.log.exists() or self.resume.exists() or self.finished):
                with suppress(OSError):
                    for path in (self.config, *self.path.glob("events.out.tfevents.*"), self.lock):
                        path.unlink(missing_ok=True)
                    for folder in takewhile(lambda folder: folder != kept, (self.path, *self.path.parents)):
                        folder.rmdir()
            raise

    def append_log(self, entry: Mapping[str, Any]) -> None:
        """Append one line to the log.

        Raises:
            PspError: The log cannot be written.
        """
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise cannot_write(self.log, error) from error

    def read_log(self) -> list[dict[str, Any]]:
        """Entries of the log up to the first malformed line: a crash of the machine may leave an incomplete line.

        An entry is a JSON object of numbers, with a step.

        Raises:
            PspError: The log cannot be read.
        """
        return self._read_log()[0]

    def count_bad_log_lines(self) -> int:
        """The number of lines that `read_log` leaves out.

        Raises:
            PspError: The log cannot be read.
        """
        return self._read_log()[1]

    def _read_log(self) -> tuple[list[dict[str, Any]], int]:
        """The log's entries, and the number of lines after them."""
        try:
            lines = read_text(self.log, MAX_JSON).splitlines() if self.log.exists() else []
        except UnicodeDecodeError:
            return [], 1
        except OSError as error:
            raise cannot_read(self.log, error) from error
        entries: list[dict[str, Any]] = []
        for line in lines:
            if (entry := _log_entry(line)) is None:
                break
            entries.append(entry)
        return entries, len(lines) - len(entries)

    def cut_log(self, step: int) -> None:
        """Remove log entries of steps after ``step``; a training resumed at ``step`` logs them again.

        Raises:
            PspError: The log cannot be read or written.
        """
        kept = [json.dumps(entry) + "\n" for entry in self.read_log() if entry["step"] <= step]
        write_whole(self.log, "".join(kept))

    def read_resume(self) -> bytes:
        """The content of ``resume.pt``.

        Raises:
            PspError: It cannot be read.
        """
        try:
            regular_size(self.resume)
            return self.resume.read_bytes()
        except OSError as error:
            raise cannot_read(self.resume, error) from error

    def save_resume(self, state: bytes) -> None:
        """Write ``resume.pt`` completely or not at all, after flushing the log to disk.

        Raises:
            PspError: The file cannot be written.
        """
        if self.log.exists():
            with self.log.open("rb") as file:
                os.fsync(file.fileno())
        write_whole(self.resume, state)

    def acquire_lock(self) -> IO[bytes]:
        """Lock the folder against training by other processes until the returned file is closed.

        Raises:
            PspError: Another process is training in the folder, or the folder does not exist or cannot be written.
        """
        with _creation_errors(self.path):
            held = self.lock.open("ab")
        # The file may have been removed with its run (`removed_on_error`) after it was opened here.
        if not lock(held) or not is_at(held, self.lock):
            held.close()
            raise PspError(
                f"{self.path}: another psptool process is training in this folder",
                fix="Wait until it has finished, or train in a new folder with --resume off.",
            )
        return held

    def wait(self) -> None:
        """Wait until no other process is training in this folder."""
        # Opened for reading, which does not create the file in a folder that is not a run folder.
        with suppress(FileNotFoundError), self.lock.open("rb") as held:
            lock(held, wait=True)

    @property
    def in_use(self) -> bool:
        """Whether another process is training in this folder."""
        try:
            with self.lock.open("rb") as held:
                return not lock(held)
        except OSError:
            return False

    def save_weights(self, which: str, tensors: Mapping[str, Tensor]) -> None:
        """Write weights with their digest, completely or not at all.

        Args:
            which: ``last`` or ``best``.
            tensors: The state dict.

        Raises:
            PspError: The file cannot be written.
        """
        write_whole(self.weights(which), weights_bytes(tensors))


def _log_entry(line: str) -> dict[str, Any] | None:
    """The entry in a line of a log; None if it is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        return None
    plain = all(key.isprintable() and _is_logged(value) for key, value in entry.items())
    return entry if plain else None


def _is_logged(value: Any) -> bool:
    """Whether a value can be one of a log."""
    if type(value) is int:
        return abs(value) < _LARGEST
    return type(value) is float and not _LARGEST_FINITE < abs(value) < math.inf


def innermost_existing(path: Path) -> Path:
    """``path`` if it exists, or else the innermost folder above it that exists."""
    return next((one for one in (path, *path.parents) if os.path.lexists(one)), path)


@contextmanager
def _creation_errors(path: Path) -> Iterator[None]:
    """Context that turns an operating system error into one that names the run folder."""
    try:
        yield
    except OSError as error:
        raise PspError(
            f"{path}: the run folder cannot be created ({system_message(error)})",
            fix="Choose a writable folder with --out.",
        ) from error


def _not_empty(path: Path) -> PspError:
    return PspError(f"{path}: the folder is not empty", fix="Choose a new folder with --out, or omit --out.")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
