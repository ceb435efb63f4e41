"""The descriptions of datasets and skeletons: those in the package, read when used, and those in YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import psptool.data.skeletons
from psptool.common.errors import PspError, suggest
from psptool.data.skeletons import keys as _keys
from psptool.schemas.description import ClipNames, DatasetDescription
from psptool.schemas.problems import Problem, Problems, error_of, problems_of
from psptool.schemas.skeleton import SkeletonDescription

SUFFIXES = (".yaml", ".yml")
Loaded = TypeVar("Loaded", bound=BaseModel)
Given = str | Path | DatasetDescription
"""A dataset: its name or that of a group, a YAML file, or the description itself."""
_FOLDER = Path(psptool.data.skeletons.__file__).parent
_FORMER_NAMES = {"ucla20": "kinect20"}
"""Names of skeletons in files of earlier versions."""


@cache
def dataset_names() -> tuple[str, ...]:
    """Names of the built-in datasets, ascending."""
    return _stems("datasets")


@cache
def skeleton_names() -> tuple[str, ...]:
    """Names of the built-in skeletons, ascending."""
    return _stems("skeletons")


@cache
def builtin_dataset(name: str) -> DatasetDescription:
    """The built-in dataset ``name``, which must exist."""
    from psptool.schemas.plain_yaml import read_packaged  # most commands read no YAML

    path = _FOLDER / "datasets" / f"{name}.yaml"
    return _validated(path, read_packaged(path), DatasetDescription)


@cache
def builtin_skeleton(name: str) -> SkeletonDescription:
    """The built-in skeleton ``name``, which must exist."""
    from psptool.schemas.plain_yaml import read_packaged

    path = _FOLDER / "skeletons" / f"{name}.yaml"
    return _validated(path, read_packaged(path), SkeletonDescription)


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


def find_skeleton(name: str) -> SkeletonDescription:
    """The built-in skeleton ``name``, also by a name of earlier versions.

    Raises:
        Problems: There is none.
    """
    name = _FORMER_NAMES.get(name, name)
    if name not in skeleton_names():
        known = skeleton_names()
        fix = suggest(name, known) or "psptool describe lists them."
        raise Problems([Problem("", repr(name), f"a skeleton, or one of {', '.join(known)}", fix)])
    return builtin_skeleton(name)


def current_skeleton_name(name: str) -> str:
    """The name that a skeleton has now, for one in a file of an earlier version."""
    return _FORMER_NAMES.get(name, name)


def load_description(path: Path) -> DatasetDescription:
    """The description of a dataset in a YAML file.

    Raises:
        PspError: The file cannot be read, or has mistakes; all of them are listed.
    """
    from psptool.schemas.plain_yaml import read_yaml

    values = read_yaml(path)
    if isinstance(clips := values.get("clips"), dict) and isinstance(table := clips.get("table"), str):
        values = {**values, "clips": {**clips, "table": str(path.parent / table)}}
    return _validated(path, values, DatasetDescription)


def load_skeleton(path: Path) -> SkeletonDescription:
    """The skeleton in a YAML file.

    Raises:
        PspError: As for `load_description`.
    """
    from psptool.schemas.plain_yaml import read_yaml

    return _validated(path, read_yaml(path), SkeletonDescription)


def _validated(path: Path, values: Mapping[str, Any], model: type[Loaded]) -> Loaded:
    try:
        return model.model_validate(dict(values), context={"folder": path.parent})
    except ValidationError as error:
        raise error_of(path, problems_of(error, _known_keys(model))) from error


def _known_keys(model: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    known = {"": tuple(model.model_fields)}
    if model is DatasetDescription:
        known["skeleton"] = tuple(SkeletonDescription.model_fields)
        known["clips"] = tuple(ClipNames.model_fields)
        known["clips.values"] = _keys.ClipKey._fields
    return known


def _stems(folder: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (_FOLDER / folder).glob("*.yaml")))
