"""The scanner for NTU ``.skeleton`` text: from the bytes of a file to arrays, or to a problem and its location.

The pass over the bytes is compiled (`psptool.formats.readers.kernel`); compilation takes some seconds, once per
machine. Every number is bit-identical to the result of `float` and a cast to float32: numbers that the fast algorithm
cannot convert exactly are converted by `float`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.formats.readers import kernel
from psptool.formats.readers.text import LARGEST_FLOAT32

_FIELD = re.compile(rb"[^ \t\r\n]+")


class Scan(NamedTuple):
    """The content of a file, or its first problem; F frames, B bodies, V joints.

    Attributes:
        problem: `kernel.FINE`, or a problem code; the arrays are undefined then.
        stage: The kind of line with the problem.
        offset: Byte offset of that line, or of the field if a single field is invalid.
        frames: F.
        frame: int32 (B,), 0-based frame of each body, ascending.
        body: int64 (B,), body ids.
        xyz: float32 (B, V, 3), metres; finite or NaN.
        state: uint8 (B, V), tracking states.
    """

    problem: int
    stage: int
    offset: int
    frames: int
    frame: NDArray[np.int32]
    body: NDArray[np.int64]
    xyz: NDArray[np.float32]
    state: NDArray[np.uint8]


def scan(blob: bytes, joints: int) -> Scan:
    """Scan a complete ``.skeleton`` file of less than 2 GB.

    Memory is bounded by the size of the file, not by the counts in it.

    Args:
        blob: The bytes of the file.
        joints: V, the required number of joints of every body.
    """
    # A body has at least this many bytes: one character and one separator per field.
    shortest_body = 2 * (kernel.BODY_FIELDS + joints * kernel.JOINT_FIELDS)
    most = len(blob) // shortest_body + 1
    frame, body = np.empty(most, np.int32), np.empty(most, np.int64)
    xyz, state = np.empty(most * joints * 3, np.float32), np.empty(most * joints, np.uint8)
    data, offsets = np.frombuffer(blob, np.uint8), xyz.view(np.int32)
    problem, stage, offset, frames, bodies, hard = kernel.scan(data, joints, frame, body, xyz, offsets, state)
    if hard:
        problem, stage, offset = _convert_hard(blob, xyz[: bodies * joints * 3], state[: bodies * joints])
    return Scan(
        problem,
        stage,
        offset,
        frames,
        frame[:bodies],
        body[:bodies],
        xyz[: bodies * joints * 3].reshape(bodies, joints, 3),
        # Copied, because the clip keeps it, and a file fills only a fraction of the allocated array.
        state[: bodies * joints].reshape(bodies, joints).copy(),
    )


def _convert_hard(blob: bytes, xyz: NDArray[np.float32], state: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Convert the coordinates that the kernel marked as hard with `float`, in place: (problem, stage, offset)."""
    marks = state[:, None] & (kernel.HARD << np.arange(3, dtype=np.uint8))
    places = np.flatnonzero(marks)
    # The kernel stored the byte offset of a hard number in the place of its value.
    offsets = xyz.view(np.int32)[places].tolist()
    values = np.array([_float_at(blob, offset) for offset in offsets])
    infinite = np.flatnonzero(np.abs(values) > LARGEST_FLOAT32)
    if len(infinite):
        return kernel.INFINITE, kernel.JOINT_LINE, offsets[infinite[0]]
    xyz[places] = values.astype(np.float32)
    state &= kernel.HARD - 1
    return kernel.FINE, kernel.REST, 0


def _float_at(blob: bytes, offset: int) -> float:
    field = _FIELD.match(blob, offset)
    assert field is not None, "the kernel marks fields only"
    return float(field[0])
