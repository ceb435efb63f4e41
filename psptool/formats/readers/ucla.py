"""NW-UCLA (Multiview Action 3D, Wang et al. 2014): 20 Kinect-v1 joints, one person, in two formats.

- JSON, the version in common use: one file ``aNN_sNN_eNN_vNN.json`` per clip.
- Text, the original distribution: one folder per clip, ``view_1/a01_s01_e00``, with one text file per frame.

Both contain metres in camera coordinates. The preparation chooses the form of given files.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.common.paths import shown
from psptool.common.text import counted
from psptool.formats.readers.base import STATE_UNKNOWN, ClipSource, FileRef, RawClip, Stray
from psptool.formats.readers.text import (
    EXCERPT,
    LARGEST_FLOAT32,
    excerpt,
    no_body,
    not_text,
    number,
    require_size,
    require_text,
    without_mark,
)
from psptool.schemas import builtin
from psptool.schemas.description import DatasetDescription, UclaFormat
from psptool.skeletons.keys import NO_LABEL, UNNAMED, ClipKey

MAX_JSON_BYTES = 4 * 2**20
"""Maximum size of a JSON file: 100 times the mean clip. Parsed JSON takes up to 25 times its size in memory."""
MAX_TEXT_BYTES = 2**20
"""Maximum size in bytes of the text file of a frame (about 1 kB in the dataset) or of a `fileList.txt`."""

JOINTS = UclaFormat.joints
"""Joints of a body in a file."""
_KEYS = ("file_name", "skeletons", "label")
_FRAME = re.compile(r"frame_(\d{1,9})_tc_(\d{1,20})_skeletons\.txt", re.ASCII)
_FRAME_LIKE = "_skeletons.txt"
_INDEX = re.compile(r"\d{1,9}", re.ASCII)
_VIEW = re.compile(r"view_(\d{1,2})", re.ASCII | re.IGNORECASE)
_FILE_LIST = "fileList.txt"
_ROW_FIELDS = 4


class UclaJsonReader:
    """Reads the JSON format: ``file_name`` (the stem), ``skeletons`` (T, 20, 3), ``label`` (1-based).

    Other keys are ignored. The format has no tracking states: all are `STATE_UNKNOWN`. Joints at exactly (0, 0, 0)
    or with NaN are returned unchanged; the preparation treats them as missing.

    Args:
        any_name: Also find recordings with other names; their key is `UNNAMED`. Only ``skeletons`` is then read.
        description: The dataset, which has the names and the 20 joints; the built-in one if None.
    """

    format = "ucla-json"

    def __init__(self, any_name: bool = False, description: DatasetDescription | None = None) -> None:
        description = description or builtin.builtin_dataset("ucla")
        self.any_name = any_name
        self.key_of, self.names = description.parse, description.clips.in_words
        self.topology = description.skeleton.topology
        # With other classes, the label in a file says nothing.
        self.has_labels = description.labels == builtin.builtin_dataset("ucla").labels

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """Clips are files ``aNN_sNN_eNN_vNN.json`` of a known action; other ``.json`` files are strays."""
        clips, strays = [], []
        for file in files:
            if not file.plain.lower().endswith(".json"):
                continue
            key = self.key_of(file.place.stem) or (UNNAMED if self.any_name else None)
            if key is None:
                reason = f"the name is not {self.names} with a known action"
                strays.append(Stray(file.place.name, str(file), reason))
            else:
                clips.append(ClipSource(shown(file.place.stem), key, (file,)))
        return clips, strays

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the bytes of one file to a clip with one body in every frame.

        Raises:
            RawFormatError: The file is not a valid JSON object of this format. The message names the key.
        """
        (blob,), (file,) = blobs, source.files
        content = _load_json(file, blob)
        if self.any_name:
            _require_skeletons(file, content)
        else:
            _check_keys(source, file, content, self.has_labels)
        xyz = _json_positions(file, content["skeletons"])
        state = np.full(xyz.shape[:2], STATE_UNKNOWN, np.uint8)
        return _one_person(source, len(xyz), np.arange(len(xyz), dtype=np.int32), xyz, state)


class UclaTextReader:
    """Reads the text format: one file per frame, with a line with an integer and 20 lines ``x,y,z,state``.

    The files are ``view_1/a01_s01_e00/frame_<index>_tc_<timestamp>_skeletons.txt``, with a `fileList.txt`.

    The distribution has no specification. The reader makes these decisions:

    - *Order*: Frames are sorted by frame number, then by timestamp. Sorting by name would put frame 10 before frame 9.
    - *Missing frame numbers*: Without `fileList.txt`, the existing files are consecutive frames, because numbers are
      also skipped where nothing was recorded. A frame listed in `fileList.txt` was recorded: if its skeleton file is
      missing, it is a frame without a body. Removing it would speed up the motion.
    - *Empty file, no rows, or fewer than 20 rows* (including a truncated last row): a frame without a body. Either the
      tracker found no body or writing was interrupted; the rest of the clip is usable.
    - *Lines after the rows*: A line without commas begins a second block with a second body. The dataset contains one
      person, so only the first block is used. A 21st row in the first block is an error: the joints are not those of
      Kinect v1.
    - *First line*: An integer of unknown meaning; it must be present and is ignored.
    - Images and all other files are ignored.

    Args:
        any_name: Also find frame files in other folders; the folder's name is the clip's, and its key is `UNNAMED`.
        description: As for `UclaJsonReader`.
    """

    format = "ucla-text"

    def __init__(self, any_name: bool = False, description: DatasetDescription | None = None) -> None:
        description = description or builtin.builtin_dataset("ucla")
        self.any_name, self.key_of = any_name, description.parse
        self.topology = description.skeleton.topology

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """Clips are folders ``view_<n>/aNN_sNN_eNN`` with frame files; frame files in other folders are strays."""
        folders: dict[tuple[Path | None, PurePath], list[FileRef]] = defaultdict(list)
        strays = []
        for file in files:
            if not file.plain.endswith((_FRAME_LIKE, _FILE_LIST)):
                continue
            place = file.place
            is_list = place.name == _FILE_LIST
            if self._named(place.parent) is None:
                reason = None if is_list else "not in a folder view_<n>/aNN_sNN_eNN of a known action"
            elif is_list or _FRAME.fullmatch(place.name):
                folders[file.archive, place.parent].append(file)
                continue
            else:
                reason = "the name is not frame_<index>_tc_<timestamp>_skeletons.txt"
            if reason is not None:
                strays.append(Stray(place.name, str(file), reason))
        clips = [self._clip_of(folder, members) for (_, folder), members in folders.items()]
        return [clip for clip in clips if clip is not None], strays

    def _named(self, folder: PurePath) -> tuple[str, ClipKey] | None:
        """Name and key of the clip in ``folder``; None if its name is not a clip name."""
        name = _clip_name(folder)
        key = self.key_of(name)
        if key is not None:
            return name, key
        return (shown(folder.name) or ".", UNNAMED) if self.any_name else None

    def _clip_of(self, folder: PurePath, members: list[FileRef]) -> ClipSource | None:
        """The clip with the frame files of one folder, followed by `fileList.txt`; None without frame files."""
        named = self._named(folder)
        lists = [file for file in members if file.place.name == _FILE_LIST]
        frames = [file for file in members if file.place.name != _FILE_LIST]
        if named is None or not frames:
            return None
        return ClipSource(*named, (*sorted(frames, key=_order), *lists))

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the bytes of the frame files, and of `fileList.txt` if present, to a clip.

        Raises:
            RawFormatError: A file is malformed, or no file contains a body. The message names file and line.
        """
        frames: list[tuple[int, NDArray[np.float64] | None]] = []
        listed: set[int] = set()
        for file, blob in zip(source.files, blobs, strict=True):
            require_size(file, blob, MAX_TEXT_BYTES)
            if file.place.name == _FILE_LIST:
                listed = _listed_frames(file, blob)
            else:
                frames.append((_order(file)[0], _body(file, blob)))
        frames += [(index, None) for index in listed - {index for index, _ in frames}]
        # The sort is stable: files with one index keep the order of their timestamps.
        frames.sort(key=lambda frame: frame[0])
        seen = [(t, body) for t, (_, body) in enumerate(frames) if body is not None]
        if not seen:
            raise no_body(source, len(frames))
        rows = np.stack([body for _, body in seen])  # float64 (B, 20, 4): x, y, z, state
        frame = np.array([t for t, _ in seen], np.int32)
        xyz, state = rows[..., :3].astype(np.float32), rows[..., 3].astype(np.uint8)
        return _one_person(source, len(frames), frame, xyz, state)


def _one_person(
    source: ClipSource,
    frames: int,
    frame: NDArray[np.int32],
    xyz: NDArray[np.float32],
    state: NDArray[np.uint8],
) -> RawClip:
    return RawClip(source.name, source.key, frames, frame, np.zeros(len(frame), np.int64), xyz, state)


def _load_json(file: FileRef, blob: bytes) -> dict[str, Any]:
    """The JSON object in a file."""
    require_size(file, blob, MAX_JSON_BYTES)
    text = _json_text(file, without_mark(blob))
    try:
        content = json.loads(text, parse_constant=_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        rest = text[error.pos : error.pos + EXCERPT]
        where = f"{file}, line {error.lineno}"
        if not rest.strip():
            raise RawFormatError("truncated", where, "the end of the file", "the rest of the JSON") from None
        raise RawFormatError("not JSON", where, f"{excerpt(rest)} ({error.msg})", "JSON") from None
    except RecursionError:
        raise RawFormatError(
            "not JSON", str(file), "too many nested brackets", "at most four levels"
        ) from None
    if not isinstance(content, dict):
        raise RawFormatError("not an object", str(file), excerpt(content), "a JSON object")
    return content


def _json_text(file: FileRef, blob: bytes) -> str:
    """The text of a JSON file. It may be UTF-8, because ignored keys may contain any text."""
    if not blob.strip():
        require_text(file, blob)
    try:
        return blob.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_text(file, blob, error.start, "UTF-8 text") from None


def _require_skeletons(file: FileRef, content: dict[str, Any]) -> None:
    """Check that the object has the key ``skeletons``, which every recording has."""
    if "skeletons" in content:
        return
    if "people" in content:
        found = f"the keys {', '.join(map(excerpt, sorted(content)[:5]))} of OpenPose's format"
        raise RawFormatError("another format", str(file), found, "the key 'skeletons' of NW-UCLA")
    raise RawFormatError("keys", str(file), excerpt(sorted(content)), "the key skeletons")


def _check_keys(source: ClipSource, file: FileRef, content: dict[str, Any], has_labels: bool) -> None:
    """Check that all keys exist, and that ``file_name`` and ``label`` agree with the clip's name.

    The label of a clip whose class is unknown may be anything.
    """
    _require_skeletons(file, content)
    if not content.keys() >= set(_KEYS):
        raise RawFormatError("keys", str(file), excerpt(sorted(content)), ", ".join(_KEYS))
    has_label = has_labels and source.key.label != NO_LABEL
    label = source.key.label + 1 if has_label else content["label"]
    for key, expected in (("file_name", source.name), ("label", label)):
        if type(content[key]) is not type(expected) or content[key] != expected:
            raise RawFormatError(
                key.replace("_", " "), f"{file}, {key}", excerpt(content[key]), repr(expected)
            )


class _Infinity(str):
    """Infinity or -Infinity: not valid JSON, but written by many programs."""


def _constant(text: str) -> float | str:
    return float(text) if text == "NaN" else _Infinity(text)


def _integer(text: str) -> int | float:
    # The time of int() grows with the square of the digits. The number becomes a float64 anyway.
    return int(text) if len(text) < 20 else float(text)


def _json_positions(file: FileRef, skeletons: object) -> NDArray[np.float32]:
    """The positions float32 (T, 20, 3) of the key ``skeletons``."""
    if not isinstance(skeletons, list) or not skeletons:
        raise RawFormatError("shape", f"{file}, skeletons", excerpt(skeletons), "a list of frames")
    for t, joints in enumerate(skeletons):
        if not isinstance(joints, list) or len(joints) != JOINTS:
            found = counted(len(joints), "joint") if isinstance(joints, list) else excerpt(joints)
            expected = f"a list of {JOINTS} joints"
            raise RawFormatError("joint count", f"{file}, skeletons[{t}]", found, expected)
        for j, joint in enumerate(joints):
            fault = _position_fault(joint)
            if fault is not None:
                raise RawFormatError(fault[0], f"{file}, skeletons[{t}][{j}]", *fault[1:])
    return np.array(skeletons, np.float64).astype(np.float32)


def _position_fault(joint: object) -> tuple[str, str, str] | None:
    """(reason, found, expected) if ``joint`` is not a valid [x, y, z]; otherwise None."""
    if not isinstance(joint, list) or len(joint) != 3:
        return "shape", excerpt(joint), "a list [x, y, z]"
    for value in joint:
        if type(value) is not float and type(value) is not int and not isinstance(value, _Infinity):
            return "not a number", excerpt(value), "a number"
        if abs(float(value)) > LARGEST_FLOAT32:
            return (
                "not finite",
                excerpt(value),
                "a number in the range of float32, or NaN for a missing joint",
            )
    return None


def _clip_name(folder: PurePath) -> str:
    """The clip name for a folder such as ``view_1/a01_s01_e00``; empty for other folders."""
    view = _VIEW.fullmatch(folder.parent.name)
    return f"{folder.name}_v{int(view[1]):02d}" if view else ""


def _order(file: FileRef) -> tuple[int, int]:
    """(index, timestamp) in the name of a frame file that `find` matched."""
    index, timestamp = file.place.name.split("_")[1:4:2]
    return int(index), int(timestamp)


def _lines(blob: bytes) -> list[str]:
    """The lines of ASCII text. `splitlines` would also split at characters other than a line feed."""
    return blob.decode("ascii").split("\n")


def _listed_frames(file: FileRef, blob: bytes) -> set[int]:
    """The frame indices in a `fileList.txt`: the first token of each non-blank line."""
    blob = without_mark(blob)
    if not blob.strip():
        return set()
    require_text(file, blob)
    listed = set()
    for line, text in enumerate(_lines(blob), 1):
        token = (text.split(None, 1) or [""])[0]
        if token and not _INDEX.fullmatch(token):
            raise RawFormatError("file list", f"{file}, line {line}", excerpt(token), "the index of a frame")
        if token:
            listed.add(int(token))
    return listed


def _body(file: FileRef, blob: bytes) -> NDArray[np.float64] | None:
    """The first block of a frame's file, float64 (20, 4): x, y, z, state; None without a complete body."""
    blob = without_mark(blob)
    if not blob.strip():
        return None
    require_text(file, blob)
    header, *lines = _lines(blob)
    if not header.strip().isdigit():
        raise RawFormatError("header", f"{file}, line 1", excerpt(header), "a line with one integer")
    rows: list[list[float]] = []
    for line, text in enumerate(lines, 2):
        fields = text.split(",")
        cut_short = line > len(lines) and len(fields) < _ROW_FIELDS
        if len(fields) == 1 or cut_short:
            break
        where = f"{file}, line {line}"
        if len(rows) == JOINTS:
            raise RawFormatError("joint count", where, f"row {JOINTS + 1}", f"{JOINTS} rows per body")
        rows.append(_row(where, fields))
    return np.array(rows) if len(rows) == JOINTS else None


def _row(where: str, fields: list[str]) -> list[float]:
    """x, y, z and state from the fields of one row."""
    if len(fields) != _ROW_FIELDS:
        found = f"{len(fields)} fields, {excerpt(','.join(fields))}"
        raise RawFormatError("field count", where, found, f"{_ROW_FIELDS} fields x,y,z,state")
    state = fields[3].strip()
    if state not in ("0", "1", "2"):
        raise RawFormatError("joint state", where, excerpt(state), "0, 1 or 2")
    return [number(fields[0], where), number(fields[1], where), number(fields[2], where), float(state)]
