"""The presets, and the training configuration made from a preset, a YAML file and ``key=value`` changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from psptool.common.errors import PspError, suggest
from psptool.schemas.base import describe, flat
from psptool.schemas.plain_yaml import NOT_PLAIN, load_yaml, read_yaml, yaml_problem
from psptool.schemas.training import Method, OldPreset, Preset, TrainingConfig

_BEST: Mapping[str, Any] = {
    "precision": "auto",
    "model": {
        "channels": (16, 32, 64),
        "qk_channels": (4, 8, 16),
        "strides": (2, 2, 1),
        "heads": 2,
        "separate_input_projection": True,
        "input_projection": "whole_body",
        "pose_width": 128,
    },
    "sampling": {"frames": 32, "draw": "crop"},
    "streams": {"motion": "drawn", "origin": "frame"},
    "augment": {
        "yaw": 90.0,
        "pitch_roll": 25.0,
        "shear": 0.2,
        "scale": 0.2,
        "jitter": 0.02,
        "mask_joints": 0.1,
    },
    "loss": {"contrast_weight": 0.6, "temperature": 0.2, "label_smoothing": 0.1},
    "teacher": {"weight": 1.0, "balance": "labelled"},
    "optim": {
        "steps": 2000,
        "labelled_batch": 32,
        "pool_batch": 48,
        "schedule": "cosine",
        "kind": "adamw",
        "lr": 0.003,
        "weight_decay": 0.2,
    },
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"model": {"polymerize": "raw"}},
    "best": _BEST,
    # The learning rate keeps its product with the steps: with AdamW, it determines the total weight decay.
    "fast": {**_BEST, "optim": {**_BEST["optim"], "steps": 600, "lr": 0.01}},
    "demo": {
        **_BEST,
        "precision": "float32",  # so that accuracies differ little between machines
        "sampling": {"frames": 16, "draw": "crop"},
        # Synthetic recordings are noisy already, and their views differ less after alignment.
        "augment": {"yaw": 45.0, "pitch_roll": 15.0, "shear": 0.2, "scale": 0.2, "mask_joints": 0.1},
        "loss": {"contrast_weight": 0.2, "temperature": 0.2, "label_smoothing": 0.1},
        # Labels predicted before the network has learned the labelled clips are often wrong.
        "teacher": {"weight": 1.0, "momentum": 0.97, "start": 0.4, "ramp": 0.2},
        "optim": {**_BEST["optim"], "steps": 240, "labelled_batch": 16, "pool_batch": 32, "lr": 0.01},
    },
}
"""Differences of each preset from the schema's defaults.

- ``paper``: the original implementation.
- ``best``: highest accuracy with few labels; selected on cameras 1 and 2 of NW-UCLA, one for training, the other for
  validation.
- ``fast``: ``best`` with fewer steps, for two CPU cores.
- ``demo``: for ``psptool demo``; selected on synthetic recordings with seeds 10 to 12.
"""

DEFAULT_PRESET: Preset = "fast"
"""It does not depend on the machine, so that the same command gives the same result."""


def resolve(
    *,
    method: Method | None = None,
    preset: str | None = None,
    file: Path | None = None,
    changes: Sequence[str] = (),
    seed: int | None = None,
) -> TrainingConfig:
    """Make a configuration from preset, YAML file and ``key=value`` changes; later values override earlier ones.

    Args:
        method: Training method; overrides preset, file and changes.
        preset: A name in `PRESETS`; by default that of the file, or `DEFAULT_PRESET`.
        file: A YAML file with keys of `TrainingConfig`, a ``config.json`` of a run, or a run folder.
        changes: ``key=value`` texts; keys of groups are dotted (``optim.lr=0.005``), values are YAML.
        seed: Training seed; overrides preset, file and changes.

    Raises:
        PspError: A key does not exist (the nearest is suggested), a value is invalid, or the file cannot be read;
            all problems are listed.
    """
    values = read_recipe(file) if file is not None else {}
    _check_preset(file, values, preset)
    named = preset or str(values.get("preset", DEFAULT_PRESET))
    if named not in PRESETS and not (named in get_args(OldPreset) and _is_complete(values)):
        raise PspError(
            f"preset {named!r} does not exist",
            expected=f"one of {', '.join(PRESETS)}",
            fix=_REPLACED.get(named) or suggest(named, PRESETS),
        )
    merged: dict[str, Any] = {}
    _merge(merged, PRESETS.get(named, {}))
    in_file, in_changes = list(_unknown(values, TrainingConfig)), list[str]()
    if not in_file:
        _merge(merged, values)
    for change in changes:
        in_changes += _apply(merged, change)
    problems = [
        f"{where}: {'; '.join(some)}" for where, some in ((file, in_file), ("--set", in_changes)) if some
    ]
    if problems:
        raise PspError("; ".join(problems), fix="psptool config --table lists all keys.")
    merged["preset"] = named
    if method is not None:
        merged["method"] = method
    if seed is not None:
        merged["seed"] = seed
    try:
        return TrainingConfig.model_validate(merged)
    except ValidationError as error:
        raise PspError(
            f"training configuration: {describe(error)}", fix="Fix the values listed above."
        ) from error


def _apply(merged: dict[str, Any], change: str) -> list[str]:
    """Set one ``key=value`` in ``merged``. Returns the problems of the key."""
    key, equals, text = change.partition("=")
    if not equals:
        raise PspError(
            "--set: not a key=value", found=repr(change), fix="Write for example --set optim.lr=0.005."
        )
    nested: Any = _parse_value(key, text)
    for part in reversed(key.split(".")):
        nested = {part: nested}
    problems = list(_unknown(nested, TrainingConfig))
    if key == "preset":
        problems.append("the preset cannot be changed with --set: choose it with --preset")
    if not problems:
        _merge(merged, nested)
    return problems


def read_recipe(path: Path) -> dict[str, Any]:
    """The training configuration in a YAML file, a ``config.json`` of a run, or a run folder.

    Raises:
        PspError: As for `read_yaml`.
    """
    file = path / "config.json" if path.is_dir() else path
    values = read_yaml(file, "Check the path given to --config.")
    recipe = values.get("training")
    # Keys that only a run's configuration has.
    is_run = isinstance(recipe, dict) and {"split_digest", "content_fingerprint"} <= values.keys()
    return recipe if is_run and isinstance(recipe, dict) else values


def _check_preset(file: Path | None, values: Mapping[str, Any], preset: str | None) -> None:
    """Refuse ``--preset`` with a file that sets every value: the preset would have no effect."""
    there = values.get("preset")
    if preset and there not in (None, preset) and _is_complete(values):
        raise PspError(
            f"--preset {preset} has no effect: {file} sets every value",
            f"preset {there} there",
            fix="Leave out --preset, or change single values with --set.",
        )


def _is_complete(values: Mapping[str, Any]) -> bool:
    """Whether ``values`` has every key of `TrainingConfig`, as the ``config.json`` of a run has."""
    return {key for key, _ in flat(values)} >= set(all_keys(TrainingConfig))


def _parse_value(key: str, text: str) -> Any:
    try:
        return load_yaml(text)
    except NOT_PLAIN as error:
        raise PspError(
            f"--set {key:.60}: not a YAML value", found=f"{text!r:.60} ({yaml_problem(error)})"
        ) from error


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def _unknown(values: Mapping[str, Any], model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        known = model.model_fields.get(str(key))
        if known is None:
            name = f"{prefix}{key}"[:_LONGEST_KEY]
            near = suggest_key(name)
            yield f"no key {name}" + (f" ({near})" if near else "")
        elif isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel):
            if isinstance(value, Mapping):
                yield from _unknown(value, known.annotation, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key} is a group of keys, not a value"
        elif isinstance(value, Mapping):
            yield f"{prefix}{key} is a value, not a group of keys"


_LONGEST_KEY = 80
_REPLACED: Mapping[str, str] = {
    "small": "Use fast.",
    "lean": "Use fast, or best with --set teacher.weight=0 --set model.pose_width=0.",
    "paper-short": "Use paper with changes; method original in workflows/rq4.yaml is an example.",
}
"""What to use in place of a preset of earlier versions."""

SYNONYMS: Mapping[str, str] = {
    "batch_size": "optim.labelled_batch",
    "dim": "model.channels",
    "epochs": "optim.steps",
    "flip": "augment.mirror",
    "grad_clip": "optim.clip_norm",
    "hidden": "model.channels",
    "iterations": "optim.steps",
    "lambda": "loss.contrast_weight",
    "learning_rate": "optim.lr",
    "noise": "augment.jitter",
    "num_frames": "sampling.frames",
    "num_heads": "model.heads",
    "optimizer": "optim.kind",
    "rotation": "augment.yaw",
    "scheduler": "optim.schedule",
    "tau": "loss.temperature",
    "unlabelled_batch": "optim.pool_batch",
    "wd": "optim.weight_decay",
    "width": "model.channels",
}
"""Keys of `TrainingConfig` by the name that other code bases use."""


def suggest_key(key: str) -> str | None:
    """A sentence that suggests a key, by its last part, a synonym of it, or a similar spelling; None without one."""
    known = tuple(all_keys(TrainingConfig))
    last = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == last] or [
        SYNONYMS[name] for name in (last.lower(),) if name in SYNONYMS
    ]
    return f"Did you mean {' or '.join(same)}?" if same else suggest(key, known)


def all_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """All values in ``model`` with their dotted keys."""
    for key, known in model.model_fields.items():
        if isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel):
            yield from all_fields(known.annotation, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", known


def all_keys(model: type[BaseModel]) -> Iterator[str]:
    """The dotted keys of all values in ``model``."""
    return (key for key, _ in all_fields(model))
