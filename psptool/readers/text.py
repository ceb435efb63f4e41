"""What the readers share: showing what stood in a file, and the checks that every text format needs."""

from __future__ import annotations

import math

from psptool.errors import RawFormatError
from psptool.readers.base import ClipSource, FileRef

EXCERPT = 60
"""Characters of a file that an error shows at most."""


def excerpt(found: object) -> str:
    """What stood somewhere, quoted, on one line and cut to `EXCERPT` characters."""
    if isinstance(found, bytes):
        found = found[: 2 * EXCERPT].strip().decode("utf-8", "backslashreplace")
    text = repr(found[: 2 * EXCERPT] if isinstance(found, str) else found)
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def require_text(file: FileRef, blob: bytes) -> None:
    """Refuse an empty file and one that is not plain text.

    Raises:
        RawFormatError: ``empty file`` or ``not text``.
    """
    if not blob.strip():
        raise RawFormatError("empty file", str(file), f"{len(blob)} bytes, none of them text", "a recording")
    if not blob.isascii():
        offset = next(k for k, byte in enumerate(blob) if byte > 127)
        line = blob.count(b"\n", 0, offset) + 1
        raise RawFormatError(
            "not text", f"{file}, line {line}", f"byte 0x{blob[offset]:02x} at offset {offset}", "ASCII text"
        )


def number(text: str) -> float | None:
    """The value of a decimal number as `float` has it; None for what is no number or not finite.

    `float` also takes ``1_000`` and digits of other scripts, which no writer of numbers means: those are None.
    """
    if "_" in text or not text.isascii():
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_not_finite(text: str) -> bool:
    """Whether the text is a number in form, but infinite or none, such as ``nan``, ``-inf`` and ``1e999``."""
    if "_" in text or not text.isascii():
        return False
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return False


def no_body(source: ClipSource, frames: int) -> RawFormatError:
    """The error for a clip in which nobody is seen."""
    return RawFormatError(
        "no body", str(source.files[0]), f"no body in any of {frames} frames", "a body in one frame"
    )
