"""A run's folder: one place for the names of its files, and how each is written.

``config.json`` is written before the first step, ``log.jsonl`` grows while training, and weights appear whole or
not at all. A folder without ``last.safetensors`` is a training that did not reach its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from psptool.errors import PspError
from psptool.replacing import write_whole
from psptool.schemas.run import RunConfig


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

    @classmethod
    def create(cls, config: RunConfig, out: Path | None = None, runs: Path = Path("runs")) -> RunFolder:
        """Make a new folder and write its configuration.

        Args:
            config: The run's.
            out: The folder; by default ``<split>-<method>-<preset>`` in ``runs``, with ``-2``, ``-3``, … appended
                where that exists.
            runs: Where runs lie.

        Raises:
            PspError: ``out`` exists and is not empty, or the folder cannot be made.
        """
        path = out or runs
        try:
            if out is None:
                runs.mkdir(parents=True, exist_ok=True)
                path = _new_folder(runs, config)
            else:
                out.mkdir(parents=True, exist_ok=True)
                if any(out.iterdir()):
                    raise PspError(
                        f"{out}: the folder is not empty",
                        way_out="Name a new folder with --out, or leave --out away.",
                    )
        except OSError as error:
            raise PspError(
                f"{path}: the run's folder cannot be made ({error.strerror or error})",
                way_out="Name a place that can be written with --out.",
            ) from error
        folder = cls(path)
        config.save(folder.config)
        return folder

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

    def save_weights(self, which: str, tensors: Mapping[str, Tensor]) -> None:
        """Write weights whole or not at all.

        Raises:
            PspError: They cannot be written.
        """
        from safetensors.torch import save

        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(self.weights(which), save(ready))


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
