"""Files by age, where other processes may remove them meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """``paths`` by time of change, newest first, then by name; those that have vanished are left out."""
    changed: dict[Path, int] = {}
    for path in sorted(paths):
        with suppress(OSError):
            changed[path] = path.stat().st_mtime_ns
    return sorted(changed, key=lambda path: -changed[path])
