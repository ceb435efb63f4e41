"""Paths: names that are not UTF-8 as text that can be printed and stored, and files by age.

Python turns each byte of such a name into a lone surrogate (PEP 383), which no text file, JSON or HDF5 file can hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")


def shown(path: object) -> str:
    r"""``str(path)`` with every lone surrogate as ``\udcXX``, where XX is the byte in the name."""
    text = str(path)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def recalled(text: str) -> Path:
    """The path that `shown` was given, for text that a file of psptool's holds."""
    path = Path(text)
    if "\\udc" not in text or path.exists():
        return path
    return Path(_ESCAPED.sub(lambda byte: chr(0xDC00 + int(byte[1], 16)), text))


@contextmanager
def readable_name(path: Path) -> Iterator[Path]:
    """A name of an existing file that is UTF-8, for libraries that take no other; ``path`` itself where it is.

    Raises:
        OSError: The file cannot be opened.
    """
    if shown(path) == str(path):
        yield path
        return
    # Names that are not UTF-8 are Linux's, which names open files here.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """``paths`` by time of change, newest first, then by name; those that have vanished are left out."""
    changed: dict[Path, int] = {}
    for path in sorted(paths):
        with suppress(OSError):
            changed[path] = path.stat().st_mtime_ns
    return sorted(changed, key=lambda path: -changed[path])
