"""A run's folder: one place for the names of its files, and how each is written.

``config.json`` is written before the first step, ``log.jsonl`` grows while training, and weights appear whole or
not at all. A folder without ``last.safetensors`` is a training that did not reach its end; where it also has a
``resume.pt``, it can go on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from psptool.common.atomic_write import is_partial, lock, write_whole
from psptool.common.errors import PspError, suggest
from psptool.common.paths import MAX_JSON, read_text
from psptool.schemas.run import RunConfig

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 2**53
NO_TERMS = ("step", "lr", "seconds", "validation")
"""What stands in an entry of the log beside the loss and its terms."""


@dataclass(frozen=True)
class RunFolder:
    """Paths in one run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """What was trained, on what, with which recipe."""
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        """One JSON object a line: step, loss and its terms, learning rate, seconds, validation accuracy."""
        return self.path / "log.jsonl"

    def weights(self, which: str) -> Path:
        """The weights: ``last``, or ``best`` on the validation clips."""
        return self.path / f"{which}.safetensors"

    @property
    def resume(self) -> Path:
        """Where a stopped training goes on from; gone once the training is done."""
        return self.path / "resume.pt"

    @property
    def lock(self) -> Path:
        """Locked by the process that trains here; never replaced nor removed, so that all lock the same file."""
        return self.path / ".lock"

    @property
    def curves(self) -> Path:
        """The log as a picture, drawn at the end."""
        return self.path / "curves.png"

    @property
    def finished(self) -> bool:
        """Whether the training reached its end."""
        return self.weights("last").exists()

    def read_config(self) -> RunConfig:
        """What stands in `config`.

        Raises:
            PspError: There is no such folder, it is none of a run, or the file is damaged.
        """
        if not self.path.exists():
            names = [path.name for path in _entries(self.path.parent) if path.is_dir()]
            raise PspError(
                f"{self.path}: there is no such run",
                fix=suggest(self.path.name, names) or "Train one with psptool train, or check the path.",
            )
        if not self.config.exists():
            raise PspError(
                f"{self.path}: not a run's folder",
                "no config.json in it",
                "a folder that psptool train made",
                "Check the path.",
            )
        return RunConfig.load(self.config)

    @classmethod
    def create(
        cls, config: RunConfig, out: Path | None = None, runs: Path = Path("runs")
    ) -> tuple[RunFolder, IO[bytes]]:
        """Make a new folder, lock it as `hold` does, and write its configuration.

        Args:
            config: The run's.
            out: The folder; by default ``<split>-<method>-<preset>`` in ``runs``, with ``-2``, ``-3``, … appended
                where that exists.
            runs: Where runs lie.

        Returns:
            The folder, and the file whose closing releases the lock.

        Raises:
            PspError: ``out`` exists and is not empty, another process is training in it, or the folder cannot be made.
        """
        if out is not None:
            folder = cls(out)
            held = folder.claim()
            if folder.config.exists():
                held.close()
                raise _not_empty(out)
        else:
            with _named(runs):
                runs.mkdir(parents=True, exist_ok=True)
                folder = cls(_new_folder(runs, config))
            held = folder.hold()
        try:
            config.save(folder.config)
        except BaseException:
            held.close()
            raise
        return folder, held

    def claim(self) -> IO[bytes]:
        """Make the folder where it is absent, and lock it as `hold` does before anything else is written.

        Raises:
            PspError: The folder holds other files than a run's, cannot be made, or another process is training in it.
        """
        with _named(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            # The lock and a partial file are what a process leaves that was killed before it wrote the configuration.
            files = [path for path in self.path.iterdir() if path != self.lock and not is_partial(path)]
            if files and not self.config.exists():
                raise _not_empty(self.path)
        return self.hold()

    def restart(self, config: RunConfig) -> None:
        """Remove what a training left that stopped before its first checkpoint, and write the configuration anew.

        Raises:
            PspError: A file cannot be written.
        """
        self.weights("best").unlink(missing_ok=True)
        self.cut_log(0)
        config.save(self.config)

    def append_log(self, entry: Mapping[str, Any]) -> None:
        """Add one line to the log.

        Raises:
            PspError: The log cannot be written.
        """
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise PspError(f"{self.log}: cannot be written ({error.strerror or error})") from error

    def read_log(self) -> list[dict[str, Any]]:
        """The log's entries, up to the first line that is none: a stopped machine may have left a torn one.

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
            raise PspError(f"{self.log}: cannot be read ({error.strerror or error})") from error
        entries: list[dict[str, Any]] = []
        for line in lines:
            if (entry := _log_entry(line)) is None:
                break
            entries.append(entry)
        return entries, len(lines) - len(entries)

    def cut_log(self, step: int) -> None:
        """Drop what the log says of steps after ``step``: a training that goes on from there says it again.

        Raises:
            PspError: The log cannot be read or written.
        """
        kept = [json.dumps(entry) + "\n" for entry in self.read_log() if entry["step"] <= step]
        write_whole(self.log, "".join(kept))

    def save_resume(self, state: bytes) -> None:
        """Write ``resume.pt`` whole or not at all, and the log's lines up to it before.

        Raises:
            PspError: They cannot be written.
        """
        if self.log.exists():
            with self.log.open("rb") as file:
                os.fsync(file.fileno())
        write_whole(self.resume, state)

    def hold(self) -> IO[bytes]:
        """Keep other processes from training in this folder for as long as the file returned is open.

        Raises:
            PspError: Another process is training here, or the folder is gone or cannot be written.
        """
        with _named(self.path):
            held = self.lock.open("ab")
        if not lock(held):
            held.close()
            raise PspError(
                f"{self.path}: another psptool process is training in this folder",
                fix="Wait for it to end, or train elsewhere with --resume off.",
            )
        return held

    def wait(self) -> None:
        """Wait until no other process trains in this folder."""
        # Opened for reading, which makes no file in a folder that is not a run's.
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
        """Write weights whole or not at all.

        Raises:
            PspError: They cannot be written.
        """
        from safetensors.torch import save

        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(self.weights(which), save(ready))


def _log_entry(line: str) -> dict[str, Any] | None:
    """The entry in a line of a log; None if it is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        return None
    # Larger integers are not the log's, and no float can hold some of them.
    plain = all(
        key.isprintable() and (type(value) is float or (type(value) is int and abs(value) < _LARGEST))
        for key, value in entry.items()
    )
    return entry if plain else None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn an error of the system into one that names the folder to be made."""
    try:
        yield
    except OSError as error:
        raise PspError(
            f"{path}: the run's folder cannot be made ({error.strerror or error})",
            fix="Name a place that can be written with --out.",
        ) from error


def _not_empty(path: Path) -> PspError:
    return PspError(
        f"{path}: the folder is not empty", fix="Name a new folder with --out, or leave --out away."
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _new_folder(runs: Path, config: RunConfig) -> Path:
    """Make the first of ``<split>-<method>-<preset>``, ``…-2``, ``…-3`` that does not exist.

    Making it is the test: of two trainings that start at once, one gets the name.
    """
    stem = f"{config.split_name}-{config.training.method}-{config.training.preset}"
    for number in count(1):
        path = runs / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("count never ends")
