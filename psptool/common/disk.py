"""Free disk space, checked before work whose result needs it."""

from __future__ import annotations

import shutil
from pathlib import Path

from psptool.common.errors import PspError


def check_disk(path: Path, needed: int | None) -> None:
    """Check that the disk has space for ``needed`` bytes at ``path``, in a folder that exists.

    Raises:
        PspError: There is not enough free space.
    """
    free = shutil.disk_usage(path.parent).free
    if needed is not None and needed > free:
        raise PspError(
            f"{path}: not enough free disk space",
            f"{_size(free)} free",
            f"about {_size(needed)}",
            "Free disk space, or choose another path with --out.",
        )


def _size(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
