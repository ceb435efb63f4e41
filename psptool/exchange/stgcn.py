"""ST-GCN's folder: for each part (``train``, ``val``) an array (N, 3, 300, V, 2) and a pickle of (names, labels).

ST-GCN's preparation writes camera coordinates, with zeros where persons are absent. 2s-AGCN and its successors name the
arrays ``train_data_joint.npy`` and so on. Their origin is the second joint of the first person, and clips are repeated
up to frame 300; the original number of frames is not stored.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from psptool.common.atomic_write import replacing
from psptool.common.errors import PspError, RawFormatError
from psptool.common.text import counted
from psptool.data.store.reading import Store
from psptool.exchange.contents import Contents, check_floats, leave_out, plain_label, plain_name, stem
from psptool.exchange.mapped import map_npy
from psptool.exchange.positions import Coordinates, positions, seen
from psptool.formats.readers.unpickling import PickledArray, load_pickle, short_repr
from psptool.schemas.report import LeftOut

FRAMES, PERSONS = 300, 2
_DATA, _LABEL = "_data.npy", "_label.pkl"
_AGCN_DATA = "_data_joint.npy"
_OTHER_STREAMS = ("_data_bone.npy", "_data_joint_motion.npy", "_data_bone_motion.npy")
"""Arrays of 2s-AGCN and its successors that do not contain joint positions."""


def write_stgcn(
    store: Store, parts: Mapping[str, Sequence[str]], coordinates: Coordinates, folder: Path
) -> None:
    """Write the clips of each part in the order given.

    Raises:
        PspError: A file cannot be written, a clip cannot be represented in this format, or the folder contains parts
            of another export.
    """
    agcn = (f"{part}{_AGCN_DATA}" for part in _parts(folder, _AGCN_DATA))
    odd = [*sorted(set(_parts(folder, _DATA)) - set(parts)), *agcn]
    if odd:
        raise PspError(
            f"--out {folder}: contains parts of another export",
            ", ".join(odd),
            fix="Use an empty folder with --out.",
        )
    with replacing(files_of(folder, list(parts))) as partials:
        for clips, data, label in zip(parts.values(), partials[::2], partials[1::2], strict=True):
            # Not memory-mapped: with a full disk, writing to a map ends the process.
            with data.open("wb") as file:
                shape = (3, FRAMES, int(store.array("joint").shape[1]), PERSONS)
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(clips), *shape)}
                npy.write_array_header_1_0(file, header)
                for clip in store.clips(map(store.index, clips)):
                    row = np.zeros(shape, "<f4")
                    xyz = positions(clip, coordinates, store.manifest.topology)[:PERSONS, :FRAMES]
                    row[:, : xyz.shape[1], :, : len(xyz)] = xyz.transpose(3, 1, 2, 0)  # (M, T, V, 3)
                    file.write(row.data)
            labels = [store.key(name).label for name in clips]
            label.write_bytes(pickle.dumps((list(clips), labels), 4))


def files_of(folder: Path, parts: Sequence[str]) -> list[Path]:
    """The files of all parts: data and labels of the first part, then of the next one."""
    return [folder / f"{part}{ending}" for part in parts for ending in (_DATA, _LABEL)]


def read_stgcn(path: Path) -> Contents:
    """Read a folder, given by its path or by one of its arrays. Clips with a malformed name or label are excluded.

    Raises:
        PspError: A file cannot be read, or does not have this format.
    """
    folder = path if path.is_dir() else path.parent
    ending = _ending(path, folder)
    parts = _parts(folder, ending)
    names: dict[str, frozenset[str]] = {}
    clips: list[tuple[str, int]] = []
    places: list[tuple[NDArray[Any], int]] = []
    left_out: list[LeftOut] = []
    for part in parts:
        array = _checked(folder / f"{part}{ending}")
        found, bad = _names_and_labels(folder / f"{part}{_LABEL}", len(array))
        clips += found.values()
        places += [(array, row) for row in found]
        left_out += bad
        names[part] = frozenset([*(name for name, _ in found.values()), *(clip.name for clip in bad)])
    agcn = ending == _AGCN_DATA
    return Contents(
        path,
        "stgcn",
        tuple(name for name, _ in clips),
        tuple(label for _, label in clips),
        places[0][0].shape[3] if places else 0,
        lambda place: _clip(*places[place]),
        places[0][0].dtype if places else np.dtype("f4"),
        names,
        (("train", "val"),) if {"train", "val"} <= set(parts) else (),
        tuple(left_out),
        "centred" if agcn else None,
        (f"{folder}: the arrays of 2s-AGCN repeat each clip up to frame {FRAMES}; the repetitions are kept",)
        if agcn
        else (),
    )


def _parts(folder: Path, ending: str) -> list[str]:
    return sorted(path.name.removesuffix(ending) for path in folder.glob(f"*{ending}"))


def _ending(path: Path, folder: Path) -> str:
    """The suffix of the folder's arrays: ST-GCN's or 2s-AGCN's.

    Raises:
        PspError: The folder has no such arrays, or has both kinds and ``path`` is the folder; or ``path`` is an array
            of bones or motion.
    """
    other = next((ending for ending in _OTHER_STREAMS if path.name.endswith(ending)), None)
    if other is not None:
        fix = f"Use the array whose name ends with {_AGCN_DATA}, or the folder."
        raise PspError(f"{path}: contains no joint positions", "bones or motion of 2s-AGCN", "joints", fix)
    named = [ending for ending in (_DATA, _AGCN_DATA) if path.name.endswith(ending)]
    found = named or [ending for ending in (_DATA, _AGCN_DATA) if _parts(folder, ending)]
    if not found:
        expected = f"train{_DATA} or train{_AGCN_DATA}, train{_LABEL}, and the same for val"
        raise PspError(f"{folder}: no ST-GCN data", expected=expected, fix="Check the path.")
    if len(found) > 1:
        raise PspError(
            f"{folder}: contains arrays of both ST-GCN and 2s-AGCN",
            f"*{_DATA} and *{_AGCN_DATA}",
            "one of them",
            "Use the path of one array instead of the folder.",
        )
    return found[0]


def _checked(path: Path) -> NDArray[Any]:
    array = map_npy(path)
    if array.ndim != 5 or array.shape[1] != 3:
        raise PspError(str(path), f"shape {array.shape}", f"(N, 3, {FRAMES}, V, {PERSONS})")
    check_floats(str(path), array.dtype)
    return array


def _names_and_labels(path: Path, clips: int) -> tuple[dict[int, tuple[str, int]], list[LeftOut]]:
    """Name and label by row, and the malformed rows.

    Raises:
        PspError: The file does not contain one name and one label for each row.
    """
    pair = load_pickle(path)
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise PspError(str(path), short_repr(pair), "two lists: names and labels")
    names, labels = (item.values.tolist() if isinstance(item, PickledArray) else item for item in pair)
    if not isinstance(names, (list, tuple)) or not isinstance(labels, (list, tuple)):
        raise PspError(
            str(path), f"{short_repr(names)} and {short_repr(labels)}", "two lists: names and labels"
        )
    if not len(names) == len(labels) == clips:
        raise PspError(
            str(path),
            f"{counted(len(names), 'name')} and {counted(len(labels), 'label')}",
            f"one name and one label for each of {counted(clips, 'clip')}",
        )
    found: dict[int, tuple[str, int]] = {}
    left_out: list[LeftOut] = []
    for row, (name, label) in enumerate(zip(names, labels, strict=True)):
        where = f"{path}: row {row}"
        try:
            found[row] = plain_name(where, name), plain_label(where, label)
        except RawFormatError as error:
            known = stem(name) if isinstance(name, str) and name else f"{path.name} row {row}"
            left_out.append(leave_out(path, known, error))
    return found, left_out


def _clip(array: NDArray[Any], row: int) -> NDArray[Any]:
    """The positions of one clip, (M, T, V, 3), without padding."""
    xyz: NDArray[Any] = array[row].transpose(3, 1, 2, 0)  # (3, FRAMES, V, M) -> (M, FRAMES, V, 3)
    filled = np.flatnonzero(seen(xyz).any(axis=0))
    return xyz[:, : filled[-1] + 1] if filled.size else xyz
