"""NW-UCLA (Northwestern-UCLA Multiview Action 3D, Wang et al. 2014): 20 Kinect-v1 joints, one person, two forms.

- JSON, the form that circulates: one ``aNN_sNN_eNN_vNN.json`` a clip.
- Text, the original distribution: one folder a clip, ``view_1/a01_s01_e00``, with one text file a frame.

Both give metres in the camera's frame. `ucla_reader_for` tells which form some files are of.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psptool.errors import PspError, RawFormatError
from psptool.readers.base import STATE_UNKNOWN, ClipSource, FileRef, RawClip, Stray
from psptool.readers.text import excerpt, is_not_finite, no_body, number, require_text
from psptool.skeletons.datasets import parse_ucla
from psptool.skeletons.topologies import UCLA20

MAX_JSON_BYTES = 4 * 2**20
"""A hundred times the mean clip; as Python objects JSON takes up to 25 times its size."""
MAX_TEXT_BYTES = 2**20
"""Bytes of one frame's text file (1 kB in the recordings) or of one `fileList.txt`."""

_KEYS = ("file_name", "skeletons", "label")
_FRAME = re.compile(r"frame_(\d{1,9})_tc_(\d{1,20})_skeletons\.txt", re.ASCII)
_FRAME_LIKE = "_skeletons.txt"
_VIEW = re.compile(r"view_(\d{1,2})", re.ASCII)
_FILE_LIST = "fileList.txt"


class UclaJsonReader:
    """Reads the JSON form: ``file_name`` (the stem), ``skeletons`` (T, 20, 3), ``label`` (from 1); nothing else.

    The form has no tracking states, so every joint's is `STATE_UNKNOWN`. Joints at exactly (0, 0, 0) are passed on as
    they are; it is the preparation that takes them for missing.
    """

    format = "ucla-json"
    topology = UCLA20

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """A clip is an ``aNN_sNN_eNN_vNN.json`` of a known action; a `.json` of another name is a stray."""
        clips, strays = [], []
        for file in files:
            path = PurePosixPath(file.path)
            if path.suffix.lower() != ".json":
                continue
            key = parse_ucla(path.stem)
            if key is None:
                strays.append(Stray(path.name, str(file), "name is not aNN_sNN_eNN_vNN of a known action"))
            else:
                clips.append(ClipSource(path.stem, key, (file,)))
        return clips, strays

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Turn one file's bytes into a clip with one body in every frame.

        Raises:
            RawFormatError: Not such a JSON object; names the key and the finding.
        """
        (blob,), (file,) = blobs, source.files
        content = _load_json(file, blob)
        for key, expected in (("file_name", source.name), ("label", source.key.label + 1)):
            if type(content[key]) is not type(expected) or content[key] != expected:
                raise RawFormatError(
                    key.replace("_", " "), f"{file}, {key}", excerpt(content[key]), repr(expected)
                )
        xyz = _json_positions(file, content["skeletons"])
        state = np.full(xyz.shape[:2], STATE_UNKNOWN, np.uint8)
        return _one_person(source, len(xyz), np.arange(len(xyz), dtype=np.int32), xyz, state)


class UclaTextReader:
    """Reads the text form: ``view_1/a01_s01_e00/frame_<index>_tc_<timestamp>_skeletons.txt``, 20 lines ``x,y,z,state``.

    What the distribution leaves open, and what is decided here:

    - *Order*: by frame number, then by timestamp; as names, frame 10 would come before frame 9.
    - *Numbers that are not there*: without a `fileList.txt` the files that exist are consecutive frames, since the numbers
      also skip where nothing was recorded. A number that `fileList.txt` does list was recorded, so where its skeleton
      file is absent, the frame is there without a body: closing that gap would speed the motion up.
    - *Empty file, no rows, fewer than 20 rows* (a last row cut short included): a frame without a body. The tracker had
      nothing or the writer was stopped; half a skeleton is none, and one lost frame need not cost the clip.
    - *Further lines after the rows*: a line without commas begins a second block, that is a second body. The dataset shows
      one person, so the first block is taken. A 21st row in the first block is an error: then these are not Kinect-v1
      joints.
    - *The first line* is an integer without known meaning; it must be there and is not looked at further.
    - Pictures and all other files are not the reader's.
    """

    format = "ucla-text"
    topology = UCLA20

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """A clip is a folder ``view_<n>/aNN_sNN_eNN`` with frame files in it; frame files elsewhere are strays."""
        folders: dict[tuple[str, str], list[FileRef]] = defaultdict(list)
        for file in files:
            path = PurePosixPath(file.path)
            if path.name == _FILE_LIST or path.name.endswith(_FRAME_LIKE):
                folders[str(file.archive or ""), str(path.parent)].append(file)
        clips: list[ClipSource] = []
        strays: list[Stray] = []
        for (_, folder), members in folders.items():
            name = _clip_name(PurePosixPath(folder))
            key = parse_ucla(name)
            frames = [file for file in members if _FRAME.fullmatch(PurePosixPath(file.path).name)]
            for file in members:
                unnumbered = file not in frames and PurePosixPath(file.path).name != _FILE_LIST
                if unnumbered or (key is None and file in frames):
                    why = (
                        "not frame_<index>_tc_<timestamp>_skeletons.txt"
                        if unnumbered
                        else "not in view_<n>/aNN_sNN_eNN"
                    )
                    strays.append(Stray(PurePosixPath(file.path).name, str(file), why))
            if key is not None and frames:
                lists = [file for file in members if PurePosixPath(file.path).name == _FILE_LIST]
                clips.append(ClipSource(name, key, (*sorted(frames, key=_frame_number), *lists)))
        return clips, strays

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Turn the frame files' bytes, and `fileList.txt`'s where there is one, into a clip.

        Raises:
            RawFormatError: A file is malformed, or none holds a body; names file, line and finding.
        """
        numbers: list[int] = []
        bodies: list[NDArray[np.float64] | None] = []
        listed: set[int] = set()
        for file, blob in zip(source.files, blobs, strict=True):
            if len(blob) > MAX_TEXT_BYTES:
                raise RawFormatError(
                    "too large", str(file), f"{len(blob)} bytes", f"at most {MAX_TEXT_BYTES}"
                )
            if PurePosixPath(file.path).name == _FILE_LIST:
                listed = _listed_frames(file, blob)
            else:
                numbers.append(_frame_number(file)[0])
                bodies.append(_body(file, blob))
        timeline = sorted(
            [(n, body) for n, body in zip(numbers, bodies, strict=True)], key=lambda frame: frame[0]
        )
        timeline = sorted(
            [*timeline, *((n, None) for n in listed - set(numbers))], key=lambda frame: frame[0]
        )
        seen = [(t, body) for t, (_, body) in enumerate(timeline) if body is not None]
        if not seen:
            raise no_body(source, len(timeline))
        rows = np.stack([body for _, body in seen])
        frame = np.array([t for t, _ in seen], np.int32)
        return _one_person(
            source, len(timeline), frame, rows[..., :3].astype(np.float32), rows[..., 3].astype(np.uint8)
        )


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
    """The object in a file, which has exactly the form's keys."""
    require_text(file, blob)
    if len(blob) > MAX_JSON_BYTES:
        raise RawFormatError("too large", str(file), f"{len(blob)} bytes", f"at most {MAX_JSON_BYTES}")
    try:
        content = json.loads(blob, parse_constant=_Constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        text = blob[error.pos : error.pos + 80]
        where = f"{file}, line {error.lineno}"
        if not text.strip():
            raise RawFormatError(
                "truncated", where, "the end of the file", "the rest of a JSON object"
            ) from None
        raise RawFormatError("not JSON", where, excerpt(text), error.msg) from None
    except RecursionError:
        raise RawFormatError("not JSON", str(file), "very many nested brackets", "at most four") from None
    if not isinstance(content, dict):
        raise RawFormatError("not an object", str(file), excerpt(content), f"an object of {', '.join(_KEYS)}")
    if sorted(content) != sorted(_KEYS):
        raise RawFormatError("keys", str(file), excerpt(sorted(content)), f"exactly {', '.join(_KEYS)}")
    return content


class _Constant(str):
    """NaN, Infinity or -Infinity, which JSON does not have but many writers write."""


def _integer(text: str) -> int | float:
    # int takes a time that grows with the square of the digits; a float64 is what the number ends as anyway.
    return int(text) if len(text) < 20 else float(text)


def _json_positions(file: FileRef, skeletons: object) -> NDArray[np.float32]:
    """float32 (T, 20, 3) of the key ``skeletons``."""
    if not isinstance(skeletons, list) or not skeletons:
        raise RawFormatError(
            "shape", f"{file}, skeletons", excerpt(skeletons), "a list of at least one frame"
        )
    for t, joints in enumerate(skeletons):
        if not isinstance(joints, list) or len(joints) != UCLA20.size:
            found = f"{len(joints)} joints" if isinstance(joints, list) else excerpt(joints)
            raise RawFormatError(
                "joint count", f"{file}, skeletons[{t}]", found, f"a list of {UCLA20.size} joints"
            )
        for j, joint in enumerate(joints):
            where = f"{file}, skeletons[{t}][{j}]"
            if not isinstance(joint, list) or len(joint) != 3:
                raise RawFormatError("shape", where, excerpt(joint), "a list [x, y, z]")
            for value in joint:
                if type(value) is not float and type(value) is not int:
                    reason = "not finite" if isinstance(value, _Constant) else "not a number"
                    raise RawFormatError(reason, where, excerpt(value), "a number")
    xyz = _to_float32(np.array(skeletons, np.float64))
    if not np.isfinite(xyz).all():
        t, j, c = (int(n) for n in np.argwhere(~np.isfinite(xyz))[0])
        raise RawFormatError(
            "not finite",
            f"{file}, skeletons[{t}][{j}]",
            excerpt(skeletons[t][j][c]),
            "a number that float32 holds",
        )
    return xyz


def _to_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _clip_name(folder: PurePosixPath) -> str:
    """The clip's name of a folder such as ``view_1/a01_s01_e00``; no clip's where it is not such a folder."""
    view = _VIEW.fullmatch(folder.parent.name)
    return f"{folder.name}_v{int(view[1]):02d}" if view else ""


def _frame_number(file: FileRef) -> tuple[int, int]:
    """(index, timestamp) of a frame file's name."""
    match = _FRAME.fullmatch(PurePosixPath(file.path).name)
    assert match is not None, "find keeps only such names"
    return int(match[1]), int(match[2])


def _listed_frames(file: FileRef, blob: bytes) -> set[int]:
    """The frame numbers of a `fileList.txt`: the first token of each line that is not blank."""
    listed = set()
    for line, text in enumerate(blob.decode("utf-8", "replace").splitlines(), 1):
        words = text.split(None, 1)
        if not words:
            continue
        if not re.fullmatch(r"\d{1,9}", words[0], re.ASCII):
            raise RawFormatError("file list", f"{file}, line {line}", excerpt(words[0]), "a frame's number")
        listed.add(int(words[0]))
    return listed


def _body(file: FileRef, blob: bytes) -> NDArray[np.float64] | None:
    """float64 (20, 4), x y z state, of a frame's first block; None where the frame shows no whole body."""
    if not blob.strip():
        return None
    require_text(file, blob)
    lines = blob.decode("ascii").splitlines()
    if not re.fullmatch(r"\s*\d+\s*", lines[0]):
        raise RawFormatError("header", f"{file}, line 1", excerpt(lines[0]), "a line with one integer")
    rows: list[list[float]] = []
    for line, text in enumerate(lines[1:], 2):
        if "," not in text:
            break
        fields = text.split(",")
        if len(fields) < 4 and line == len(lines) and not blob.endswith(b"\n"):
            break
        if len(rows) == UCLA20.size:
            raise RawFormatError(
                "joint count", f"{file}, line {line}", "one more row", f"{UCLA20.size} rows a body"
            )
        rows.append(_row(f"{file}, line {line}", fields))
    return np.array(rows) if len(rows) == UCLA20.size else None


def _row(where: str, fields: list[str]) -> list[float]:
    """x, y, z and state of one row's fields."""
    if len(fields) != 4:
        raise RawFormatError(
            "field count", where, f"{len(fields)} fields, {excerpt(','.join(fields))}", "4 fields x,y,z,state"
        )
    values = []
    for field in fields[:3]:
        value = number(field)
        if value is None or not np.isfinite(_to_float32(np.array(value))):
            reason = "not finite" if value is not None or is_not_finite(field) else "not a number"
            raise RawFormatError(reason, where, excerpt(field.strip()), "a number that float32 holds")
        values.append(value)
    if fields[3].strip() not in ("0", "1", "2"):
        raise RawFormatError("joint state", where, excerpt(fields[3].strip()), "0, 1 or 2")
    return [*values, float(fields[3])]
