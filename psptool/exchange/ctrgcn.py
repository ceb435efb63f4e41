"""CTR-GCN's npz: train and test clips of NTU as float32 (N, 300, 150), labels one-hot, names in a text beside it.

A row of 150 is 2 persons x 25 joints x xyz. Their feeder counts the frames that are not all zero and takes as many
from the beginning, so frames in which nobody is seen cannot stand in the file; their own preparation leaves them out
too, and puts the origin at the second joint of the first person's first frame.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from psptool.errors import PspError
from psptool.exchange.contents import Contents, check_floats, stem
from psptool.exchange.mapped import map_npz
from psptool.exchange.positions import Coordinates, positions, seen
from psptool.replacing import replacing
from psptool.store.reading import Store

FRAMES, PERSONS, JOINTS = 300, 2, 25
_WIDTH = PERSONS * JOINTS * 3


def names_beside(path: Path) -> Path:
    """Where the clip names of the npz at ``path`` stand: a line a clip, its part, a tab and its name, by row."""
    return path.with_name(f"{path.stem}.names.txt")


def write_ctrgcn(
    store: Store, parts: Mapping[str, Sequence[str]], coordinates: Coordinates, path: Path
) -> None:
    """Write the clips of each part (``train``, ``test``, …) in the order given.

    Raises:
        PspError: A file cannot be written, or a clip cannot stand in it.
    """
    names = "".join(f"{part}\t{name}\n" for part, clips in parts.items() for name in clips)
    one_hot = np.eye(len(store.manifest.class_names), dtype=np.float32)
    with replacing([path, names_beside(path)]) as (partial, text):
        text.write_text(names, encoding="utf-8")
        with zipfile.ZipFile(partial, "w") as archive:
            for part, clips in parts.items():
                rows = (_row(store, name, coordinates) for name in clips)
                _member(archive, f"x_{part}", (len(clips), FRAMES, _WIDTH), rows)
                labels = (one_hot[store.key(store.index(name)).label] for name in clips)
                _member(archive, f"y_{part}", (len(clips), len(one_hot)), labels)


def _row(store: Store, name: str, coordinates: Coordinates) -> NDArray[np.float32]:
    xyz = positions(store.clip(name), coordinates)[:PERSONS]
    xyz = xyz[:, seen(xyz).any(axis=0)][:, :FRAMES]
    row = np.zeros((FRAMES, PERSONS, JOINTS, 3), np.float32)
    row[: xyz.shape[1], : len(xyz)] = xyz.transpose(1, 0, 2, 3)
    return row


def _member(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], rows: Iterable[NDArray[np.float32]]
) -> None:
    """One array of the archive, row by row; with a fixed time, so that the same clips give the same bytes."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        for row in rows:
            file.write(row.astype("<f4", copy=False).tobytes())


def read_ctrgcn(path: Path) -> Contents:
    """What such a file and the names beside it hold.

    Raises:
        PspError: They cannot be read, or do not fit each other or the format.
    """
    arrays = map_npz(path)
    parts = [name[2:] for name in arrays if name.startswith("x_")]
    if not parts:
        raise PspError(f"{path}: arrays", ", ".join(arrays) or "none", "x_train, y_train, x_test and y_test")
    names = _read_names(path)
    places: list[tuple[NDArray[Any], int]] = []
    labels: list[int] = []
    for part in parts:
        x, own = _checked(path, part, arrays, len(names.get(part, ())))
        places += [(x, row) for row in range(len(x))]
        labels += own
    return Contents(
        path,
        "ctrgcn",
        tuple(name for part in parts for name in names.get(part, ())),
        tuple(labels),
        JOINTS,
        lambda place: _clip(*places[place]),
        arrays[f"x_{parts[0]}"].dtype,
        {part: frozenset(names.get(part, ())) for part in parts},
        (("train", "test"),) if {"train", "test"} <= set(parts) else (),
    )


def _checked(
    path: Path, part: str, arrays: Mapping[str, NDArray[Any]], named: int
) -> tuple[NDArray[Any], list[int]]:
    """The positions and labels of one part."""
    x, y = arrays[f"x_{part}"], arrays.get(f"y_{part}", np.empty(()))
    where = f"{path}: x_{part}"
    if x.ndim != 3 or x.shape[2] != _WIDTH:
        raise PspError(where, f"shape {x.shape}", f"(N, {FRAMES}, {_WIDTH}): 2 persons of 25 joints")
    check_floats(where, x.dtype)
    if named != len(x):
        raise PspError(
            f"{names_beside(path)}: names of part {part}",
            str(named),
            f"{len(x)}, one for each row of x_{part}",
            "The format has no names: write a line a clip, 'PART<tab>NAME', in the order of the rows.",
        )
    if y.ndim != 2 or len(y) != len(x) or not ((y != 0).sum(axis=1) == 1).all():
        raise PspError(
            f"{path}: y_{part}", f"shape {y.shape}", f"({len(x)}, classes), a single one in each row"
        )
    return x, np.argmax(y != 0, axis=1).tolist()


def _clip(x: NDArray[Any], row: int) -> NDArray[Any]:
    """The positions of a row (M, T, V, 3) without its padding."""
    xyz: NDArray[Any] = x[row].reshape(-1, PERSONS, JOINTS, 3).transpose(1, 0, 2, 3)
    filled = np.flatnonzero(seen(xyz).any(axis=0))
    return xyz[:, : filled[-1] + 1] if filled.size else xyz


def _read_names(path: Path) -> dict[str, tuple[str, ...]]:
    beside = names_beside(path)
    try:
        lines = beside.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PspError(
            f"{beside}: cannot be read ({getattr(error, 'strerror', None) or error})",
            expected="the names of the npz's clips, which has none itself",
            way_out="Write a line a clip, 'PART<tab>NAME' with PART train or test, in the order of the rows.",
        ) from error
    names: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        part, tab, name = line.partition("\t")
        if not tab or not name:
            raise PspError(f"{beside}: line {number}", repr(line[:60]), "PART<tab>NAME")
        names.setdefault(part, []).append(stem(name))
    return {part: tuple(found) for part, found in names.items()}
