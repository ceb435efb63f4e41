"""Functions shared by the readers: parsing numbers, excerpts for error messages, and checks of a file's text."""

from __future__ import annotations

import codecs
import math
import reprlib

from psptool.common.errors import RawFormatError
from psptool.common.text import counted
from psptool.formats.readers.base import ClipSource, FileRef

EXCERPT = 60
"""Maximum number of characters of a file in an error message."""
MOST_SHOWN = 4096
"""Bytes of a malformed line that are read for its error message; a line may be as long as the file."""
LARGEST_FLOAT32 = math.nextafter(2.0**128 - 2.0**103, 0)
"""The largest float64 that is finite after a cast to float32: it rounds down to the largest float32."""


def excerpt(found: object) -> str:
    """The representation of a value on one line, with at most `EXCERPT` characters."""
    if isinstance(found, bytes):
        found = found[: 2 * EXCERPT].strip().decode("utf-8", "backslashreplace")
    # reprlib for other values: the repr of a large or deeply nested list is large or fails.
    text = repr(found[: 2 * EXCERPT]) if isinstance(found, str) else reprlib.repr(found)
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def number(text: str, where: str) -> float:
    """The value of a decimal number in the range of float32, or NaN.

    Unlike `float`, refuses ``1_000`` and digits of other scripts.

    Raises:
        RawFormatError: ``not a number`` or ``not finite``.
    """
    value = _float(text)
    if value is None or abs(value) > LARGEST_FLOAT32:
        raise number_error(text, where)
    return value


def number_error(text: str, where: str) -> RawFormatError:
    """The error for a text that is not a number, or not in the range of float32, such as ``inf`` and ``1e39``."""
    reason = "not a number" if _float(text) is None else "not finite"
    return RawFormatError(
        reason, where, excerpt(text.strip()), "a number in the range of float32, or NaN for a missing joint"
    )


def _float(text: str) -> float | None:
    if "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def without_mark(blob: bytes) -> bytes:
    """The bytes without a leading UTF-8 byte order mark, which some programs write."""
    return blob.removeprefix(codecs.BOM_UTF8)


def same_text(one: bytes, other: bytes) -> bool:
    r"""Whether two files have the same text, ignoring ``\r\n`` versus ``\n`` and byte order marks."""
    return one == other or _normalized(one) == _normalized(other)


def _normalized(blob: bytes) -> bytes:
    return without_mark(blob).replace(b"\r\n", b"\n")


def require_text(file: FileRef, blob: bytes) -> None:
    """Check that a file is not empty and is ASCII text.

    Raises:
        RawFormatError: ``empty file`` or ``not text``.
    """
    if not blob or blob.isspace():
        raise RawFormatError("empty file", str(file), f"{len(blob)} bytes, none of them text", "a recording")
    if not blob.isascii():
        offset = len(blob.decode("ascii", "replace").split("\ufffd", 1)[0])
        raise not_text(file, blob, offset, "ASCII text")


def not_text(file: FileRef, blob: bytes, offset: int, expected: str) -> RawFormatError:
    """The error for a byte that does not belong to a text."""
    found = f"byte 0x{blob[offset]:02x} at offset {offset}"
    return RawFormatError("not text", line_of(file, blob, offset), found, expected)


def line_of(file: FileRef, blob: bytes, offset: int) -> str:
    """The file and the line (1-based) of a byte, for messages. Only errors need it: counting lines takes long."""
    number = blob.count(b"\n", 0, offset) + 1
    return f"{file}, line {number}"


def require_size(file: FileRef, blob: bytes, most: int) -> None:
    """Check that a file has at most ``most`` bytes.

    Raises:
        RawFormatError: ``too large``.
    """
    if len(blob) > most:
        raise RawFormatError("too large", str(file), f"{len(blob)} bytes", f"at most {most} bytes")


def no_body(source: ClipSource, frames: int) -> RawFormatError:
    """The error for a clip of ``frames`` frames without any body."""
    found = f"no body in {counted(frames, 'frame')}"
    return RawFormatError("no body", str(source.files[0]), found, "a body in at least one frame")
