"""The clip table of a dataset: a CSV file with one row per clip, for clips whose names do not hold their labels and for
clips that are segments of long recordings.

The first line has the names of the columns:

- ``source``: the recording's file, by its name with or without suffix, optionally with folders. Default: ``clip``.
- ``clip``: the clip's name. Default: the source's name and the frames, joined by ``_``.
- ``first`` and ``last``: the first and the last frame of a segment, included, in the recording's own frame numbers.
  Without these columns a clip is a whole recording.
- all other columns, such as ``class``, ``label`` and ``subject``: fields of the clip, for the function ``key_of_row``.

A range without numbers (empty or ``NaN``), one that ends before it begins, and one of which more than half is outside
of the recording exclude this clip, with the table's line in the report. A malformed table is an error that lists all
wrong lines.
"""

from __future__ import annotations

import csv
import io
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from psptool.common.errors import PspError, RawFormatError, cannot_read, suggest
from psptool.common.paths import read_text, shown
from psptool.common.text import counted
from psptool.data.skeletons.datasets import ClipKey
from psptool.formats.readers.base import ClipSource, FileRef, RawClip, Reader, Segment, Stray
from psptool.formats.readers.text import excerpt

MAX_TABLE = 64 * 2**20
"""Maximum size of a clip table in bytes."""
MOST_LISTED = 10
"""Maximum number of wrong lines in an error message."""
KEPT_BYTES = 64 * 2**20
"""Maximum size of the recordings whose parsed content is kept for their other segments, in bytes of their files."""

NOT_LISTED = "the clip table has no row for this recording"
NOT_FOUND = "no recording for this row of the clip table"

_COLUMNS = ("clip", "source", "first", "last")
_NONE = frozenset(("", "nan", "na", "n/a", "none", "null", "-"))
_FRAME = re.compile(r"([+-]?\d{1,15})(?:\.0*)?", re.ASCII)

KeyOfRow = Callable[[Mapping[str, str]], ClipKey]
"""A function from a clip's fields to its key. Raises ValueError with a message for a wrong field."""


class ClipRow(NamedTuple):
    """One row of a clip table.

    Attributes:
        name: The clip's name.
        key: Label and other numbers.
        source: The recording's name as in the table, with slashes between folders.
        segment: The part of the recording; None for the whole recording.
        where: The table and the line in it, for messages.
    """

    name: str
    key: ClipKey
    source: str
    segment: Segment | None
    where: str


def load_clip_table(path: Path, key_of_row: KeyOfRow, separator: str = ",") -> tuple[ClipRow, ...]:
    """Read a clip table.

    Args:
        path: The file, UTF-8.
        key_of_row: Function from the fields of a row to the clip's key.
        separator: Character between the fields.

    Raises:
        PspError: The file cannot be read, lacks a column, or has wrong rows, which are listed.
    """
    try:
        text = read_text(path, MAX_TABLE).removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_read(path, error) from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        lines = [(reader.line_num, [field.strip() for field in row]) for row in reader]
    except csv.Error as error:
        raise PspError(
            f"{shown(path)}, line {reader.line_num + 1}: not a table ({error})", fix="Fix the line."
        ) from error
    lines = [(number, row) for number, row in lines if any(row)]
    header = [name.casefold() for name in lines[0][1]] if lines else []
    _check_header(path, header)
    rows, faults = [], []
    names: dict[str, int] = {}
    for number, row in lines[1:]:
        try:
            found = _row(f"{shown(path)}, line {number}", header, row, key_of_row)
            if found.name in names:
                raise ValueError(f"the clip name {found.name!r} is also in line {names[found.name]}")
        except ValueError as error:
            faults.append(f"line {number}: {error}")
            continue
        names[found.name] = number
        rows.append(found)
    if faults:
        more = f"; and {len(faults) - MOST_LISTED} more" if len(faults) > MOST_LISTED else ""
        raise PspError(
            f"{shown(path)}: {counted(len(faults), 'wrong row')}: {'; '.join(faults[:MOST_LISTED])}{more}",
            fix="Fix these lines.",
        )
    if not rows:
        raise PspError(f"{shown(path)}: no clip", "no row after the header", "one row per clip")
    return tuple(rows)


def _check_header(path: Path, header: Sequence[str]) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise PspError(f"{shown(path)}, header: columns", f"{', '.join(twice)} twice", "different columns")
    listed = ", ".join(header) or "nothing"
    if "clip" not in header and "source" not in header:
        hint = suggest("source", header) or suggest("clip", header) or "Add the column."
        raise PspError(f"{shown(path)}, header: columns", excerpt(listed), "`clip` or `source`", hint)
    if ("first" in header) != ("last" in header):
        raise PspError(
            f"{shown(path)}, header: columns",
            excerpt(listed),
            "`first` and `last`, or neither",
            "Add the column.",
        )


def _row(where: str, header: Sequence[str], row: Sequence[str], key_of_row: KeyOfRow) -> ClipRow:
    """Raises ValueError for a wrong row."""
    if len(row) < len(header) or any(row[len(header) :]):
        raise ValueError(f"{counted(len(row), 'field')}, expected {len(header)}")
    values = dict(zip(header, row, strict=False))
    source = (values.get("source") or values.get("clip", "")).replace("\\", "/").strip("/")
    if not source:
        raise ValueError("no source, expected the name of a recording")
    segment = None
    if "first" in values:
        segment = Segment(_frame("first", values["first"]), _frame("last", values["last"]), where)
    name = values.get("clip") or _named(source, segment)
    if not name.isprintable():
        raise ValueError(f"clip name {name!r}, expected printable characters")
    fields = {column: value for column, value in values.items() if column and column not in _COLUMNS}
    return ClipRow(name, key_of_row(fields), source, segment, where)


def _named(source: str, segment: Segment | None) -> str:
    """The default name of a clip."""
    stem = source.rpartition("/")[2]
    if segment is None:
        return stem
    return "_".join((stem, *_texts(segment.first, segment.last)))


def _texts(*frames: int | None) -> tuple[str, ...]:
    return tuple("NaN" if frame is None else str(frame) for frame in frames)


def _frame(column: str, text: str) -> int | None:
    if text.casefold() in _NONE:
        return None
    match = _FRAME.fullmatch(text)
    if match is None:
        raise ValueError(f"{column} {text!r}, expected a frame number, or NaN")
    return int(match[1])


def key_from_fields(fields: Mapping[str, str], class_names: Sequence[str], first_label: int = 0) -> ClipKey:
    """The key of a clip from the fields ``class`` or ``label``, ``subject``, ``camera``, ``setup`` and ``repetition``.

    Args:
        fields: Texts by the fields' names, from a row of a clip table or the groups of a pattern. Others are ignored.
        class_names: Class names, indexed by label.
        first_label: Number of the first class in the field ``label``.

    Raises:
        ValueError: There is no such class, or a field is not an integer.
    """
    name, label = fields.get("class"), fields.get("label")
    if name is not None:
        if name not in class_names:
            hint = suggest(name, class_names)
            raise ValueError(
                f"class {name!r}, which the description does not have. {hint or ''}".rstrip(" .")
            )
        number = class_names.index(name)
    elif label is not None:
        number = _whole("label", label) - first_label
        if not 0 <= number < len(class_names):
            last = first_label + len(class_names) - 1
            raise ValueError(f"label {label}, expected {first_label} to {last}")
    else:
        raise ValueError("no field `class` or `label`")
    others = {field: _whole(field, fields[field]) for field in ClipKey._fields[1:] if fields.get(field)}
    return ClipKey(number, **others)


def _whole(field: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError(f"{field} {text!r}, expected an integer")
    return int(text)


class SegmentReader:
    """A reader of the clips of a clip table; another reader finds and parses the recordings.

    Args:
        recordings: Reader of the recordings; it must find them by any name.
        rows: The rows of the clip table.
    """

    def __init__(self, recordings: Reader, rows: Sequence[ClipRow]) -> None:
        self.format, self.topology = recordings.format, recordings.topology
        self.recordings, self.rows = recordings, tuple(rows)
        self._by_name: dict[str, list[ClipRow]] = {}
        for row in self.rows:
            self._by_name.setdefault(row.source.rpartition("/")[2], []).append(row)
        self._parsed: OrderedDict[tuple[object, ...], tuple[list[bytes], RawClip]] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        """Without the parsed recordings, which are not sent to other processes, and the rows, which `parse` does not
        need.
        """
        return {**self.__dict__, "_parsed": OrderedDict(), "rows": (), "_by_name": {}}

    def load(self) -> None:
        """Load or compile the functions of the other reader."""
        self.recordings.load()

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """The clips of all rows with a recording among ``files``; recordings without a row are strays."""
        recordings, strays = self.recordings.find(files)
        clips = []
        for recording in recordings:
            rows = self._rows_of(recording)
            clips += [ClipSource(row.name, row.key, recording.files, row.segment) for row in rows]
            if not rows:
                file = recording.files[0]
                strays.append(Stray(shown(file.name), str(file), NOT_LISTED))
        return clips, strays

    def _rows_of(self, recording: ClipSource) -> list[ClipRow]:
        """The rows whose source is this recording: its name with or without suffix, and the folders that are given."""
        place = recording.files[0].place
        names = {shown(place.name), recording.name}
        above = tuple(map(shown, place.parts[:-1]))
        found = []
        for row in (row for name in sorted(names) for row in self._by_name.get(name, ())):
            folders = tuple(row.source.split("/")[:-1])
            if not folders or above[-len(folders) :] == folders:
                found.append(row)
        return found

    def without_recording(self, clips: Sequence[ClipSource]) -> list[Stray]:
        """The rows of the clip table that none of the ``clips`` is from."""
        found = {clip.name for clip in clips}
        return [Stray(row.name, row.where, NOT_FOUND) for row in self.rows if row.name not in found]

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the recording, and cut the segment out of it.

        Raises:
            RawFormatError: The recording is malformed; the range is wrong, or there is no body in it.
        """
        recording = self._recording(source, blobs)
        return recording if source.segment is None else cut(recording, source, source.segment)

    def _recording(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """The parsed recording, from the latest ones if possible: each is parsed once for several segments."""
        key = tuple((file.path, file.archive, file.size, file.changed) for file in source.files)
        kept = self._parsed.pop(key, None)
        # Compared, because a file may have been changed since.
        clip = kept[1] if kept is not None and kept[0] == blobs else None
        if clip is None:
            clip = self.recordings.parse(source._replace(segment=None), blobs)
        self._parsed[key] = (blobs, clip)
        while sum(len(blob) for held, _ in self._parsed.values() for blob in held) > KEPT_BYTES:
            self._parsed.popitem(last=False)
        return RawClip(
            source.name,
            source.key,
            clip.frames,
            clip.frame,
            clip.body,
            clip.xyz,
            clip.state,
            clip.start,
            clip.notes,
        )


def cut(recording: RawClip, source: ClipSource, segment: Segment) -> RawClip:
    """A segment of a recording. Frames of the segment outside of the recording have no body.

    Raises:
        RawFormatError: ``frame range`` if it has no numbers, ends before it begins, or more than half of it is outside
            of the recording; ``no body`` if there is none in it.
    """
    first, last, where = segment
    if first is None or last is None or last < first:
        found = " to ".join(_texts(first, last))
        raise RawFormatError("frame range", where, found, "the first and the last frame of the clip")
    end = recording.start + recording.frames - 1
    inside = min(last, end) - max(first, recording.start) + 1
    frames = last - first + 1
    if 2 * inside < frames:
        expected = f"frames of {source.files[0]}, {recording.start} to {end}"
        raise RawFormatError("frame range", where, f"{first} to {last}", expected)
    low, high = np.searchsorted(recording.frame, (first - recording.start, last - recording.start + 1))
    if low == high:
        found = f"no body in the frames {first} to {last} of {source.files[0]}"
        raise RawFormatError("no body", where, found, "a body in at least one frame")
    notes = recording.notes
    if inside < frames:
        outside = counted(frames - inside, "frame")
        notes = (*notes, f"{outside} of the range {first} to {last} outside of the recording, without a body")
    return RawClip(
        source.name,
        source.key,
        frames,
        recording.frame[low:high] - np.int32(first - recording.start),
        recording.body[low:high],
        recording.xyz[low:high],
        recording.state[low:high],
        first,
        notes,
    )
