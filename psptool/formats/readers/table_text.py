"""Reading the used values of a table from the text of a CSV, TSV or blank-separated file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.common.text import counted
from psptool.formats.readers.base import FileRef
from psptool.formats.readers.table_layout import Layout, Layouts
from psptool.formats.readers.text import MOST_SHOWN, excerpt, line_of, not_text, number_error
from psptool.schemas.formats import TableOptions

_QUOTE, _NEWLINE = ord('"'), ord("\n")
_TEXT = re.compile(rb"\S")
_UNIT = "\x1f"
"""Separator that replaces the file's in a file with quotes; it occurs in no text."""


@dataclass(frozen=True)
class Rows:
    """The used values of a file; R rows.

    Attributes:
        layout: What the values are.
        values: float64 (R, used values); in columns of text, the index of the text.
        texts: The different texts of each column of text.
        place: Function from a row to its place in the file, for messages.
    """

    layout: Layout
    values: NDArray[np.float64]
    texts: tuple[tuple[str, ...], ...]
    place: Callable[[int], str]


def read_text(file: FileRef, blob: bytes, options: TableOptions, layouts: Layouts) -> Rows:
    """The used values of a text file.

    Args:
        file: The file, for messages.
        blob: Its bytes, without a byte order mark.
        options: Separator, decimal point and header.
        layouts: Finds the layout.

    Raises:
        RawFormatError: The file is malformed. The message names the line.
    """
    # Imported here, because loading numba takes long and `find` does not need it.
    from psptool.formats.readers import kernel
    from psptool.formats.readers.scanner import scan_table

    _require_utf8(file, blob)
    if b"\n" not in blob:
        blob = blob.replace(b"\r", b"\n")  # lines that end with CR
    start = _after_lines(blob, options.skip_lines)
    first = _line_with_text(file, blob, start, options.skip_lines)
    first_line = blob[first : _line_end(blob, first)].decode("utf-8").strip("\r\n")
    separator: str = options.separator
    if separator == "auto":
        separator = separator_of(first_line, options.decimal)
    names = fields_of(file, first_line, separator)
    if options.header:
        start = _line_end(blob, first)
    # Without a header, the scanner starts before the line with text: rows of tabs are rows, as elsewhere in the file.
    if blob.find(b'"', start) >= 0:
        rows, separator = _without_quotes(blob[start:], separator)
        blob = blob[:start] + rows
    if options.decimal == ",":
        blob = blob.replace(b",", b".")
    layout = layouts.find(file, tuple(names), options.header)
    found = scan_table(blob, start, separator, layout.columns, layout.texts)

    def place(row: int) -> str:
        return line_of(file, blob, int(found.rows[row]))

    if found.problem != kernel.FINE:
        raise _explain(file, blob, separator, layout, found.problem, found.offset)
    texts = tuple(tuple(text.decode("utf-8") for text in column) for column in found.texts)
    return Rows(layout, found.values, texts, place)


def _explain(
    file: FileRef, blob: bytes, separator: str, layout: Layout, problem: int, offset: int
) -> RawFormatError:
    """The error for a problem of the scanner."""
    from psptool.formats.readers import kernel
    from psptool.formats.readers.scanner import MOST_TEXTS

    where = line_of(file, blob, offset)
    rest = blob[offset : min(_line_end(blob, offset), offset + MOST_SHOWN)].decode("utf-8", "replace")
    field = rest.split(None if separator == " " else separator, 1)[0]
    if problem == kernel.FIELDS:
        line = rest.strip("\r\n")
        number = len(line.split(None if separator == " " else separator))
        shown = line.replace(_UNIT, ",")
        expected = counted(len(layout.columns), "field")
        return RawFormatError("field count", where, f"{counted(number, 'field')}, {excerpt(shown)}", expected)
    if problem == kernel.TEXTS:
        expected = f"at most {MOST_TEXTS} different joints or persons"
        return RawFormatError("names", where, f"more, such as {excerpt(field)}", expected)
    return number_error(field, where)


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


def _after_lines(blob: bytes, count: int) -> int:
    """The first byte after ``count`` lines."""
    start = 0
    for _ in range(count):
        start = _line_end(blob, start)
    return start


def _line_with_text(file: FileRef, blob: bytes, start: int, skipped: int) -> int:
    """The first byte of the first line from ``start`` on that is not blank; ``skipped`` lines are before ``start``."""
    text = _TEXT.search(blob, start)
    if text is None:
        raise RawFormatError("truncated", str(file), f"no line after the first {skipped}", "a table")
    return blob.rfind(b"\n", 0, text.start()) + 1


def separator_of(line: str, decimal: str = ".") -> str:
    """The separator of a table, from its first line: a tab, a semicolon, a comma that is not the decimal sign, or a
    space for any number of blanks.
    """
    known = "\t;" if decimal == "," else "\t;,"
    return next((one for one in known if one in line), " ")


def fields_of(file: FileRef, line: str, separator: str) -> list[str]:
    """The fields of the first line, without quotes and surrounding blanks.

    Raises:
        RawFormatError: The line is malformed.
    """
    if separator == " ":
        return [field.strip('"') for field in line.split()]
    try:
        fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error as error:
        raise RawFormatError(
            "header", str(file), f"{excerpt(line)} ({error})", "the names of columns"
        ) from None
    return [field.strip() for field in fields]


def _without_quotes(rows: bytes, separator: str) -> tuple[bytes, str]:
    """The rows without quotes, and the separator that they have then. Line numbers stay the same."""
    data = np.frombuffer(rows, np.uint8)
    quote = data == _QUOTE
    inside = np.logical_xor.accumulate(quote)  # from an opening quote to the byte before the closing one
    hidden = (inside & ((data == ord(separator)) | (data == _NEWLINE))).any()
    doubled = (quote[:-1] & ~inside[:-1] & quote[1:]).any()  # a quote in a field is written twice
    if separator == " " or not (hidden or doubled or inside[-1]):
        return rows.replace(b'"', b""), separator
    lines: list[str] = []
    reader = csv.reader(
        io.StringIO(rows.decode("utf-8"), newline=""), delimiter=separator, skipinitialspace=True
    )
    try:
        for row in reader:
            lines.append(_UNIT.join(re.sub(r"[\r\n\x1f]", " ", field) for field in row))
            # A field with line ends takes several lines; blank ones keep the numbers of the following lines.
            lines += [""] * (reader.line_num - len(lines))
    except csv.Error:
        return rows, separator  # the scanner reports the field
    return "\n".join(lines).encode(), _UNIT
