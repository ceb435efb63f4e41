"""What another tool's file holds, whatever its format: clips with their names and labels, and who stands where.

Notation for array shapes: N clips, M persons, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.data.skeletons.datasets import DATASETS, Dataset
from psptool.formats.exchange.positions import Coordinates
from psptool.formats.exchange.unpickling import short_repr
from psptool.schemas.report import LeftOut


@dataclass(frozen=True)
class Contents:
    """The clips of a file, read one by one.

    Attributes:
        path: The file, or the folder of several.
        format: ``pyskl``, ``ctrgcn`` or ``stgcn``.
        names: Clip names in the file's order.
        labels: Labels from 0, in the same order.
        joints: V, of the clips that have the dataset's number of joints where there are any; 0 without clips.
        read: The positions of a clip by its place in that order, (M, T, V, 3), of any type of number.
        dtype: That type.
        lists: Clip names by the name of a list, such as ``xsub_train``.
        pairs: Names of two lists each: for training, and for test.
        left_out: Clips of the file that cannot be read, each with what is wrong with it.
        coordinates: What the positions are, where the file tells; None: as the format's tools expect.
        warnings: What a user should know of the file.
    """

    path: Path
    format: str
    names: tuple[str, ...]
    labels: tuple[int, ...]
    joints: int
    read: Callable[[int], NDArray[Any]]
    dtype: np.dtype[Any]
    lists: Mapping[str, frozenset[str]] = field(default_factory=dict)
    pairs: tuple[tuple[str, str], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    coordinates: Coordinates | None = None
    warnings: tuple[str, ...] = ()


def stem(name: str) -> str:
    """A clip's name, which some files write with the ending of the recording."""
    return name.removesuffix(".skeleton")


def plain_name(where: str, name: object) -> str:
    """A clip's name without the ending of its recording.

    Raises:
        RawFormatError: It is no text, or one that UTF-8 and so a dataset cannot hold.
    """
    if not isinstance(name, str) or not name or unicode_text(name) != name:
        raise RawFormatError("clip name", where, short_repr(name), "a text")
    return stem(name)


def unicode_text(text: str) -> str:
    """``text`` with what a pickle can hold and UTF-8 cannot (lone surrogates) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def plain_label(where: str, label: object) -> int:
    """A label as a number of Python.

    Raises:
        RawFormatError: It is no integer.
    """
    if type(label) is not int:
        raise RawFormatError("label", where, short_repr(label), "an integer from 0")
    return label


def check_floats(where: str, dtype: np.dtype[Any]) -> None:
    """Raise where positions are no floats.

    Raises:
        RawFormatError: They are of another type.
    """
    if dtype.kind != "f":
        raise RawFormatError("positions", where, f"type {dtype}", "float16, float32 or float64")


def leave_out(path: Path, name: str, error: RawFormatError) -> LeftOut:
    """The report's entry of a clip that cannot be read."""
    detail = unicode_text(str(error))
    return LeftOut(name=unicode_text(name), source=str(path), reason=error.reason, detail=detail)


def dataset_named(names: Iterable[str]) -> Dataset | None:
    """The dataset that most of the names are of; of several, the one with the fewest classes that has them all.

    Returns:
        None where no name is of any.
    """
    names = list(names)
    keys = {one.name: [key for name in names if (key := one.parse(name))] for one in DATASETS.values()}
    most = max(map(len, keys.values()))
    if not most:
        return None
    fitting = [
        one
        for one in DATASETS.values()
        if len(keys[one.name]) == most and all(key.label < len(one.class_names) for key in keys[one.name])
    ]
    return min(fitting, key=lambda one: len(one.class_names))
