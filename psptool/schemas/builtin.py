"""The descriptions of datasets: those in the package, read when used, and those in YAML files."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path

from psptool.common.errors import PspError, suggest
from psptool.schemas.base import binary_kind
from psptool.schemas.builtin_skeletons import FOLDER, names_in, validated
from psptool.schemas.clip_names import ClipNames
from psptool.schemas.description import DatasetDescription
from psptool.schemas.skeleton import SkeletonDescription
from psptool.skeletons import keys as _keys

SUFFIXES = (".yaml", ".yml")
Given = str | Path | DatasetDescription
"""A dataset: its name or that of a group, a YAML file, or the description itself."""
_KEYS = {
    "": tuple(DatasetDescription.model_fields),
    "skeleton": tuple(SkeletonDescription.model_fields),
    "clips": tuple(ClipNames.model_fields),
    "clips.values": _keys.ClipKey._fields,
}


@cache
def dataset_names() -> tuple[str, ...]:
    """Names of the built-in datasets, ascending."""
    return names_in("datasets")


@cache
def builtin_dataset(name: str) -> DatasetDescription:
    """The built-in dataset ``name``, which must exist."""
    from psptool.schemas.plain_yaml import read_packaged  # most commands read no YAML

    path = FOLDER / "datasets" / f"{name}.yaml"
    return validated(path, read_packaged(path), DatasetDescription, _KEYS)


def builtin_datasets() -> tuple[DatasetDescription, ...]:
    """All built-in datasets."""
    return tuple(map(builtin_dataset, dataset_names()))


def datasets_named(name: str) -> tuple[DatasetDescription, ...]:
    """The built-in dataset ``name``, or the datasets of the group ``name``; fewest classes first.

    Raises:
        PspError: There is none.
    """
    if name in dataset_names():
        return (builtin_dataset(name),)
    found = [one for one in builtin_datasets() if one.group == name]
    if found:
        return tuple(sorted(found, key=lambda one: len(one.class_names)))
    known = choices()
    raise PspError(
        "dataset",
        repr(name),
        f"one of {', '.join(known)}, or a YAML file with the description of a dataset",
        suggest(name, known) or "psptool describe lists the built-in datasets.",
    )


def find_datasets(given: Given) -> tuple[DatasetDescription, ...]:
    """The dataset in a YAML file, or as `datasets_named`; a description itself.

    Raises:
        PspError: There is no such dataset, or the file has mistakes.
    """
    if isinstance(given, DatasetDescription):
        return (given,)
    path = Path(given)
    if path.suffix.lower() in SUFFIXES or (
        path.exists() and not path.is_dir() and str(given) not in choices()
    ):
        return (load_description(path),)
    return datasets_named(str(given))


def choices() -> tuple[str, ...]:
    """What can be prepared without a YAML file: groups, and datasets."""
    groups = {one.group for one in builtin_datasets() if one.group}
    return (*sorted(groups), *dataset_names())


def load_description(path: Path) -> DatasetDescription:
    """The description of a dataset in a YAML file.

    Raises:
        PspError: The file cannot be read, or has mistakes; all of them are listed.
    """
    from psptool.schemas.plain_yaml import read_yaml

    if found := binary_kind(path):
        raise PspError(
            f"{path}: not a description of a dataset",
            found,
            "a YAML file, or a built-in dataset",
            f"Split a prepared dataset with psptool split --ratio 0.05 --data {shlex.quote(str(path))}",
        )
    values = read_yaml(path)
    if isinstance(clips := values.get("clips"), dict) and isinstance(table := clips.get("table"), str):
        values = {**values, "clips": {**clips, "table": str(path.parent / table)}}
    return validated(path, values, DatasetDescription, _KEYS)
