"""Tables for any skeleton: CSV, TSV, text with blanks, and Parquet (with pyarrow), one file per recording.

- *Wide form*: a row is one person in one frame, with one column per coordinate.
- *Long form*: a row is one joint of one person in one frame.

Names of columns and joints are compared without upper and lower case, spaces and punctuation: ``Left Hip.x`` and
``left_hip_x`` are the same.

- *Missing*: a coordinate that is empty, NaN, NA, N/A, null, none or ``-``. A joint is missing without one of its
  coordinates, at exactly zero in all of them, or with a confidence that is not above ``options.min_confidence``.
- *Frame numbers* may begin anywhere. A number that does not occur is a frame without a body, unless ``options.max_gap``
  has it interpolated. Without such a column, the rows of the wide form are consecutive frames.
- *Repetitions*: of several rows for one frame and person (long form: and joint), the first is used, and the report says
  how many were ignored. If no frame has a single row and there is no column for the person, the file is refused:
  it probably has several persons.
- *Quotes*: fields may be quoted. Files must be UTF-8; a byte order mark is ignored.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError, RawFormatError, suggest
from psptool.common.text import counted
from psptool.data.skeletons.topology import Topology
from psptool.formats.readers.base import ClipSource, FileRef, RawClip, Stray
from psptool.formats.readers.detections import (
    Detections,
    drop_uncertain,
    joint_order,
    require_finite,
    to_clip,
)
from psptool.formats.readers.naming import KeyOf, find_named
from psptool.formats.readers.text import excerpt, no_body, not_text, number_error, without_mark
from psptool.schemas.formats import TableOptions

MAX_COLUMNS = 20_000
"""Maximum number of columns."""
MAX_CELLS = 2**25
"""Maximum number of joints times bodies of a recording in long form."""
MAX_FRAME = 2**53
"""Larger frame numbers are not exact in float64."""
MAX_LAYOUTS = 64
"""Maximum number of different headers whose layout is kept."""

_LETTERS = re.compile(r"[\W_]+")
_QUOTED = "\x1f"
"""Separator that replaces the file's in a file with quotes; it occurs in no text."""
_PARQUET = b"PAR1"


class _Layout(NamedTuple):
    """Where the values are that the reader uses.

    The used values of a row are: the joint and the person (text), the frame, the coordinates, the confidences.

    Attributes:
        columns: int64 (columns,), index of each of the file's columns among the used values; -1 if it is ignored.
        texts: Number of columns with text.
        frame: Whether there is a frame column.
        person: Whether there is a person column.
        confidence: Whether there are confidences.
        names: Names of the used columns, for messages.
    """

    columns: NDArray[np.int64]
    texts: int
    frame: bool
    person: bool
    confidence: bool
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Rows:
    """The used values of a file; R rows.

    Attributes:
        layout: What the values are.
        values: float64 (R, used values); in columns of text, the index of the text.
        texts: The different texts of each column of text.
        place: Function from a row to its place in the file, for messages.
    """

    layout: _Layout
    values: NDArray[np.float64]
    texts: tuple[tuple[str, ...], ...]
    place: Callable[[int], str]


class TableReader:
    """Reads tables of any skeleton; see `psptool.formats.readers.base.Reader`, and this module for the format.

    Args:
        topology: The skeleton, with V joints.
        options: Options of this format.
        key_of: Function from a clip's name to its key; None for any name.
        joints: The file's joints in order, by their names in the skeleton, None for one that it does not have; empty
            if they are the skeleton's joints. The order matters where joints have numbers, or columns no names.
    """

    def __init__(
        self,
        topology: Topology,
        options: TableOptions,
        key_of: KeyOf | None,
        joints: Sequence[str | None] = (),
    ) -> None:
        self.format = "table"
        self.topology, self.options, self.key_of = topology, options, key_of
        self._order, self._dimensions = joint_order(joints, topology).tolist(), topology.dimensions
        self._joints = tuple(joints) or topology.joints
        _require_joints(options.joint_names, topology)
        self._by_name = {_plain(self._name_in_file(joint)): v for v, joint in enumerate(topology.joints)}
        self._layouts: dict[tuple[str, ...] | int, _Layout] = {}

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """Clips are files with the suffixes of the options whose name is a clip name; others are strays."""
        return find_named(files, self.options, self.key_of)

    def compile(self) -> None:
        """Load the compiled scanner, or compile it."""
        from psptool.formats.readers.scanner import scan_table

        scan_table(b"1", 0, ",", np.zeros(1, np.int64), 0)

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the bytes of one file to a clip.

        Raises:
            RawFormatError: The file is malformed. The message names the line and, where possible, the column.
        """
        (blob,), (file,) = map(without_mark, blobs), source.files
        rows = self._parquet(file, blob) if blob.startswith(_PARQUET) else self._text(file, blob)
        if not len(rows.values):
            raise no_body(source, 0)
        number, person = self._frames(rows), self._persons(rows)
        first = rows.layout.texts + rows.layout.frame  # the first coordinate among the values
        if self.options.form == "wide":
            detections, notes = self._wide(file, rows, first, number, person)
        else:
            detections, notes = self._long(file, rows, first, number, person)
        where = f"{file}, column {rows.layout.names[first - 1]}" if rows.layout.frame else str(file)
        ends = int(number.min()), int(number.max())
        return to_clip(source, where, detections, self.options.max_gap, ends, notes)

    def _wide(
        self,
        file: FileRef,
        rows: _Rows,
        first: int,
        number: NDArray[np.int64],
        person: NDArray[np.int64] | None,
    ) -> tuple[Detections, tuple[str, ...]]:
        """One body per row."""
        joints, dimensions = self.topology.size, self._dimensions
        end = first + joints * dimensions
        positions = rows.values[:, first:end].reshape(-1, joints, dimensions)
        confidence = rows.values[:, end : end + joints] if rows.layout.confidence else None
        drop_uncertain(positions, confidence, self.options.min_confidence)
        ids = np.zeros(len(number), np.int64) if person is None else person
        if (np.diff(number) > 0).all():  # the usual case
            return Detections(number, ids, positions), ()
        order = np.lexsort((ids, number))  # stable: of equal rows, the first comes first
        number, ids, positions = number[order], ids[order], positions[order]
        new = np.ones(len(number), bool)
        new[1:] = (np.diff(number) != 0) | (np.diff(ids) != 0)
        notes = self._repetition(file, len(number) - int(new.sum()), number[new], number, person is not None)
        return Detections(number[new], ids[new], positions[new]), notes

    def _long(
        self,
        file: FileRef,
        rows: _Rows,
        first: int,
        number: NDArray[np.int64],
        person: NDArray[np.int64] | None,
    ) -> tuple[Detections, tuple[str, ...]]:
        """One joint per row; a joint without a row is missing."""
        of_text = self._joint_numbers(file, rows.texts[0])  # index in the skeleton, or -1
        joint = of_text[rows.values[:, 0].astype(np.int64)]  # (R,)
        used = joint >= 0
        ids = np.zeros(len(number), np.int64) if person is None else person
        coordinates = rows.values[:, first : first + self._dimensions]
        confidence = rows.values[:, first + self._dimensions] if rows.layout.confidence else None
        drop_uncertain(coordinates, confidence, self.options.min_confidence)
        if not used.all():
            number, ids, joint, coordinates = number[used], ids[used], joint[used], coordinates[used]
        if not len(number):
            return Detections(number, ids, np.empty((0, self.topology.size, self._dimensions))), ()
        if (np.diff(number) < 0).any() or (np.diff(ids) != 0).any():
            order = np.lexsort((ids, number))
            number, ids, joint, coordinates = number[order], ids[order], joint[order], coordinates[order]
        new = np.ones(len(number), bool)
        new[1:] = (np.diff(number) != 0) | (np.diff(ids) != 0)
        body = np.cumsum(new) - 1  # (R,), the body of each row
        bodies, joints = int(body[-1]) + 1, self.topology.size
        if bodies * joints > MAX_CELLS:
            found = f"{bodies} bodies of {joints} joints"
            raise RawFormatError("too large", str(file), found, f"at most {MAX_CELLS} joints in all")
        positions = np.full((bodies, joints, self._dimensions), np.nan)
        # Backwards, so that of several rows for one joint the first is written last.
        positions[body[::-1], joint[::-1]] = coordinates[::-1]
        there = np.zeros((bodies, joints), bool)
        there[body, joint] = True
        repeated = len(number) - int(there.sum())
        notes: tuple[str, ...] = ()
        if repeated:
            frames = np.unique(number)
            per_frame = number[np.unique(body * joints + joint, return_index=True)[1]]
            notes = (
                self._repetition(file, repeated, per_frame, number, person is not None) if len(frames) else ()
            )
        return Detections(number[new], ids[new], positions), notes

    def _repetition(
        self,
        file: FileRef,
        repeated: int,
        kept: NDArray[np.int64],
        every: NDArray[np.int64],
        has_person: bool,
    ) -> tuple[str, ...]:
        """The note on ``repeated`` rows that were ignored.

        Args:
            file: The file.
            repeated: Number of rows that repeat another one's frame and person (long form: and joint).
            kept: Frame numbers of the rows that are kept.
            every: Frame numbers of all rows.
            has_person: Whether there is a column of the person.

        Raises:
            RawFormatError: There is no column of the person, and every frame has repeated rows.
        """
        if not repeated:
            return ()
        what = "row" if self.options.form == "wide" else "row per joint"
        if not has_person and set(every.tolist()) == _repeated_frames(kept, every):
            found = f"every frame has more than one {what}"
            expected = "one person, or a column of the person's number (option `person`)"
            raise RawFormatError("several persons", str(file), found, expected)
        same = "frame and person" if self.options.form == "wide" else "frame, person and joint"
        return (f"{counted(repeated, 'row')} with the {same} of an earlier row, ignored",)

    def _frames(self, rows: _Rows) -> NDArray[np.int64]:
        """The frame number of each row, int64 (R,)."""
        if not rows.layout.frame:
            return np.arange(len(rows.values))
        column = rows.layout.texts
        values = rows.values[:, column]
        # NaN is not equal to itself. Compared in float64, because large numbers have no int64.
        wrong = ~((values == np.floor(values)) & (np.abs(values) < MAX_FRAME))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            where = f"{rows.place(row)}, column {rows.layout.names[column]}"
            found = "no number" if np.isnan(values[row]) else f"{values[row]:.12g}"
            raise RawFormatError("frame number", where, found, "an integer")
        return values.astype(np.int64)

    def _persons(self, rows: _Rows) -> NDArray[np.int64] | None:
        """The id of each row's person, int64 (R,): the number, or the order of appearance of persons with names."""
        if not rows.layout.person:
            return None
        texts = rows.texts[rows.layout.texts - 1]
        numbers = [_person_number(text) for text in texts]
        ids = list(range(len(texts))) if None in numbers else [n for n in numbers if n is not None]
        return np.array(ids, np.int64)[rows.values[:, rows.layout.texts - 1].astype(np.int64)]

    def _joint_numbers(self, file: FileRef, texts: Sequence[str]) -> NDArray[np.int64]:
        """For each text of the joint column, the joint's index in the skeleton; -1 for joints that are not in it.

        Raises:
            RawFormatError: No text is a joint of the skeleton, or a number is outside of the file's joints.
        """
        index = {joint: v for v, joint in enumerate(self.topology.joints)}
        first, found = self.options.first_number, []
        for text in texts:
            number = _person_number(text)
            if (named := self._by_name.get(_plain(text))) is not None:
                found.append(named)
            elif number is None:
                found.append(-1)
            elif first <= number < first + len(self._joints):
                found.append(index.get(self._joints[number - first] or "", -1))
            else:
                expected = f"{first} to {first + len(self._joints) - 1}, or names"
                raise RawFormatError("joint number", f"{file}, column {self.options.joint}", text, expected)
        if max(found, default=-1) < 0:
            listed = ", ".join(map(excerpt, texts[:5]))
            example = self._name_in_file(self.topology.joints[0])
            expected = f"joints of the skeleton {self.topology.name}, such as {example!r}"
            raise RawFormatError("joint names", f"{file}, column {self.options.joint}", listed, expected)
        return np.array(found, np.int64)

    def _name_in_file(self, joint: str) -> str:
        return self.options.joint_names.get(joint, joint)

    def _text(self, file: FileRef, blob: bytes) -> _Rows:
        """The used values of a text file."""
        # Imported here, because loading numba takes long and `find` does not need it.
        from psptool.formats.readers import kernel
        from psptool.formats.readers.scanner import scan_table

        _require_utf8(file, blob)
        start = _after_lines(file, blob, self.options.skip_lines)
        first_line = blob[start : _line_end(blob, start)].decode("utf-8").strip("\r\n")
        separator: str = self.options.separator
        if separator == "auto":
            known = "\t;" if self.options.decimal == "," else "\t;,"
            separator = next((one for one in known if one in first_line), " ")
        names = _fields(file, first_line, separator)
        if self.options.header:
            start = _line_end(blob, start)
        if b'"' in blob[start:]:
            blob = blob[:start] + _unquoted(blob[start:].decode("utf-8"), separator)
            separator = " " if separator == " " else _QUOTED
        if self.options.decimal == ",":
            blob = blob.replace(b",", b".")
        layout = self._layout(file, tuple(names), self.options.header)
        found = scan_table(blob, start, separator, layout.columns, layout.texts)

        def place(row: int) -> str:
            return _line(file, blob, int(found.rows[row]))

        if found.problem != kernel.FINE:
            raise self._explain(file, blob, separator, layout, found.problem, found.offset)
        texts = tuple(tuple(text.decode("utf-8") for text in column) for column in found.texts)
        return _Rows(layout, found.values, texts, place)

    def _explain(
        self, file: FileRef, blob: bytes, separator: str, layout: _Layout, problem: int, offset: int
    ) -> RawFormatError:
        """The error for a problem of the scanner."""
        from psptool.formats.readers import kernel
        from psptool.formats.readers.scanner import MOST_TEXTS

        where = _line(file, blob, offset)
        rest = blob[offset : min(_line_end(blob, offset), offset + 4096)].decode("utf-8", "replace")
        field = rest.split(None if separator == " " else separator, 1)[0]
        if problem == kernel.FIELDS:
            line = rest.strip("\r\n")
            number = len(line.split(None if separator == " " else separator))
            shown = line.replace(_QUOTED, self.options.separator if self.options.separator != "auto" else ",")
            expected = counted(len(layout.columns), "field")
            return RawFormatError(
                "field count", where, f"{counted(number, 'field')}, {excerpt(shown)}", expected
            )
        if problem == kernel.TEXTS:
            expected = f"at most {MOST_TEXTS} different joints or persons"
            return RawFormatError("names", where, f"more, such as {excerpt(field)}", expected)
        return number_error(field, where)

    def _layout(self, file: FileRef, names: tuple[str, ...], header: bool) -> _Layout:
        """The layout of files with this first line, which is the same for most files.

        Args:
            file: The file, for messages.
            names: The fields of the first line.
            header: Whether they are the names of the columns.
        """
        key = names if header else len(names)
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._new_layout(file, names, header)
            if len(self._layouts) < MAX_LAYOUTS:
                self._layouts[key] = layout
        return layout

    def _new_layout(self, file: FileRef, names: tuple[str, ...], header: bool) -> _Layout:
        options, where = self.options, f"{file}, header" if header else str(file)
        if len(names) > MAX_COLUMNS:
            raise RawFormatError("columns", where, f"{len(names)} columns", f"at most {MAX_COLUMNS}")
        known = _Columns(where, names if header else self._implied(where, names))
        used: list[int] = []
        if options.form == "long":
            used.append(known.required(options.joint, "joint"))
        person = known.optional(options.person, "person")
        used += [] if person is None else [person]
        texts = len(used)
        frame = known.optional(options.frame, "frame")
        if frame is None and (options.form == "long" or person is not None):
            known.required(options.frame or "frame", "frame")
        used += [] if frame is None else [frame]
        axes = options.axes[: self._dimensions]
        if len(axes) < self._dimensions:
            expected = f"{self._dimensions} names, because the skeleton has {self._dimensions} dimensions"
            raise RawFormatError("axes", where, ", ".join(axes), expected)
        if options.form == "long":
            used += [known.required(axis, "axes") for axis in axes]
            confidence = known.optional(options.confidence, "confidence")
            confidences = [] if confidence is None else [confidence]
        else:
            joints = list(zip(self._order, self.topology.joints, strict=True))
            used += [
                known.required(self._column(number, joint, axis), "coordinate_columns")
                for number, joint in joints
                for axis in axes
            ]
            axis = options.confidence or "confidence"
            columns = [self._column(number, joint, axis) for number, joint in joints]
            wanted = options.confidence is not None or known.has(columns[0])
            confidences = [known.required(column, "confidence") for column in columns] if wanted else []
        used += confidences
        if len(set(used)) < len(used):
            twice = next(column for column in used if used.count(column) > 1)
            found = f"column {known.names[twice]!r} for two things"
            raise RawFormatError("columns", where, found, "different columns")
        slots = np.full(len(known.names), -1, np.int64)
        slots[used] = np.arange(len(used))
        listed = tuple(known.names[column] for column in used)
        return _Layout(slots, texts, frame is not None, person is not None, bool(confidences), listed)

    def _implied(self, where: str, first_row: Sequence[str]) -> tuple[str, ...]:
        """The names of the columns of a file without a header."""
        options, count = self.options, len(first_row)
        if options.form == "long":
            return options.columns + ("",) * (count - len(options.columns))
        axes = options.axes[: self._dimensions]
        more = count - len(options.columns) - len(self._joints) * len(axes)
        if more >= len(self._joints) or options.confidence is not None:
            axes = (*axes, options.confidence or "confidence")
        coordinates = tuple(
            "" if joint is None else self._column(number, joint, axis)
            for number, joint in enumerate(self._joints)
            for axis in axes
        )
        names = options.columns + coordinates
        # After a separator at the end of the line, there is an empty field.
        used = first_row[:-1] if count == len(names) + 1 and not first_row[-1] else first_row
        if len(used) != len(names):
            first = f"{', '.join(options.columns)}, then " if options.columns else ""
            expected = f"{len(names)}: {first}{counted(len(self._joints), 'joint')} of {', '.join(axes)}"
            raise RawFormatError(
                "field count", f"{where}, line {self.options.skip_lines + 1}", str(count), expected
            )
        return names

    def _column(self, number: int, joint: str, axis: str) -> str:
        """The name of a coordinate's column."""
        return self.options.coordinate_columns.format(
            joint=self._name_in_file(joint), number=number + self.options.first_number, axis=axis
        )

    def _parquet(self, file: FileRef, blob: bytes) -> _Rows:
        """The used values of a Parquet file, which has a header always."""
        from psptool.formats.readers.parquet import read_parquet

        names, read = read_parquet(file, blob)
        layout = self._layout(file, names, True)
        # The used columns in the order of their values.
        columns = np.argsort(layout.columns, kind="stable")[int((layout.columns < 0).sum()) :]
        values, texts = read(columns.tolist(), layout.texts)
        require_finite(values, str(file))
        return _Rows(layout, values, texts, lambda row: f"{file}, row {row + 1}")


class _Columns:
    """The columns of a file by name.

    Args:
        where: The file and its header, for messages.
        names: The names in order.
    """

    def __init__(self, where: str, names: Sequence[str]) -> None:
        self.where, self.names = where, tuple(names)
        self._exact, self._plain = _places(self.names), _places([_plain(name) for name in self.names])

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self._exact or _plain(name) in self._plain

    def required(self, name: str, option: str) -> int:
        """Index of the column ``name``, which the option ``option`` names.

        Raises:
            RawFormatError: There is no such column, or more than one.
        """
        found = self._exact.get(name) or self._plain.get(_plain(name), [])
        if len(found) == 1:
            return found[0]
        expected = f"a column {name!r} (option `{option}`)"
        if found:
            raise RawFormatError("columns", self.where, f"{len(found)} columns {name!r}", expected)
        listed = ", ".join(map(repr, self.names[:4])) + (", …" if len(self.names) > 4 else "")
        hint = suggest(name, self.names)
        more = f"; {hint[0].lower()}{hint[1:]}" if hint else ""
        raise RawFormatError("columns", self.where, f"{_short(listed)}", f"{expected}{more}")

    def optional(self, name: str | None, default: str) -> int | None:
        """Index of the column ``name``; without a name, that of the column ``default`` if there is one."""
        if name is None and not self.has(default):
            return None
        return self.required(name or default, default)


def _require_joints(names: Iterable[str], topology: Topology) -> None:
    """Raises PspError for a name of no joint."""
    for name in names:
        if name not in topology.joints:
            raise PspError(
                f"joint_names: no joint of the skeleton {topology.name}",
                repr(name),
                fix=suggest(name, topology.joints) or "Write the skeleton's name first, then the file's.",
            )


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return found


@lru_cache(4096)
def _plain(name: str) -> str:
    """A name without upper and lower case, spaces and punctuation."""
    return _LETTERS.sub("", name).casefold()


@lru_cache(4096)
def _person_number(text: str) -> int | None:
    """The integer that a text is, such as ``3`` or ``3.0``; otherwise None."""
    match = re.fullmatch(r"([+-]?\d{1,18})(\.0*)?", text.strip(), re.ASCII)
    return int(match[1]) if match else None


def _repeated_frames(kept: NDArray[np.int64], every: NDArray[np.int64]) -> set[int]:
    """The frames that have more rows than are kept."""
    frames, counts = np.unique(every, return_counts=True)
    kept_frames, kept_counts = np.unique(kept, return_counts=True)
    return set(frames[counts > kept_counts[np.searchsorted(kept_frames, frames)]].tolist())


def _require_utf8(file: FileRef, blob: bytes) -> None:
    if not blob or blob.isspace():
        raise RawFormatError("empty file", str(file), f"{len(blob)} bytes, none of them text", "a table")
    if blob.isascii() and b"\0" not in blob:
        return
    try:
        blob.decode("utf-8")
        offset = blob.find(b"\0")
    except UnicodeDecodeError as error:
        offset = error.start
    if offset >= 0:
        raise not_text(file, blob, offset, "UTF-8 text")


def _line_end(blob: bytes, start: int) -> int:
    """The first byte after the line in which the byte ``start`` is."""
    return blob.find(b"\n", start) + 1 or len(blob)


def _after_lines(file: FileRef, blob: bytes, count: int) -> int:
    """The first byte after ``count`` lines and after blank lines."""
    start = 0
    for _ in range(count):
        start = _line_end(blob, start)
    while start < len(blob) and blob[start : _line_end(blob, start)].isspace():
        start = _line_end(blob, start)
    if start >= len(blob):
        raise RawFormatError("truncated", str(file), f"no line after the first {count}", "a table")
    return start


def _line(file: FileRef, blob: bytes, offset: int) -> str:
    number = blob.count(b"\n", 0, offset) + 1
    return f"{file}, line {number}"


def _fields(file: FileRef, line: str, separator: str) -> list[str]:
    """The fields of the first line."""
    if separator == " ":
        return [field.strip('"') for field in line.split()]
    try:
        fields = next(csv.reader([line], delimiter=separator), [])
    except csv.Error as error:
        raise RawFormatError(
            "header", str(file), f"{excerpt(line)} ({error})", "the names of columns"
        ) from None
    return [field.strip() for field in fields]


def _unquoted(text: str, separator: str) -> bytes:
    """The rows of a text without quotes, with `_QUOTED` between the fields. Line numbers stay the same."""
    if separator == " ":
        return text.replace('"', "").encode()
    lines = []
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        for row in rows:
            fields = (re.sub(r"[\r\n\x1f]", " ", field) for field in row)
            lines.append(_QUOTED.join(fields))
            # A field with line ends takes several lines; blank ones keep the numbers of the following lines.
            lines += [""] * (rows.line_num - len(lines))
    except csv.Error:
        return text.encode()  # the scanner reports the field
    return "\n".join(lines).encode()
