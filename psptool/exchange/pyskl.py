"""The pickle of PYSKL and MMAction2: named lists of clips, and each clip's positions as they are.

``{"split": {name: [frame_dir, …]}, "annotations": [{frame_dir, total_frames, label, keypoint (M, T, V, 3)}, …]}``.
Their loader takes the annotations whose frame_dir stands in the list it is told; PreNormalize3D then expects camera
coordinates with zeros where a person is absent.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psptool.errors import PspError
from psptool.exchange.contents import Contents, check_floats, plain_labels, stem
from psptool.exchange.positions import Coordinates, positions
from psptool.exchange.unpickling import PickledArray, load_pickle, shown
from psptool.replacing import replacing
from psptool.store.reading import Store

_PAIRED = (("_train", "_val"), ("_train", "_test"))

# Protocol 3 has no frames, and a value's pickle without head and stop can stand inside another one: so the
# file grows clip by clip, and memory does not.
_PROTOCOL = 3
_HEAD, _STOP = b"\x80\x03", pickle.STOP
_NEW_MODULE, _OLD_MODULE = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
_BATCH = 1000


def write_pyskl(
    store: Store, lists: Mapping[str, Sequence[str]], coordinates: Coordinates, path: Path
) -> None:
    """Write all clips of ``store`` and ``lists`` of their names.

    Raises:
        PspError: The file cannot be written, or a clip cannot stand in it.
    """
    with replacing([path]) as (partial,), partial.open("wb") as file:
        file.write(_HEAD + pickle.EMPTY_DICT + pickle.MARK)
        file.write(_value("split") + _value({name: list(clips) for name, clips in lists.items()}))
        file.write(_value("annotations") + pickle.EMPTY_LIST)
        for start in range(0, len(store), _BATCH):
            file.write(pickle.MARK)
            for index in range(start, min(start + _BATCH, len(store))):
                file.writelines(_annotation(store, index, coordinates))
            file.write(pickle.APPENDS)
        file.write(pickle.SETITEMS + _STOP)


def _annotation(store: Store, index: int, coordinates: Coordinates) -> Iterator[bytes]:
    clip = store.clip(index)
    keypoint = positions(clip, coordinates)
    yield pickle.EMPTY_DICT + pickle.MARK
    yield _value("frame_dir") + _value(clip.name)
    yield _value("total_frames") + _value(keypoint.shape[1])
    yield _value("label") + _value(clip.key.label)
    yield _value("keypoint") + _array(keypoint)
    yield pickle.SETITEMS


def _value(value: object) -> bytes:
    return pickle.dumps(value, _PROTOCOL)[len(_HEAD) : -len(_STOP)]


def _array(values: NDArray[np.float32]) -> bytes:
    """An array's pickle under the module's name that NumPy 1 and 2 both know."""
    found = _value(np.ascontiguousarray(values))
    return _OLD_MODULE + found[len(_NEW_MODULE) :] if found.startswith(_NEW_MODULE) else found


def read_pyskl(path: Path) -> Contents:
    """What such a file holds; a bare list of annotations is one without lists.

    Raises:
        PspError: It cannot be read, is refused, or is no such file.
    """
    data = load_pickle(path)
    annotations = data.get("annotations") if isinstance(data, dict) else data
    if not isinstance(annotations, list) or not annotations:
        raise PspError(f"{path}: annotations", f"{type(annotations).__name__}", "a list of clips")
    keypoints = [_keypoint(path, number, item) for number, item in enumerate(annotations)]
    lists = _lists(path, data.get("split", {}) if isinstance(data, dict) else {})
    pairs = tuple(
        (name, name.removesuffix(train) + test)
        for name in lists
        for train, test in _PAIRED
        if name.endswith(train) and name.removesuffix(train) + test in lists
    )
    return Contents(
        path,
        "pyskl",
        tuple(stem(item["frame_dir"]) for item in annotations),
        plain_labels(path, [item["label"] for item in annotations]),
        keypoints[0].shape[2],
        keypoints.__getitem__,
        keypoints[0].dtype,
        lists,
        pairs,
    )


def _keypoint(path: Path, number: int, item: Any) -> NDArray[Any]:
    where = f"{path}: annotation {number}"
    if not isinstance(item, dict) or not isinstance(item.get("frame_dir"), str) or "label" not in item:
        raise PspError(where, f"{type(item).__name__}", "a dict with frame_dir, label and keypoint")
    keypoint = item.get("keypoint")
    if not isinstance(keypoint, PickledArray) or keypoint.values.ndim != 4:
        raise PspError(f"{where}: keypoint", type(keypoint).__name__, "an array (M, T, V, 3)")
    shape = keypoint.values.shape
    if shape[3] == 2:
        raise PspError(
            f"{where}: keypoint", f"shape {shape}: joints in a picture", "positions in space (M, T, V, 3)"
        )
    if shape[3] != 3 or min(shape) < 1 or item.get("total_frames", shape[1]) != shape[1]:
        frames = item.get("total_frames")
        raise PspError(
            f"{where}: keypoint",
            f"shape {shape}, total_frames {shown(frames)}",
            "shape (M, total_frames, V, 3)",
        )
    check_floats(where, keypoint.values.dtype)
    return keypoint.values


def _lists(path: Path, found: Any) -> dict[str, frozenset[str]]:
    plain = isinstance(found, dict) and all(
        isinstance(name, str)
        and isinstance(clips, (list, tuple))
        and all(isinstance(clip, str) for clip in clips)
        for name, clips in found.items()
    )
    if not plain:
        raise PspError(f"{path}: split", type(found).__name__, "lists of clip names by name")
    return {name: frozenset(map(stem, clips)) for name, clips in found.items()}
