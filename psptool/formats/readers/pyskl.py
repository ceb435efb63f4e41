"""Pickle files of PYSKL and MMAction2, for any skeleton: one file has many clips.

A file is a list of annotations, or a dict with it under the key ``annotations``. An annotation is a dict: ``frame_dir``
(the clip's name), ``label`` (from 0; not needed for prediction), ``keypoint`` (M, T, V, C), optionally
``keypoint_score`` (M, T, V) and ``total_frames``. M persons, T frames, V joints, C coordinates.

Pickles are read by a restricted unpickler that executes no code, as a whole, when clips are searched. The clips carry
their arrays as the bytes of npy files, which `psptool.formats.readers.arrays` parses.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from psptool.common.errors import PspError, RawFormatError
from psptool.common.paths import shown
from psptool.formats.readers.arrays import ArraysReader
from psptool.formats.readers.base import ClipSource, FileRef, RawClip, Stray
from psptool.formats.readers.naming import OTHER_NAME, KeyOf
from psptool.formats.readers.unpickling import PickledArray, load_pickle, short_repr
from psptool.schemas.formats import ArraysOptions, PysklOptions
from psptool.skeletons.keys import NO_LABEL, ClipKey
from psptool.skeletons.topology import Topology

PACKED = "pickle file in an archive, or compressed; unpack it first"


class PysklReader:
    """Reads pickles of any skeleton; see `psptool.formats.readers.base.Reader`.

    Malformed annotations are strays with the reason. Joints are missing as for `ArraysReader`.

    Attributes:
        lists: After `find`, the lists of clip names in the files, such as ``xsub_train``, by name. Lists of one name
            in several files are joined.

    Args:
        topology: The skeleton, with V joints.
        options: Options of this format.
        key_of: Function from a clip's name to its key, whose label must be the annotation's; None for any name: the
            label is then the annotation's, and without one the key is `UNNAMED`.
        joints: The file's joints, as for `ArraysReader`.
    """

    def __init__(
        self,
        topology: Topology,
        options: PysklOptions,
        key_of: KeyOf | None,
        joints: Sequence[str | None] = (),
    ) -> None:
        self.format = "pyskl"
        self.topology, self.options, self.key_of = topology, options, key_of
        arrays = ArraysOptions(
            reader="arrays",
            axes=options.axes,
            min_confidence=options.min_confidence,
            max_gap=options.max_gap,
        )
        self._arrays = ArraysReader(topology, arrays, key_of, joints)
        self.lists: dict[str, tuple[str, ...]] = {}

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """The clips of all pickle files, each with its content; annotations that cannot be used are strays.

        Raises:
            PspError: A file cannot be read, is refused as unsafe, or has no annotations.
        """
        clips: list[ClipSource] = []
        strays: list[Stray] = []
        self.lists = {}
        for file in files:
            if not file.plain.lower().endswith(self.options.suffixes):
                continue
            if not is_plain_file(file):
                strays.append(Stray(shown(file.name), str(file), PACKED))
                continue
            for number, item in read_annotations(Path(file.path), self.lists):
                where = f"{file}: annotation {number}"
                try:
                    clips.append(self._clip(file, where, number, item))
                except RawFormatError as error:
                    name = item.get("frame_dir") if isinstance(item, dict) else None
                    strays.append(Stray(short_repr(name), where, str(error)))
        return clips, strays

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the content of a clip.

        Raises:
            RawFormatError: The array has another shape, or the clip contains no body.
        """
        return self._arrays.parse(source, blobs)

    def _clip(self, file: FileRef, where: str, number: int, item: Any) -> ClipSource:
        """One annotation as a clip."""
        if not isinstance(item, dict):
            expected = "a dict with frame_dir, label and keypoint"
            raise RawFormatError("no annotation", where, short_repr(item), expected)
        name = item.get("frame_dir")
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise RawFormatError("clip name", f"{where}: frame_dir", short_repr(name), "printable characters")
        stem = _stem(name)
        key = self._key(where, stem, item.get("label"))
        content = _npy(self._values(where, item))
        place = FileRef(
            f"annotation {number} ({name})", Path(file.path), len(content), file.changed, content=content
        )
        return ClipSource(stem, key, (place,))

    def _key(self, where: str, stem: str, label: Any) -> ClipKey:
        """The key of an annotation with the clip name ``stem``; ``label`` is None or `NO_LABEL` if it has none."""
        label = NO_LABEL if label is None else label
        if type(label) is not int or label < NO_LABEL:
            raise RawFormatError("label", f"{where}: label", short_repr(label), "an integer from 0")
        key = ClipKey(label) if self.key_of is None else self.key_of(stem)  # ClipKey(NO_LABEL) is UNNAMED
        if key is None:
            raise RawFormatError("name", f"{where}: frame_dir", repr(stem), f"a clip name ({OTHER_NAME})")
        if key.label != label:
            found = "no label" if label == NO_LABEL else str(label)
            expected = "no label" if key.label == NO_LABEL else str(key.label)
            raise RawFormatError("label", f"{where}: label", found, f"{expected}, as in the name {stem}")
        return key

    def _values(self, where: str, item: dict[Any, Any]) -> NDArray[Any]:
        """The keypoint of an annotation, with the score as its last channel."""
        values = _array(where, item, "keypoint")
        if values.ndim != 4:
            expected = f"4 axes {self.options.axes}"
            raise RawFormatError("shape", f"{where}: keypoint", f"shape {values.shape}", expected)
        frames = item.get("total_frames", values.shape[1])
        if self.options.axes == "CTVM" and type(frames) is int and 0 < frames < values.shape[1]:
            return values[:, :frames]  # the frames after total_frames repeat the clip
        if frames != values.shape[1]:
            found = f"total_frames {short_repr(frames)}"
            raise RawFormatError("frame count", f"{where}: keypoint", found, f"{values.shape[1]} frames")
        if self.options.axes == "CTVM" or item.get("keypoint_score") is None:
            return values
        score = _array(where, item, "keypoint_score")
        if score.shape != values.shape[:3]:
            raise RawFormatError(
                "shape", f"{where}: keypoint_score", f"shape {score.shape}", f"shape {values.shape[:3]}"
            )
        if values.shape[-1] == self.topology.dimensions + 1:
            values = values[..., :-1]  # some tools write the score twice
        return np.concatenate([values, score[..., None]], axis=-1)


def _stem(name: str) -> str:
    """The clip name in a ``frame_dir``, which may be a path."""
    return name.removesuffix(".skeleton").replace("\\", "/").rpartition("/")[2]


def is_plain_file(file: FileRef) -> bool:
    """Whether a pickle is neither in an archive nor compressed; others are not read, with the reason `PACKED`."""
    return file.archive is None and file.plain == file.path


def read_annotations(path: Path, lists: dict[str, tuple[str, ...]]) -> Iterator[tuple[int, Any]]:
    """The annotations of a file with their numbers from 0; its lists of clips are added to ``lists``.

    Raises:
        PspError: The file cannot be read, is refused as unsafe, or has no annotations.
    """
    data = load_pickle(path)
    split = data.get("split") if isinstance(data, dict) else None
    for key, names in split.items() if isinstance(split, dict) else ():
        if isinstance(key, str) and isinstance(names, (list, tuple)):
            more = (_stem(name) for name in names if isinstance(name, str))
            # Several files may have a list of this name, and one clip may be in several files.
            lists[key] = tuple(dict.fromkeys((*lists.get(key, ()), *more)))
    items = data.get("annotations") if isinstance(data, dict) else data
    if not isinstance(items, (list, tuple)) or not items:
        expected = "a list of annotations, or a dict with the key annotations"
        raise PspError(
            f"{shown(path)}: annotations", short_repr(items), expected, "Use a file of PYSKL's format."
        )
    items = list(items)
    del data
    for number in range(len(items)):
        yield number, items[number]
        items[number] = None  # its array is not needed any more


def _array(where: str, item: dict[Any, Any], key: str) -> NDArray[Any]:
    found = item.get(key)
    if not isinstance(found, PickledArray) or found.values.dtype.kind not in "fiu":
        raise RawFormatError("positions", f"{where}: {key}", short_repr(found), "an array of numbers")
    return found.values


def _npy(values: NDArray[Any]) -> bytes:
    """The bytes of an npy file."""
    stream = io.BytesIO()
    npy.write_array(stream, np.asarray(values), allow_pickle=False)
    return stream.getvalue()
