"""Digests of clips, and the fingerprints that identify a dataset. Splits and runs store the fingerprints.

Each clip is hashed once, in the process that prepared it. A fingerprint is a digest of the clip names and clip
digests, so the writing process hashes little. The fingerprints of a file can be recomputed from its arrays.

Array shapes: M persons, T frames, V joints.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psptool.schemas.dataset import Fingerprints
from psptool.skeletons.keys import ClipKey

_POSITION, _FLAG, _STATE = np.dtype("<f4"), np.dtype("?"), np.dtype("u1")


def coordinates_digest(joint: NDArray[np.float32], present: NDArray[np.bool_]) -> bytes:
    """SHA-256 of a clip's shape, positions and presence; equal for two clips with the same coordinates.

    Args:
        joint: float32 (M, T, V, 3).
        present: bool (M, T).
    """
    digest = hashlib.sha256(struct.pack("<3q", *joint.shape[:3]))
    digest.update(_plain(joint, _POSITION))
    digest.update(_plain(present, _FLAG))
    return digest.digest()


def content_digest(
    coordinates: bytes,
    motion: NDArray[np.float32],
    state: NDArray[np.uint8],
    key: ClipKey,
    normalization: tuple[NDArray[np.float64], float, NDArray[np.float64]],
) -> bytes:
    """SHA-256 of all data of a clip in the store, except its name.

    Args:
        coordinates: The clip's `coordinates_digest`, which covers its positions and presence.
        motion: float32 (M, T, V, 3).
        state: uint8 (M, T, V).
        key: The numbers in the clip's name.
        normalization: origin (3,), scale, and rotation (3, 3).
    """
    origin, scale, rotation = normalization
    digest = hashlib.sha256(coordinates)
    digest.update(_plain(motion, _POSITION))
    digest.update(_plain(state, _STATE))
    digest.update(struct.pack("<5q", key.label, key.subject, key.camera, key.setup, key.repetition))
    digest.update(struct.pack("<13d", *origin.tolist(), scale, *rotation.ravel().tolist()))
    return digest.digest()


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(array: NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    """The bytes of the array in C order, with the file's dtype."""
    same = array.dtype == dtype and array.flags.c_contiguous
    return (array if same else np.ascontiguousarray(array, dtype)).data


class Fingerprinting:
    """Incremental computation of a dataset's two fingerprints, over the clips in the order of the store."""

    def __init__(self) -> None:
        self._clips = hashlib.sha256(b"psptool-clips-1\n")
        self._content = hashlib.sha256(b"psptool-content-1\n")

    def add(self, name: str, label: int, content: bytes) -> None:
        """Add one clip: its name, label and `content_digest`."""
        line = f"{name}\t{label}\n".encode()
        self._clips.update(line)
        self._content.update(line + content)

    def result(self) -> Fingerprints:
        """The fingerprints of the clips added so far."""
        return Fingerprints(clips=self._clips.hexdigest(), content=self._content.hexdigest())
