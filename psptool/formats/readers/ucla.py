"""NW-UCLA (Multiview Action 3D, Wang et al. 2014): 20 Kinect-v1 joints, one person, in two forms.

- JSON, the form that circulates: one ``aNN_sNN_eNN_vNN.json`` a clip.
- Text, the original distribution: one folder a clip, ``view_1/a01_s01_e00``, with one text file a frame.

Both give metres in the camera's frame. `ucla_reader_for` tells which form some files are of.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError, RawFormatError
from psptool.common.paths import shown
from psptool.data.skeletons.datasets import UNNAMED, ClipKey, parse_ucla
from psptool.data.skeletons.topologies import UCLA20
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

MAX_JSON_BYTES = 4 * 2**20
"""A hundred times the mean clip; as Python objects JSON takes up to 25 times its size."""
MAX_TEXT_BYTES = 2**20
"""Bytes of one frame's text file (1 kB in the recordings) or of one `fileList.txt`."""

_KEYS = ("file_name", "skeletons", "label")
_FRAME = re.compile(r"frame_(\d{1,9})_tc_(\d{1,20})_skeletons\.txt", re.ASCII)
_FRAME_LIKE = "_skeletons.txt"
_INDEX = re.compile(r"\d{1,9}", re.ASCII)
_VIEW = re.compile(r"view_(\d{1,2})", re.ASCII | re.IGNORECASE)
_FILE_LIST = "fileList.txt"
_ROW_FIELDS = 4


class UclaJsonReader:
    """Reads the JSON form: ``file_name`` (the stem), ``skeletons`` (T, 20, 3), ``label`` (from 1).

    Other keys are ignored. The form has no tracking states, so every joint's is `STATE_UNKNOWN`. Joints at exactly
    (0, 0, 0) and those with a NaN are passed on as they are; it is the preparation that takes them for missing.

    Args:
        any_name: Take recordings of other names too, whose key is `UNNAMED`; of any file only ``skeletons`` is
            then looked at.
    """

    format = "ucla-json"
    topology = UCLA20

    def __init__(self, any_name: bool = False) -> None:
        self.any_name = any_name

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """A clip is an ``aNN_sNN_eNN_vNN.json`` of a known action; a `.json` of another name is a stray."""
        clips, strays = [], []
        for file in files:
            if not file.plain.lower().endswith(".json"):
                continue
            key = parse_ucla(file.place.stem) or (UNNAMED if self.any_name else None)
            if key is None:
                reason = "the name is not aNN_sNN_eNN_vNN of a known action"
                strays.append(Stray(file.place.name, str(file), reason))
            else:
                clips.append(ClipSource(shown(file.place.stem), key, (file,)))
        return clips, strays

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Turn one file's bytes into a clip with one body in every frame.

        Raises:
            RawFormatError: Not such a JSON object; names the key and the finding.
        """
        (blob,), (file,) = blobs, source.files
        content = _load_json(file, blob)
        if self.any_name:
            _require_skeletons(file, content)
        else:
            _check_keys(source, file, content)
        xyz = _json_positions(file, content["skeletons"])
        state = np.full(xyz.shape[:2], STATE_UNKNOWN, np.uint8)
        return _one_person(source, len(xyz), np.arange(len(xyz), dtype=np.int32), xyz, state)


class UclaTextReader:
    """Reads the text form: 20 lines ``x,y,z,state`` after one with an integer, one file a frame.

    Files are ``view_1/a01_s01_e00/frame_<index>_tc_<timestamp>_skeletons.txt``, with a `fileList.txt` beside.

    What the distribution leaves open, and what is decided here:

    - *Order*: by frame number, then by timestamp; as names, frame 10 would come before frame 9.
    - *Numbers that are not there*: without a `fileList.txt` the files that exist are consecutive frames,
      since the numbers also skip where nothing was recorded. A number that `fileList.txt` does list was
      recorded, so where its skeleton file is absent, the frame is there without a body: closing that gap
      would speed the motion up.
    - *Empty file, no rows, fewer than 20 rows* (a last row cut short included): a frame without a body. The
      tracker had nothing or the writer was stopped; half a skeleton is none, and one lost frame need not cost
      the clip.
    - *Further lines after the rows*: a line without commas begins a second block, that is a second body. The
      dataset shows one person, so the first block is taken. A 21st row in the first block is an error: then
      these are not Kinect-v1 joints.
    - *The first line* is an integer without known meaning; it must be there and is not looked at further.
    - Pictures and all other files are not the reader's.

    Args:
        any_name: Take frame files in any folder, whose name is the clip's and whose key is `UNNAMED`.
    """

    format = "ucla-text"
    topology = UCLA20

    def __init__(self, any_name: bool = False) -> None:
        self.any_name = any_name

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """A clip is a folder ``view_<n>/aNN_sNN_eNN`` with frame files; such files elsewhere are strays."""
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
        """The clip that a folder's name says; None where it says none."""
        name = _clip_name(folder)
        key = parse_ucla(name)
        if key is not None:
            return name, key
        return (shown(folder.name) or ".", UNNAMED) if self.any_name else None

    def _clip_of(self, folder: PurePath, members: list[FileRef]) -> ClipSource | None:
        """The clip of one folder's frame files and `fileList.txt`, the latter last; None without a frame file."""
        named = self._named(folder)
        lists = [file for file in members if file.place.name == _FILE_LIST]
        frames = [file for file in members if file.place.name != _FILE_LIST]
        if named is None or not frames:
            return None
        return ClipSource(*named, (*sorted(frames, key=_order), *lists))

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Turn the frame files' bytes, and `fileList.txt`'s where there is one, into a clip.

        Raises:
            RawFormatError: A file is malformed, or none holds a body; names file, line and finding.
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
        # A stable sort, so that files of one index stay in the order of their timestamps.
        frames.sort(key=lambda frame: frame[0])
        seen = [(t, body) for t, (_, body) in enumerate(frames) if body is not None]
        if not seen:
            raise no_body(source, len(frames))
        rows = np.stack([body for _, body in seen])
        frame = np.array([t for t, _ in seen], np.int32)
        xyz, state = rows[..., :3].astype(np.float32), rows[..., 3].astype(np.uint8)
        return _one_person(source, len(frames), frame, xyz, state)


def ucla_reader_for(files: list[FileRef]) -> UclaJsonReader | UclaTextReader:
    """The reader of the form that the files are of.

    Raises:
        PspError: There are clips of both forms, or of none.
    """
    as_json, as_text = UclaJsonReader(), UclaTextReader()
    clips_json, clips_text = as_json.find(files)[0], as_text.find(files)[0]
    if clips_json and clips_text:
        raise PspError(
            "both forms of NW-UCLA lie in the raw files",
            f"{clips_json[0].files[0]} (JSON) and {clips_text[0].files[0]} (text)",
            "one form, as the same recordings would count twice",
            "Name the folder of one form with --raw.",
        )
    if not clips_json and not clips_text:
        raise PspError(
            "no NW-UCLA recordings in the raw files",
            f"{len(files)} files, none of them a recording",
            "aNN_sNN_eNN_vNN.json, or view_<n>/aNN_sNN_eNN/frame_<index>_tc_<timestamp>_skeletons.txt",
            "Check --raw.",
        )
    return as_json if clips_json else as_text


def _one_person(
    source: ClipSource,
    frames: int,
    frame: NDArray[np.int32],
    xyz: NDArray[np.float32],
    state: NDArray[np.uint8],
) -> RawClip:
    return RawClip(source.name, source.key, frames, frame, np.zeros(len(frame), np.int64), xyz, state)


def _load_json(file: FileRef, blob: bytes) -> dict[str, Any]:
    """The object in a file."""
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
        raise RawFormatError("not JSON", str(file), "very many nested brackets", "four at most") from None
    if not isinstance(content, dict):
        raise RawFormatError("not an object", str(file), excerpt(content), "a JSON object")
    return content


def _json_text(file: FileRef, blob: bytes) -> str:
    """The text of a JSON file, which is UTF-8: further keys may hold any words."""
    if not blob.strip():
        require_text(file, blob)
    try:
        return blob.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_text(file, blob, error.start, "UTF-8 text") from None


def _require_skeletons(file: FileRef, content: dict[str, Any]) -> None:
    """Refuse an object without the one key that every recording has."""
    if "skeletons" in content:
        return
    if "people" in content:
        found = f"the keys {', '.join(map(excerpt, sorted(content)[:5]))}, which OpenPose writes"
        raise RawFormatError("another format", str(file), found, "the key 'skeletons' of NW-UCLA")
    raise RawFormatError("keys", str(file), excerpt(sorted(content)), "the key skeletons")


def _check_keys(source: ClipSource, file: FileRef, content: dict[str, Any]) -> None:
    """What the keys say of the clip is what its name says; further keys may be there."""
    _require_skeletons(file, content)
    if not content.keys() >= set(_KEYS):
        raise RawFormatError("keys", str(file), excerpt(sorted(content)), ", ".join(_KEYS))
    for key, expected in (("file_name", source.name), ("label", source.key.label + 1)):
        if type(content[key]) is not type(expected) or content[key] != expected:
            raise RawFormatError(
                key.replace("_", " "), f"{file}, {key}", excerpt(content[key]), repr(expected)
            )


class _Infinity(str):
    """Infinity or -Infinity, which JSON does not have but many writers write."""


def _constant(text: str) -> float | str:
    return float(text) if text == "NaN" else _Infinity(text)


def _integer(text: str) -> int | float:
    # int takes a time that grows with the square of the digits; a float64 is what the number ends as anyway.
    return int(text) if len(text) < 20 else float(text)


def _json_positions(file: FileRef, skeletons: object) -> NDArray[np.float32]:
    """float32 (T, 20, 3) of the key ``skeletons``."""
    if not isinstance(skeletons, list) or not skeletons:
        raise RawFormatError("shape", f"{file}, skeletons", excerpt(skeletons), "a list of frames")
    for t, joints in enumerate(skeletons):
        if not isinstance(joints, list) or len(joints) != UCLA20.size:
            found = f"{len(joints)} joints" if isinstance(joints, list) else excerpt(joints)
            expected = f"a list of {UCLA20.size} joints"
            raise RawFormatError("joint count", f"{file}, skeletons[{t}]", found, expected)
        for j, joint in enumerate(joints):
            fault = _position_fault(joint)
            if fault is not None:
                raise RawFormatError(fault[0], f"{file}, skeletons[{t}][{j}]", *fault[1:])
    return np.array(skeletons, np.float64).astype(np.float32)


def _position_fault(joint: object) -> tuple[str, str, str] | None:
    """(reason, found, expected) of what should be [x, y, z]; None where it is."""
    if not isinstance(joint, list) or len(joint) != 3:
        return "shape", excerpt(joint), "a list [x, y, z]"
    for value in joint:
        if type(value) is not float and type(value) is not int and not isinstance(value, _Infinity):
            return "not a number", excerpt(value), "a number"
        if abs(float(value)) > LARGEST_FLOAT32:
            return "not finite", excerpt(value), "a number that float32 holds, or NaN for a missing joint"
    return None


def _clip_name(folder: PurePath) -> str:
    """The clip's name of a folder such as ``view_1/a01_s01_e00``; empty for a folder elsewhere."""
    view = _VIEW.fullmatch(folder.parent.name)
    return f"{folder.name}_v{int(view[1]):02d}" if view else ""


def _order(file: FileRef) -> tuple[int, int]:
    """(index, timestamp) of a frame file's name, which `find` has matched."""
    index, timestamp = file.place.name.split("_")[1:4:2]
    return int(index), int(timestamp)


def _lines(blob: bytes) -> list[str]:
    """The lines of ASCII text. Not `splitlines`, for which more than a line feed ends a line."""
    return blob.decode("ascii").split("\n")


def _listed_frames(file: FileRef, blob: bytes) -> set[int]:
    """The frame indices of a `fileList.txt`: the first token of each line that is not blank."""
    blob = without_mark(blob)
    if not blob.strip():
        return set()
    require_text(file, blob)
    listed = set()
    for line, text in enumerate(_lines(blob), 1):
        token = (text.split(None, 1) or [""])[0]
        if token and not _INDEX.fullmatch(token):
            raise RawFormatError("file list", f"{file}, line {line}", excerpt(token), "a frame's index")
        if token:
            listed.add(int(token))
    return listed


def _body(file: FileRef, blob: bytes) -> NDArray[np.float64] | None:
    """float64 (20, 4), x y z state, of a frame's first block; None where the frame shows no whole body."""
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
        if len(rows) == UCLA20.size:
            raise RawFormatError("joint count", where, "one more row", f"{UCLA20.size} rows a body")
        rows.append(_row(where, fields))
    return np.array(rows) if len(rows) == UCLA20.size else None


def _row(where: str, fields: list[str]) -> list[float]:
    """x, y, z and state of one row's fields."""
    if len(fields) != _ROW_FIELDS:
        found = f"{len(fields)} fields, {excerpt(','.join(fields))}"
        raise RawFormatError("field count", where, found, f"{_ROW_FIELDS} fields x,y,z,state")
    state = fields[3].strip()
    if state not in ("0", "1", "2"):
        raise RawFormatError("joint state", where, excerpt(state), "0, 1 or 2")
    return [number(fields[0], where), number(fields[1], where), number(fields[2], where), float(state)]
