"""The scanner for NTU `.skeleton` text: a file's bytes to arrays, or to what is wrong and where.

The walk over the bytes is compiled (`psptool.formats.readers.kernel`); compilation takes some seconds, once a
machine. Every number is bit for bit what `float` and a cast to float32 give: where the quick way cannot
promise it, `float` does it.
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
    """What a file holds, or what is wrong with it; F frames, B bodies, V joints.

    Attributes:
        problem: `kernel.FINE`, or what is wrong; the arrays mean nothing then.
        stage: The kind of line that was being read.
        offset: Where that line begins, or the field where a single one is at fault; in bytes.
        frames: F.
        frame: int32 (B,), ascending.
        body: int64 (B,).
        xyz: float32 (B, V, 3), finite or NaN.
        state: uint8 (B, V).
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
    """Scan a whole `.skeleton` file of less than 2 GB.

    Memory is bounded by the file's size, whatever counts it states: a body takes at least its shortest lines.

    Args:
        blob: The file's bytes.
        joints: V, which every body must have.
    """
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
        # A copy, as a clip keeps this one, and what a file fills is a fraction of the array made above.
        state[: bodies * joints].reshape(bodies, joints).copy(),
    )


def _convert_hard(blob: bytes, xyz: NDArray[np.float32], state: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Let `float` convert, in place, what the kernel marked as hard: (problem, stage, offset)."""
    marks = state[:, None] & (kernel.HARD << np.arange(3, dtype=np.uint8))
    places = np.flatnonzero(marks)
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
