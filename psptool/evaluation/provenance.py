"""Provenance of an evaluated run: the keys of ``scores.json`` besides the accuracies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from psptool.common.errors import PspError
from psptool.data.splits.protocols import leave_one_out_of
from psptool.schemas.base import flat
from psptool.schemas.description import DatasetDescription
from psptool.schemas.recipes import resolve
from psptool.schemas.run import RunConfig
from psptool.schemas.scores import Part
from psptool.schemas.split import Split
from psptool.schemas.training import TrainingConfig
from psptool.training.runs.folder import RunFolder

_NOT_CHANGES = {"format_version", "method", "preset", "seed"}


def provenance(
    folder: RunFolder, config: RunConfig, dataset: DatasetDescription, split: Split, part: Part
) -> dict[str, Any]:
    """Keys and values of `Scores` on split, training configuration, device and version.

    Args:
        folder: Folder of the run.
        config: Configuration of the run.
        dataset: The dataset.
        split: Split of the run.
        part: The evaluated clips.
    """
    training = _with_preset_pool_batch(config.training, split)
    return {
        **split_provenance(dataset, split, part),
        "changes": changes(training),
        "recipe_digest": _digest(training.model_dump(mode="json", exclude={"seed"})),
        "seconds": _seconds(folder),
        "device": _distinct(record.device for record in config.contributing),
        "hardware": _distinct(record.hardware for record in config.contributing),
        "precision": config.precision,
        "commit": _distinct(record.commit for record in config.contributing),
    }


def split_provenance(dataset: DatasetDescription, split: Split, part: Part) -> dict[str, Any]:
    """Keys and values of `Scores` on the split and its clips in ``part``."""
    return {
        "protocol": split.protocol,
        "leave_one_out": leave_one_out_of(dataset, split.protocol),
        "test_view": split.test_view,
        "validation_rule": split.validation_rule,
        "family": split.family,
        "ratio": split.ratio,
        "count": split.count,
        "labelled": len(split.labelled),
        "draw": split.seed,
        "split_digest": split.digest,
        "scored_digest": _digest(sorted(getattr(split, part))),
    }


def changes(recipe: TrainingConfig) -> tuple[str, ...] | None:
    """Settings that differ from the preset, in the form of ``--set``; None if this version does not have the preset."""
    preset = _preset(recipe)
    if preset is None:
        return None
    defaults = dict(flat(preset.model_dump(mode="json", exclude=_NOT_CHANGES)))
    own = dict(flat(recipe.model_dump(mode="json", exclude=_NOT_CHANGES)))
    return tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in own.items()
        if value != defaults[key]
    )


def _preset(recipe: TrainingConfig) -> TrainingConfig | None:
    """The preset of a configuration, with its method; None if this version does not have the preset."""
    try:
        return resolve(method=recipe.method, preset=recipe.preset)
    except PspError:
        return None


def _with_preset_pool_batch(recipe: TrainingConfig, split: Split) -> TrainingConfig:
    """The configuration with the preset's ``optim.pool_batch`` if training reduced it to the size of the pool.

    Otherwise, the folds of a small dataset would have different configurations in a table.
    """
    pool, preset = len(split.pool(recipe.loss.contrast_labelled)), _preset(recipe)
    if preset is None or not recipe.optim.pool_batch == pool < preset.optim.pool_batch:
        return recipe
    optim = recipe.optim.model_copy(update={"pool_batch": preset.optim.pool_batch})
    return recipe.model_copy(update={"optim": optim})


def _distinct(values: Iterable[str | None]) -> str | None:
    """The distinct values, joined by ``;`` (a resumed run may have several); None if a value is unknown."""
    found = list(dict.fromkeys(values))
    return None if None in found else "; ".join(value for value in found if value is not None)


def _digest(value: object) -> str:
    """SHA-256 of a value's JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _seconds(folder: RunFolder) -> float | None:
    """Training time in seconds from the last entry of the log; None without a log."""
    try:
        entries = folder.read_log()
    except PspError:
        return None
    return float(entries[-1]["seconds"]) if entries and "seconds" in entries[-1] else None
