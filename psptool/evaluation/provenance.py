"""How a scored run came about, in the keys of ``scores.json`` that a table needs beside the accuracies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from psptool.common.errors import PspError
from psptool.schemas.base import flat
from psptool.schemas.recipes import resolve
from psptool.schemas.run import RunConfig
from psptool.schemas.scores import Part
from psptool.schemas.split import Split
from psptool.schemas.training import TrainingConfig
from psptool.training.runs.folder import RunFolder

_NAMED_ELSEWHERE = {"format_version", "method", "preset", "seed"}


def provenance(folder: RunFolder, config: RunConfig, split: Split, part: Part) -> dict[str, Any]:
    """Values of the keys of `Scores` that say how the run was made.

    Args:
        folder: The run's.
        config: What stands in it.
        split: The run's.
        part: Which clips are scored.
    """
    return {
        "protocol": split.protocol,
        "test_view": split.test_view,
        "validation_rule": split.validation_rule,
        "family": split.family,
        "ratio": split.ratio,
        "count": split.count,
        "labelled": len(split.labelled),
        "draw": split.seed,
        "split_digest": config.split_digest,
        "scored_digest": _digest(sorted(getattr(split, part))),
        "changes": changes(config.training),
        "recipe_digest": _digest(config.training.model_dump(mode="json", exclude={"seed"})),
        "seconds": _seconds(folder),
        "device": _each(record.device for record in config.contributing),
        "hardware": _each(record.hardware for record in config.contributing),
        "precision": config.precision,
        "commit": _each(record.commit for record in config.contributing),
    }


def changes(recipe: TrainingConfig) -> tuple[str, ...] | None:
    """Values that are not the preset's, as ``--set`` takes them; None where this version has no such preset."""
    try:
        preset = resolve(method=recipe.method, preset=recipe.preset)
    except PspError:
        return None
    usual = dict(flat(preset.model_dump(mode="json", exclude=_NAMED_ELSEWHERE)))
    own = dict(flat(recipe.model_dump(mode="json", exclude=_NAMED_ELSEWHERE)))
    return tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in own.items()
        if value != usual[key]
    )


def _each(values: Iterable[str | None]) -> str | None:
    """Each value once, where a run was resumed with another; None where one is not known."""
    found = list(dict.fromkeys(values))
    return None if None in found else "; ".join(value for value in found if value is not None)


def _digest(value: object) -> str:
    """SHA-256 in hexadecimal of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _seconds(folder: RunFolder) -> float | None:
    """What the log's last entry says; None where there is no log."""
    try:
        entries = folder.read_log()
    except PspError:
        return None
    return float(entries[-1]["seconds"]) if entries and "seconds" in entries[-1] else None
