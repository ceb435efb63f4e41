"""The descriptions of skeletons: those in the package, read when used, and the check of those in files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import psptool.skeletons
from psptool.common.errors import suggest
from psptool.schemas.problems import Problem, Problems, error_of, problems_of
from psptool.schemas.skeleton import SkeletonDescription

Loaded = TypeVar("Loaded", bound=BaseModel)
FOLDER = Path(psptool.skeletons.__file__).parent
"""The YAML files in the package, in the folders ``skeletons`` and ``datasets``."""
_FORMER_NAMES = {"ucla20": "kinect20"}
"""Names of skeletons in files of earlier versions."""
_KEYS = {"": tuple(SkeletonDescription.model_fields)}


@cache
def skeleton_names() -> tuple[str, ...]:
    """Names of the built-in skeletons, ascending."""
    return names_in("skeletons")


@cache
def builtin_skeleton(name: str) -> SkeletonDescription:
    """The built-in skeleton ``name``, which must exist."""
    from psptool.schemas.plain_yaml import read_packaged

    path = FOLDER / "skeletons" / f"{name}.yaml"
    return validated(path, read_packaged(path), SkeletonDescription, _KEYS)


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


def validated(
    path: Path, values: Mapping[str, Any], model: type[Loaded], known: Mapping[str, tuple[str, ...]]
) -> Loaded:
    """The description ``values``, read from ``path``.

    Args:
        path: The YAML file.
        values: Its content.
        model: `SkeletonDescription` or `DatasetDescription`.
        known: Keys by the key that they are below, for suggestions.

    Raises:
        PspError: There are mistakes; all of them are listed.
    """
    try:
        return model.model_validate(dict(values), context={"folder": path.parent})
    except ValidationError as error:
        raise error_of(path, problems_of(error, dict(known))) from error


def names_in(folder: str) -> tuple[str, ...]:
    """Names of the descriptions in a folder of `FOLDER`, ascending."""
    return tuple(sorted(path.stem for path in (FOLDER / folder).glob("*.yaml")))
