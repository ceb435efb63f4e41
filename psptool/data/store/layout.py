"""The arrays of the HDF5 file, version 2: paths, dtypes and shapes, for the writer, the reader and the validator.

Array shapes: R rows (one row per person and frame: clip by clip, person by person, frame by frame), V joints, n clips.
"""

from __future__ import annotations

import math
from typing import Literal

FORMAT_VERSION = 2
"""Version of the manifest; version 1, which differs only in the manifest, is still read."""
MANIFEST = "manifest"
"""The HDF5 attribute with the dataset's manifest as JSON."""
MANIFEST_DIGEST = "manifest_sha256"
"""The HDF5 attribute with the SHA-256 of the manifest's text; absent in files of earlier versions."""

ROW_ARRAYS: dict[str, tuple[str, tuple[int | Literal["V"], ...]]] = {
    "joint": ("<f4", ("V", 3)),
    "motion": ("<f4", ("V", 3)),
    "present": ("?", ()),
    "state": ("u1", ("V",)),
}
"""Dtype and shape of one row of each array of length R."""

KEY_COLUMNS = ("label", "subject", "camera", "setup", "repetition")
TABLE_COLUMNS = (*KEY_COLUMNS, "frames", "persons", "first_row")
"""The int64 arrays of length n in the group ``/clips``."""

NORMALIZATION: dict[str, tuple[int, ...]] = {"origin": (3,), "scale": (), "rotation": (3, 3)}
"""The float64 arrays of length n in the group ``/clips``, with the shape of one clip's entry."""

# One chunk of 2048 rows of 25 joints (614 kB) fits into HDF5's chunk cache of 1 MB.
CHUNK_ROWS = 2048
CHUNK_CLIPS = 1024


def row_shape(array: str, joints: int) -> tuple[int, ...]:
    """The shape of one row of ``array`` for V = ``joints``."""
    return tuple(joints if size == "V" else size for size in ROW_ARRAYS[array][1])


def bytes_per_row(joints: int) -> int:
    """Size of one row (one person in one frame) in the file, in bytes."""
    size = 0
    for name, (dtype, _) in ROW_ARRAYS.items():
        size += math.prod(row_shape(name, joints)) * (1 if dtype == "?" else int(dtype[-1]))
    return size
