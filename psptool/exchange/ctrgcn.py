"""CTR-GCN's npz file: training and test clips of NTU as float32 (N, 300, 150), one-hot labels, and clip names in a text
file in the same folder (`ctrgcn_names`).

The 150 values of a frame are 2 persons x 25 joints x xyz. CTR-GCN's feeder counts the frames that are not all zero and
uses that many frames from the start, so the file cannot contain frames without persons. CTR-GCN's preparation removes
them too, and puts the origin at the second joint of the first person in the first frame.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from psptool.common.atomic_write import replacing
from psptool.common.errors import PspError, RawFormatError
from psptool.data.store.reading import Store, StoredClip
from psptool.exchange.contents import Contents, check_floats, leave_out, plain_name
from psptool.exchange.ctrgcn_names import Labels, names_beside, read_names
from psptool.exchange.mapped import map_npz
from psptool.exchange.positions import Coordinates, positions, seen
from psptool.schemas.report import LeftOut
from psptool.skeletons.topology import Topology

FRAMES, PERSONS, JOINTS = 300, 2, 25
_WIDTH = PERSONS * JOINTS * 3


def write_ctrgcn(
    store: Store, parts: Mapping[str, Sequence[str]], coordinates: Coordinates, path: Path
) -> None:
    """Write the clips of each part (``train``, ``test``, …) in the order given.

    Raises:
        PspError: A file cannot be written, or a clip cannot be represented in this format.
    """
    names = "".join(f"{part}\t{name}\n" for part, clips in parts.items() for name in clips)
    one_hot = np.eye(len(store.manifest.class_names), dtype=np.float32)
    with replacing([path, names_beside(path)]) as (partial, text):
        text.write_text(names, encoding="utf-8")
        with zipfile.ZipFile(partial, "w") as archive:
            for part, clips in parts.items():
                rows = (
                    _row(clip, coordinates, store.manifest.topology)
                    for clip in store.clips(map(store.index, clips))
                )
                _member(archive, f"x_{part}", (len(clips), FRAMES, _WIDTH), rows)
                labels = (one_hot[store.key(name).label] for name in clips)
                _member(archive, f"y_{part}", (len(clips), len(one_hot)), labels)


def _row(clip: StoredClip, coordinates: Coordinates, topology: Topology) -> NDArray[np.float32]:
    """One clip in the layout of the file: (M, T, V, 3) -> (FRAMES, PERSONS, JOINTS, 3), padded with zeros."""
    xyz = positions(clip, coordinates, topology)[:PERSONS]
    # The feeder takes an empty frame for padding, so frames without persons are removed.
    xyz = xyz[:, seen(xyz).any(axis=0)][:, :FRAMES]
    row = np.zeros((FRAMES, PERSONS, JOINTS, 3), np.float32)
    row[: xyz.shape[1], : len(xyz)] = xyz.transpose(1, 0, 2, 3)
    return row


def _member(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], rows: Iterable[NDArray[np.float32]]
) -> None:
    """Write one array of the archive row by row. A fixed timestamp makes the bytes depend on the clips only."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        for row in rows:
            file.write(row.astype("<f4", copy=False).tobytes())


def read_ctrgcn(path: Path) -> Contents:
    """Read a file and its clip names. Clips without exactly one label are excluded.

    Raises:
        PspError: A file cannot be read, does not have this format, or the names do not match the clips.
    """
    arrays = map_npz(path)
    parts = [name[2:] for name in arrays if name.startswith("x_")]
    if not parts:
        raise PspError(f"{path}: arrays", ", ".join(arrays) or "none", "x_train, y_train, x_test and y_test")
    labels = {part: _labels(path, part, arrays) for part in parts}
    names = read_names(path, labels)
    clips: list[tuple[str, int, NDArray[Any], int]] = []
    left_out: list[LeftOut] = []
    for part in parts:
        for row, (found, label) in enumerate(zip(names[part], labels[part], strict=True)):
            where = f"{path}: y_{part} row {row}"
            try:
                name = plain_name(f"{path}: name of x_{part} row {row}", found)
                if label is None:
                    raise RawFormatError("label", where, "no class or several classes", "a one-hot label")
                clips.append((name, label, arrays[f"x_{part}"], row))
            except RawFormatError as error:
                left_out.append(leave_out(path, found, error))
    return Contents(
        path,
        "ctrgcn",
        tuple(name for name, *_ in clips),
        tuple(label for _, label, *_ in clips),
        JOINTS,
        lambda place: _clip(*clips[place][2:]),
        arrays[f"x_{parts[0]}"].dtype,
        {part: frozenset(names[part]) for part in parts},
        (("train", "test"),) if {"train", "test"} <= set(parts) else (),
        tuple(left_out),
    )


def _labels(path: Path, part: str, arrays: Mapping[str, NDArray[Any]]) -> Labels:
    """The labels of the rows of one part; None for a row without exactly one label.

    Raises:
        PspError: The arrays of the part have the wrong shape or dtype.
    """
    x, y = arrays[f"x_{part}"], arrays.get(f"y_{part}", np.empty(()))
    where = f"{path}: x_{part}"
    if x.ndim != 3 or x.shape[2] != _WIDTH:
        raise PspError(where, f"shape {x.shape}", f"(N, {FRAMES}, {_WIDTH}): 2 persons of 25 joints")
    check_floats(where, x.dtype)
    if y.ndim != 2 or len(y) != len(x):
        raise PspError(f"{path}: y_{part}", f"shape {y.shape}", f"({len(x)}, classes), one-hot labels")
    marked = y != 0
    single = marked.sum(axis=1) == 1
    return [label if one else None for label, one in zip(marked.argmax(axis=1).tolist(), single, strict=True)]


def _clip(x: NDArray[Any], row: int) -> NDArray[Any]:
    """The positions of one clip, (M, T, V, 3), without padding."""
    # (FRAMES, 150) -> (FRAMES, M, V, 3) -> (M, FRAMES, V, 3)
    xyz: NDArray[Any] = x[row].reshape(-1, PERSONS, JOINTS, 3).transpose(1, 0, 2, 3)
    filled = np.flatnonzero(seen(xyz).any(axis=0))
    return xyz[:, : filled[-1] + 1] if filled.size else xyz
