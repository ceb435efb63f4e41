"""Paths whose names are not valid UTF-8 as printable text, bounded reading, and sorting files by age.

Python represents each invalid byte as a lone surrogate (PEP 383). Text, JSON and HDF5 files cannot store these.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

MAX_JSON = 2**28
"""Largest JSON file, in bytes. Of the real ones a report on NTU 120 is the largest, with some 10 MB."""
PIPE_WAIT = 10.0
"""Longest time without data from a pipe, in seconds."""
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
        OSError: As for `read_bytes`.
        UnicodeDecodeError: It is not UTF-8.
    """
    return read_bytes(path, most).decode("utf-8")


def read_bytes(path: Path, most: int) -> bytes:
    """The bytes of a file or pipe of up to ``most`` bytes.

    A pipe may be the output of another command, as in ``--config <(command)``.

    Raises:
        OSError: The file cannot be read, is larger, or is a pipe that has no data for `PIPE_WAIT` seconds.
    """
    # Without O_NONBLOCK, opening a pipe waits until another process opens it for writing.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        parts: list[bytes] = []
        left = most + 1
        while left:
            if not is_regular and not select.select([file], [], [], PIPE_WAIT)[0]:
                raise OSError(errno.ETIMEDOUT, f"a pipe without data for {PIPE_WAIT:g} s", str(path))
            part = file.read(min(left, 2**24))
            if part == b"":
                return b"".join(parts)
            if part is not None:  # None: another process read the data first.
                parts.append(part)
                left -= len(part)
    raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))


def regular_size(path: Path) -> int:
    """Size of a regular file in bytes. Checked before files whose size has no bound are read.

    Raises:
        OSError: There is no such file, or it is a folder, pipe or device, which could be read forever.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return status.st_size


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """``paths`` by modification time, newest first, then by name. Files that no longer exist are left out."""
    changed: dict[Path, int] = {}
    for path in sorted(paths):
        with suppress(OSError):
            changed[path] = path.stat().st_mtime_ns
    return sorted(changed, key=lambda path: -changed[path])
