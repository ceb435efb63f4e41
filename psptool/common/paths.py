"""Paths whose names are not valid UTF-8 as printable text, and sorting files by age.

Python represents each invalid byte as a lone surrogate (PEP 383). Text, JSON and HDF5 files cannot store these.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

MAX_JSON = 2**28
"""Largest JSON file, in bytes. Of the real ones a report on NTU 120 is the largest, with some 10 MB."""
_ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")


def shown(path: object) -> str:
    r"""``str(path)`` with every lone surrogate escaped as ``\udcXX``, where XX is the byte in the name."""
    text = str(path)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def recalled(text: str) -> Path:
    """The inverse of `shown`, for a path stored in one of psptool's files."""
    path = Path(text)
    if "\\udc" not in text or path.exists():
        return path
    return Path(_ESCAPED.sub(lambda byte: chr(0xDC00 + int(byte[1], 16)), text))


def read_text(path: Path, most: int) -> str:
    """The UTF-8 text of a file of up to ``most`` bytes.

    Raises:
        OSError: The file cannot be read, or is larger.
        UnicodeDecodeError: It is not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return data.decode("utf-8")


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """``paths`` by modification time, newest first, then by name. Files that no longer exist are left out."""
    changed: dict[Path, int] = {}
    for path in sorted(paths):
        with suppress(OSError):
            changed[path] = path.stat().st_mtime_ns
    return sorted(changed, key=lambda path: -changed[path])
