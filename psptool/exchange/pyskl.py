"""The pickle file of PYSKL and MMAction2: named lists of clips, and one annotation with the positions of each clip.

``{"split": {name: [frame_dir, …]}, "annotations": [{frame_dir, total_frames, label, keypoint (M, T, V, 3)}, …]}``.
The loader uses the annotations whose frame_dir is in the selected list. PreNormalize3D expects camera coordinates, with
zeros where a person is absent.

MMAction2's preparation of NTU (tools/data/skeleton/gen_ntu_rgbd_raw.py) writes a list of annotations without split,
whose keypoint is (C, T, V, M) = (3, 300, 25, 2). Frames after total_frames repeat the clip, and the origin is the
second joint of the first person. `layout_of` distinguishes the layouts.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from psptool.common.atomic_write import replacing
from psptool.common.errors import PspError, RawFormatError
from psptool.data.store.reading import Store, StoredClip
from psptool.exchange.contents import (
    Contents,
    check_floats,
    dataset_named,
    leave_out,
    plain_label,
    plain_name,
    stem,
    unicode_text,
)
from psptool.exchange.positions import Coordinates, positions
from psptool.formats.readers.unpickling import PickledArray, load_pickle, short_repr
from psptool.schemas.report import LeftOut
from psptool.skeletons.topology import Topology

Layout = Literal["MTVC", "CTVM"]
"""Order of the axes of a keypoint: in PYSKL, and in MMAction2's preparation."""
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_PAIRED = (("_train", "_val"), ("_train", "_test"))

# The file is written clip by clip with constant memory. This works with pickle protocol 3: it has no frames, so the
# pickle of a value without its head and stop can be embedded in another pickle.
_PROTOCOL = 3
_HEAD, _STOP = b"\x80\x03", pickle.STOP
_NEW_MODULE, _OLD_MODULE = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
_BATCH = 1000


def write_pyskl(
    store: Store, lists: Mapping[str, Sequence[str]], coordinates: Coordinates, path: Path
) -> None:
    """Write all clips of ``store``, and ``lists`` of clip names.

    Raises:
        PspError: The file cannot be written, or a clip cannot be represented in this format.
    """
    with replacing([path]) as (partial,), partial.open("wb") as file:
        file.write(_HEAD + pickle.EMPTY_DICT + pickle.MARK)
        file.write(_value("split") + _value({name: list(clips) for name, clips in lists.items()}))
        file.write(_value("annotations") + pickle.EMPTY_LIST)
        everything = iter(store)
        while batch := list(islice(everything, _BATCH)):
            file.write(pickle.MARK)
            for clip in batch:
                file.writelines(_annotation(clip, coordinates, store.manifest.topology))
            file.write(pickle.APPENDS)
        file.write(pickle.SETITEMS + _STOP)


def _annotation(clip: StoredClip, coordinates: Coordinates, topology: Topology) -> Iterator[bytes]:
    # (M, T, V, 3), or (M, T, V, 2) in 2D: its readers take a third number for the confidence.
    keypoint = positions(clip, coordinates, topology)[..., : topology.dimensions]
    yield pickle.EMPTY_DICT + pickle.MARK
    yield _value("frame_dir") + _value(clip.name)
    yield _value("total_frames") + _value(keypoint.shape[1])
    yield _value("label") + _value(clip.key.label)
    yield _value("keypoint") + _array(keypoint)
    yield pickle.SETITEMS


def _value(value: object) -> bytes:
    return pickle.dumps(value, _PROTOCOL)[len(_HEAD) : -len(_STOP)]


def _array(values: NDArray[np.float32]) -> bytes:
    """The pickle of an array, with the module name that both NumPy 1 and NumPy 2 can load."""
    found = _value(np.ascontiguousarray(values))
    return _OLD_MODULE + found[len(_NEW_MODULE) :] if found.startswith(_NEW_MODULE) else found


class _Clip(NamedTuple):
    """A valid annotation: name, label, and keypoint with its axes in the order ``layout``."""

    name: str
    label: int
    keypoint: NDArray[Any]
    layout: Layout


def read_pyskl(path: Path) -> Contents:
    """Read a file: a dict with lists and annotations, or a list of annotations. Malformed annotations are excluded.

    Raises:
        PspError: The file cannot be read, is refused as unsafe, or does not have this format.
    """
    data = load_pickle(path)
    annotations = data.get("annotations") if isinstance(data, dict) else data
    if not isinstance(annotations, (list, tuple)) or not annotations:
        raise PspError(f"{path}: annotations", short_repr(annotations), "a list of clips")
    lists = _lists(path, data.get("split", {}) if isinstance(data, dict) else {})
    clips, left_out = _clips(path, annotations)
    pairs = tuple(
        (name, name.removesuffix(train) + test)
        for name in lists
        for train, test in _PAIRED
        if name.endswith(train) and name.removesuffix(train) + test in lists
    )
    positions = [
        clip.keypoint if clip.layout == "MTVC" else clip.keypoint.transpose(3, 1, 2, 0) for clip in clips
    ]
    return Contents(
        path,
        "pyskl",
        tuple(clip.name for clip in clips),
        tuple(clip.label for clip in clips),
        _joints(clips),
        positions.__getitem__,
        positions[0].dtype if positions else np.dtype("f4"),
        lists,
        pairs,
        left_out,
        "centred" if clips and all(clip.layout == "CTVM" for clip in clips) else None,
    )


def _clips(path: Path, annotations: Sequence[Any]) -> tuple[list[_Clip], tuple[LeftOut, ...]]:
    """The valid annotations, and the malformed ones with their reasons."""
    joints = _joints_named(_name(item) for item in annotations)
    found = {layout_of(values.shape, joints) for item in annotations if (values := _values(item)) is not None}
    layouts: list[Layout] = [layout for layout in LAYOUTS if layout in found]
    clips: list[_Clip] = []
    left_out: list[LeftOut] = []
    for number, item in enumerate(annotations):
        try:
            clips.append(_clip(f"{path}: annotation {number}", item, joints, layouts))
        except RawFormatError as error:
            left_out.append(leave_out(path, _name(item) or f"annotation {number}", error))
    return clips, tuple(left_out)


def layout_of(shape: tuple[int, ...], joints: int | None) -> Layout | Literal["any"] | None:
    """The order of a keypoint's axes, determined from its shape.

    Axes 1 and 2 are frames and joints in both layouts. (M, T, V, 3) is PYSKL's layout unless M = 3, and (3, T, V, M) is
    MMAction2's unless M = 3 or M = 2. (3, T, V, 2) may also be 3 persons in 2D: it is MMAction2's only if V is the
    dataset's number of joints, because the known 2D files have other skeletons.

    Args:
        shape: Shape of the keypoint.
        joints: Number of joints of the dataset; None if the names belong to no known dataset.

    Returns:
        The layout; ``any`` for (3, T, V, 3), which fits both; None for a shape that fits neither.
    """
    if len(shape) != 4:
        return None
    first, _, v, last = shape
    if last == 3:
        return "any" if first == 3 else "MTVC"
    return "CTVM" if first == 3 and (last != 2 or v == joints) else None


def _clip(where: str, item: Any, joints: int | None, layouts: Sequence[Layout]) -> _Clip:
    """Check and convert one annotation.

    Args:
        where: Location for error messages.
        item: The unpickled annotation.
        joints: Number of joints of the dataset; None if the names belong to no known dataset.
        layouts: Layouts of the file's other annotations. An ambiguous keypoint has their layout if it is unique.

    Raises:
        RawFormatError: The annotation is malformed.
    """
    if not isinstance(item, dict):
        raise RawFormatError(
            "no annotation", where, short_repr(item), "a dict with frame_dir, label and keypoint"
        )
    name = plain_name(f"{where}: frame_dir", item.get("frame_dir"))
    if "label" not in item:
        raise RawFormatError("label", where, "no label", "a 0-based integer")
    label = plain_label(f"{where}: label", item["label"])
    where = f"{where}: keypoint"
    values = _values(item)
    if values is None:
        raise RawFormatError("positions", where, short_repr(item.get("keypoint")), "an array (M, T, V, 3)")
    layout = _settled(where, values.shape, joints, layouts)
    check_floats(where, values.dtype)
    if min(values.shape) < 1:
        raise RawFormatError(
            "no body", where, f"shape {values.shape}", "at least one person, frame and joint"
        )
    frames = item.get("total_frames", values.shape[1])
    if layout == "CTVM" and type(frames) is int and 0 < frames < values.shape[1]:
        return _Clip(name, label, values[:, :frames], layout)
    if frames != values.shape[1]:
        raise RawFormatError(
            "frame count", where, f"total_frames {short_repr(frames)}", f"{values.shape[1]} frames"
        )
    return _Clip(name, label, values, layout)


def _settled(where: str, shape: tuple[int, ...], joints: int | None, layouts: Sequence[Layout]) -> Layout:
    layout = layout_of(shape, joints)
    if layout == "any" and len(layouts) == 1:
        return layouts[0]
    if layout is not None and layout != "any":
        return layout
    why = " (2D joints)" if shape[-1:] == (2,) else ""
    if layout == "any":
        why = ", which is ambiguous: the first axis may be persons or coordinates"
    raise RawFormatError("shape", where, f"shape {shape}{why}", "3D positions (M, T, V, 3)")


def _values(item: Any) -> NDArray[Any] | None:
    """The keypoint of an annotation; None without one."""
    keypoint = item.get("keypoint") if isinstance(item, dict) else None
    return keypoint.values if isinstance(keypoint, PickledArray) else None


def _name(item: Any) -> str | None:
    name = item.get("frame_dir") if isinstance(item, dict) else None
    return stem(name) if isinstance(name, str) else None


def _joints_named(names: Iterable[str | None]) -> int | None:
    dataset = dataset_named(name for name in names if name)
    return None if dataset is None else dataset.topology.size


def _joints(clips: Sequence[_Clip]) -> int:
    """The dataset's number of joints if any clip has it, otherwise that of most clips."""
    counted = Counter(clip.keypoint.shape[2] for clip in clips)
    named = _joints_named(clip.name for clip in clips)
    return (
        named if named is not None and named in counted else max(counted, key=counted.__getitem__, default=0)
    )


def _lists(path: Path, found: Any) -> dict[str, frozenset[str]]:
    """The named lists. An entry that is not a string is replaced by its representation, which is not a clip name."""
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise PspError(f"{path}: split", short_repr(found), "lists of clip names by name")
    return {name: frozenset(_listed(f"{path}: split {name}", clips)) for name, clips in found.items()}


def _listed(where: str, clips: Any) -> Iterator[str]:
    if isinstance(clips, PickledArray):
        clips = clips.values.tolist()
    if not isinstance(clips, (list, tuple)):
        raise PspError(where, short_repr(clips), "a list of clip names")
    for clip in clips:
        yield stem(unicode_text(clip)) if isinstance(clip, str) else short_repr(clip)
