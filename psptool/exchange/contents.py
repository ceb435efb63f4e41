"""What another tool's file holds, whatever its format: clips with their names and labels, and who stands where.

Notation for array shapes: N clips, M persons, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psptool.errors import PspError
from psptool.exchange.unpickling import shown


@dataclass(frozen=True)
class Contents:
    """The clips of a file, read one by one.

    Attributes:
        path: The file, or the folder of several.
        format: ``pyskl``, ``ctrgcn`` or ``stgcn``.
        names: Clip names in the file's order.
        labels: Labels from 0, in the same order.
        joints: V.
        read: The positions of a clip by its place in that order, (M, T, V, 3), of any type of number.
        dtype: That type.
        lists: Clip names by the name of a list, such as ``xsub_train``.
        pairs: Names of two lists each: for training, and for test.
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


def stem(name: str) -> str:
    """A clip's name, which some files write with the ending of the recording."""
    return name.removesuffix(".skeleton")


def plain_labels(path: Path, labels: Any) -> tuple[int, ...]:
    """Labels as numbers of Python.

    Raises:
        PspError: One is no integer.
    """
    for label in labels:
        if type(label) is not int:
            raise PspError(f"{path}: labels", shown(label), "integers from 0")
    return tuple(labels)


def check_floats(where: str, dtype: np.dtype[Any]) -> None:
    """Raise where positions are no floats.

    Raises:
        PspError: They are of another type.
    """
    if dtype.kind != "f":
        raise PspError(f"{where}: positions", f"type {dtype}", "float16, float32 or float64")
