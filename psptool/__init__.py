"""psptool: raw skeleton recordings to a trained and measured PSP model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psptool.data.store.reading import Store

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(path: str | os.PathLike[str]) -> Store:
    """Open a prepared dataset: clips as arrays (M, T, V, 3) with their metadata, by index or name.

    Example:
        >>> with psptool.open("data/ucla.h5") as store:      # doctest: +SKIP
        ...     clip = store.clip("a01_s01_e00_v01")
        ...     print(clip.joint.shape, clip.key.label)

    Raises:
        PspError: The file is absent, no HDF5 file, truncated, or not a psptool dataset of this version.
    """
    # Imported here, so that `import psptool` stays free of h5py and NumPy.
    from psptool.data.store.reading import open_store

    return open_store(path)
