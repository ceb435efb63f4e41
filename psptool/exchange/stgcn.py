"""ST-GCN's folder: for each part (``train``, ``val``) an array (N, 3, 300, V, 2) and a pickle of (names, labels).

Its own preparation writes camera coordinates, and zeros where a person or everybody is absent.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from psptool.errors import PspError
from psptool.exchange.contents import Contents, check_floats, plain_labels, stem
from psptool.exchange.mapped import map_npy
from psptool.exchange.positions import Coordinates, positions, seen
from psptool.exchange.unpickling import PickledArray, load_pickle
from psptool.replacing import replacing
from psptool.store.reading import Store

FRAMES, PERSONS = 300, 2
_DATA, _LABEL = "_data.npy", "_label.pkl"


def write_stgcn(
    store: Store, parts: Mapping[str, Sequence[str]], coordinates: Coordinates, folder: Path
) -> None:
    """Write the clips of each part in the order given.

    Raises:
        PspError: A file cannot be written, a clip cannot stand in it, or the folder has parts of another export.
    """
    odd = sorted(set(_parts(folder)) - set(parts))
    if odd:
        raise PspError(
            f"{folder}: has other parts already", ", ".join(odd), way_out="Name an empty folder with --out."
        )
    with replacing(files_of(folder, list(parts))) as partials:
        for clips, data, label in zip(parts.values(), partials[::2], partials[1::2], strict=True):
            joints = int(store.array("joint").shape[1])
            array = open_memmap(data, "w+", np.dtype("<f4"), (len(clips), 3, FRAMES, joints, PERSONS))
            for row, name in enumerate(clips):
                xyz = positions(store.clip(name), coordinates)[:PERSONS, :FRAMES]
                array[row, :, : xyz.shape[1], :, : len(xyz)] = xyz.transpose(3, 1, 2, 0)
            array.flush()
            labels = [store.key(store.index(name)).label for name in clips]
            label.write_bytes(pickle.dumps((list(clips), labels), 4))


def files_of(folder: Path, parts: Sequence[str]) -> list[Path]:
    """The files of each part, data and label by turns."""
    return [folder / f"{part}{ending}" for part in parts for ending in (_DATA, _LABEL)]


def read_stgcn(path: Path) -> Contents:
    """What such a folder holds; one of its arrays may be named for all of it.

    Raises:
        PspError: A file cannot be read, or does not fit the format.
    """
    folder = path if path.is_dir() else path.parent
    parts = _parts(folder)
    if not parts:
        raise PspError(f"{folder}: no ST-GCN data", expected=f"train{_DATA}, train{_LABEL} and so on")
    names: dict[str, list[str]] = {}
    labels: list[int] = []
    places: list[tuple[NDArray[Any], int]] = []
    for part in parts:
        array = _checked(folder / f"{part}{_DATA}")
        names[part], own = _names_and_labels(folder / f"{part}{_LABEL}", len(array))
        labels += own
        places += [(array, row) for row in range(len(array))]
    return Contents(
        path,
        "stgcn",
        tuple(name for part in parts for name in names[part]),
        tuple(labels),
        places[0][0].shape[3] if places else 0,
        lambda place: _clip(*places[place]),
        places[0][0].dtype if places else np.dtype("f4"),
        {part: frozenset(found) for part, found in names.items()},
        (("train", "val"),) if {"train", "val"} <= set(parts) else (),
    )


def _parts(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(_DATA) for path in folder.glob(f"*{_DATA}"))


def _checked(path: Path) -> NDArray[Any]:
    array = map_npy(path)
    if array.ndim != 5 or array.shape[1] != 3:
        raise PspError(str(path), f"shape {array.shape}", f"(N, 3, {FRAMES}, V, {PERSONS})")
    check_floats(str(path), array.dtype)
    return array


def _names_and_labels(path: Path, clips: int) -> tuple[list[str], list[int]]:
    found = load_pickle(path)
    if not isinstance(found, (list, tuple)) or len(found) != 2:
        raise PspError(str(path), type(found).__name__, "two lists: names and labels")
    names, labels = (item.values.tolist() if isinstance(item, PickledArray) else item for item in found)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise PspError(f"{path}: names", type(names).__name__, "a list of texts")
    if not isinstance(labels, (list, tuple)) or not len(names) == len(labels) == clips:
        raise PspError(str(path), f"{len(names)} names", f"a name and a label for each of {clips} clips")
    return [stem(name) for name in names], list(plain_labels(path, labels))


def _clip(array: NDArray[Any], row: int) -> NDArray[Any]:
    """The positions of a row (M, T, V, 3) without its padding."""
    xyz: NDArray[Any] = array[row].transpose(3, 1, 2, 0)
    filled = np.flatnonzero(seen(xyz).any(axis=0))
    return xyz[:, : filled[-1] + 1] if filled.size else xyz
