"""The scanners for NTU ``.skeleton`` text and for tables: from the bytes of a file to arrays, or to a problem and its
location.

The pass over the bytes is compiled (`psptool.formats.readers.kernel`); compilation takes some seconds, once per
machine. Every number of an NTU file is bit-identical to the result of `float` and a cast to float32: numbers that the
fast algorithm cannot convert exactly are converted by `float`. Numbers of a table are float64 with an error of up to
one unit in the last place.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.formats.readers import kernel
from psptool.formats.readers.text import LARGEST_FLOAT32

_FIELD = re.compile(rb"[^ \t\r\n]+")


class Scan(NamedTuple):
    """The content of a file, or its first problem; F frames, B bodies, V joints.

    Attributes:
        problem: `kernel.FINE`, or a problem code; the arrays are undefined then.
        stage: The kind of line with the problem.
        offset: Byte offset of that line, or of the field if a single field is invalid.
        frames: F.
        frame: int32 (B,), 0-based frame of each body, ascending.
        body: int64 (B,), body ids.
        xyz: float32 (B, V, 3), metres; finite or NaN.
        state: uint8 (B, V), tracking states.
    """

    problem: int
    stage: int
    offset: int
    frames: int
    frame: NDArray[np.int32]
    body: NDArray[np.int64]
    xyz: NDArray[np.float32]
    state: NDArray[np.uint8]


def scan(blob: bytes, joints: int) -> Scan:
    """Scan a complete ``.skeleton`` file of less than 2 GB.

    Memory is bounded by the size of the file, not by the counts in it.

    Args:
        blob: The bytes of the file.
        joints: V, the required number of joints of every body.
    """
    # A body has at least this many bytes: one character and one separator per field.
    shortest_body = 2 * (kernel.BODY_FIELDS + joints * kernel.JOINT_FIELDS)
    most = len(blob) // shortest_body + 1
    frame, body = np.empty(most, np.int32), np.empty(most, np.int64)
    xyz, state = np.empty(most * joints * 3, np.float32), np.empty(most * joints, np.uint8)
    data, offsets = np.frombuffer(blob, np.uint8), xyz.view(np.int32)
    problem, stage, offset, frames, bodies, hard = kernel.scan(data, joints, frame, body, xyz, offsets, state)
    if hard:
        problem, stage, offset = _convert_hard(blob, xyz[: bodies * joints * 3], state[: bodies * joints])
    return Scan(
        problem,
        stage,
        offset,
        frames,
        frame[:bodies],
        body[:bodies],
        xyz[: bodies * joints * 3].reshape(bodies, joints, 3),
        # Copied, because the clip keeps it, and a file fills only a fraction of the allocated array.
        state[: bodies * joints].reshape(bodies, joints).copy(),
    )


def _convert_hard(blob: bytes, xyz: NDArray[np.float32], state: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Convert the coordinates that the kernel marked as hard with `float`, in place: (problem, stage, offset)."""
    marks = state[:, None] & (kernel.HARD << np.arange(3, dtype=np.uint8))
    places = np.flatnonzero(marks)
    # The kernel stored the byte offset of a hard number in the place of its value.
    offsets = xyz.view(np.int32)[places].tolist()
    values = np.array([_float_at(blob, offset) for offset in offsets])
    infinite = np.flatnonzero(np.abs(values) > LARGEST_FLOAT32)
    if len(infinite):
        return kernel.INFINITE, kernel.JOINT_LINE, offsets[infinite[0]]
    xyz[places] = values.astype(np.float32)
    state &= kernel.HARD - 1
    return kernel.FINE, kernel.REST, 0


def _float_at(blob: bytes, offset: int) -> float:
    field = _FIELD.match(blob, offset)
    assert field is not None, "the kernel marks fields only"
    return float(field[0])


MOST_TEXTS = 1024
"""Maximum number of different texts in a column of a table, such as joint names."""
MISSING = frozenset((b"na", b"n/a", b"#n/a", b"null", b"none", b"nan", b"+nan", b"-nan", b"-"))
"""Fields that stand for a missing number, in lower case."""


class TableScan(NamedTuple):
    """The rows of a table, or its first problem; R rows.

    Attributes:
        problem: `kernel.FINE`, or a problem code; the arrays are undefined then.
        offset: Byte offset of the row, or of the field if a single field is invalid.
        values: float64 (R, used columns); NaN where a field is empty or stands for a missing number. In a column of
            text, the index of the text.
        texts: The different texts of each column of text, in order of appearance.
        rows: int64 (R,), byte offset of each row.
    """

    problem: int
    offset: int
    values: NDArray[np.float64]
    texts: tuple[tuple[bytes, ...], ...]
    rows: NDArray[np.int64]


def scan_table(
    blob: bytes, start: int, separator: str, columns: NDArray[np.int64], text_columns: int
) -> TableScan:
    """Scan the rows of a table from byte ``start`` on. Memory is bounded by the size of the file.

    Args:
        blob: The bytes of the file.
        start: First byte after the header.
        separator: Character between fields; a space stands for any number of spaces and tabs.
        columns: int64 (columns,), index of each column in the result; -1 for columns that are ignored.
        text_columns: Number of columns of text, which are the first ones of the result.
    """
    # A row has at least one byte for each of its fields.
    most = (len(blob) - start + 1) // max(1, len(columns)) + 1
    used = int(columns.max(initial=-1)) + 1
    lines = blob.count(b"\n", start) + 1
    most = min(most, lines)
    values, marks = np.empty((most, used)), np.zeros((most, used), np.uint8)
    texts, counts = np.empty((text_columns, MOST_TEXTS, 2), np.int64), np.zeros(text_columns, np.int64)
    rows = np.empty(most, np.int64)
    problem, offset, count, marked = kernel.scan_table(
        np.frombuffer(blob, np.uint8),
        start,
        np.uint8(ord(separator)),
        columns,
        texts,
        counts,
        values,
        marks,
        rows,
    )
    values = values[:count]
    if marked and problem == kernel.FINE:
        problem, offset = _convert_marked(blob, separator, values, marks[:count])
    known = tuple(
        tuple(blob[first:end] for first, end in places[:number].tolist())
        for places, number in zip(texts, counts.tolist(), strict=True)
    )
    return TableScan(problem, offset, values, known, rows[:count])


def _convert_marked(
    blob: bytes, separator: str, values: NDArray[np.float64], marks: NDArray[np.uint8]
) -> tuple[int, int]:
    """Convert the marked values with `float`, in place: (problem, offset)."""
    places = np.flatnonzero(marks)
    flat = values.reshape(-1)
    ends = re.compile(
        rb"[ \t\r\n]" if separator == " " else rb"[\r\n" + re.escape(separator.encode()) + rb"]"
    )
    for place, offset in zip(places.tolist(), flat[places].astype(np.int64).tolist(), strict=True):
        end = ends.search(blob, offset)
        field = blob[offset : end.start() if end else len(blob)].strip()
        if field.lower() in MISSING:
            flat[place] = np.nan
            continue
        try:
            value = float(field) if b"_" not in field else None
        except ValueError:
            value = None
        if value is None:
            return kernel.NUMBER, offset
        if abs(value) > LARGEST_FLOAT32:
            return kernel.INFINITE, offset
        flat[place] = value
    return kernel.FINE, 0
