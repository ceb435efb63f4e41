"""The content of another tool's file, independent of its format: clips with names and labels, and lists of clips.

Array shapes: N clips, M persons, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.exchange.positions import Coordinates
from psptool.formats.readers.unpickling import short_repr
from psptool.schemas import builtin
from psptool.schemas.description import DatasetDescription
from psptool.schemas.report import LeftOut


@dataclass(frozen=True)
class Contents:
    """The content of a file. Positions are read one clip at a time.

    Attributes:
        path: The file, or the folder of several files.
        format: ``pyskl``, ``ctrgcn`` or ``stgcn``.
        names: Clip names in the order of the file.
        labels: 0-based labels in the same order.
        joints: V: the dataset's number of joints if any clip has it, otherwise that of most clips; 0 without clips.
        read: Function from the index of a clip to its positions (M, T, V, 3), with dtype `dtype`.
        dtype: Dtype of the positions.
        lists: Clip names by list name, such as ``xsub_train``.
        pairs: Pairs of list names: (training, test).
        left_out: Clips that cannot be read, with the reasons.
        coordinates: The coordinate system if the file determines it; None for the format's usual one.
        warnings: Warnings about the file for the user.
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
    """A clip's name without ``.skeleton``, which some files append."""
    return name.removesuffix(".skeleton")


def plain_name(where: str, name: object) -> str:
    """A valid clip name without ``.skeleton``.

    Raises:
        RawFormatError: ``name`` is not a string, is empty, or cannot be encoded as UTF-8.
    """
    if not isinstance(name, str) or not name or unicode_text(name) != name:
        raise RawFormatError("clip name", where, short_repr(name), "a string")
    return stem(name)


def unicode_text(text: str) -> str:
    """``text`` with lone surrogates, which a pickle may contain but UTF-8 cannot encode, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def plain_label(where: str, label: object) -> int:
    """A label as a Python integer.

    Raises:
        RawFormatError: ``label`` is not an integer.
    """
    if type(label) is not int:
        raise RawFormatError("label", where, short_repr(label), "a 0-based integer")
    return label


def check_floats(where: str, dtype: np.dtype[Any]) -> None:
    """Check that positions are floating-point numbers.

    Raises:
        RawFormatError: ``dtype`` is not a floating-point type.
    """
    if dtype.kind != "f":
        raise RawFormatError("positions", where, f"dtype {dtype}", "float16, float32 or float64")


def leave_out(path: Path, name: str, error: RawFormatError) -> LeftOut:
    """The report's entry for a clip that cannot be read."""
    detail = unicode_text(str(error))
    return LeftOut(name=unicode_text(name), source=str(path), reason=error.reason, detail=detail)


def dataset_named(names: Iterable[str]) -> DatasetDescription | None:
    """The dataset of most of the names. Of several, the one with the fewest classes that covers all labels.

    Returns:
        The dataset; None if no name belongs to a known dataset.
    """
    names, datasets = list(names), builtin.builtin_datasets()
    keys = {one.name: [key for name in names if (key := one.parse(name))] for one in datasets}
    most = max(map(len, keys.values()))
    if not most:
        return None
    fitting = [
        one
        for one in datasets
        if len(keys[one.name]) == most and all(key.label < len(one.class_names) for key in keys[one.name])
    ]
    return min(fitting, key=lambda one: len(one.class_names))
