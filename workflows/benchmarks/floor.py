"""Lower bound of the preparation time: reads the bytes and scans the required fields, without further processing.

Nothing is checked: a malformed file gives wrong values.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numba import njit

JOINTS = 25
SHORTEST_JOINT_LINE = 24
_POWERS = 10.0 ** np.arange(40)


def scan_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions float32 (B, V, 3) and joint states uint8 (B, V) of a well-formed ``.skeleton`` file."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    most = data.size // (SHORTEST_JOINT_LINE * JOINTS) + 1
    xyz, state = np.empty((most, JOINTS, 3), np.float32), np.empty((most, JOINTS), np.uint8)
    count = _scan(data, xyz, state, _POWERS)
    return xyz[:count], state[:count]


@njit(nogil=True)
def _scan(data, xyz, state, powers):
    frames, at = _whole(data, 0)
    body = 0
    for _ in range(frames):
        bodies, at = _whole(data, at)
        for _ in range(bodies):
            at = _next_line(data, _next_line(data, at))
            for joint in range(JOINTS):
                for axis in range(3):
                    xyz[body, joint, axis], at = _number(data, at, powers)
                at = _next_line(data, at)
                # The last character before LF or CR LF.
                last = at - 3 if data[at - 2] == 13 else at - 2
                state[body, joint] = data[last] - 48
            body += 1
    return body


@njit(nogil=True, inline="always")
def _next_line(data, at):
    while data[at] != 10:
        at += 1
    return at + 1


@njit(nogil=True)
def _whole(data, at):
    value = 0
    while 48 <= data[at] <= 57:
        value = value * 10 + data[at] - 48
        at += 1
    return value, _next_line(data, at)


@njit(nogil=True, inline="always")
def _number(data, at, powers):
    negative = data[at] == 45
    at += negative
    digits, shift, after_point = 0, 0, 0
    while True:
        byte = data[at]
        if 48 <= byte <= 57:
            digits = digits * 10 + (byte - 48)
            shift -= after_point
        elif byte == 46:
            after_point = 1
        else:
            break
        at += 1
    if data[at] == 69:
        sign = -1 if data[at + 1] == 45 else 1
        at += 2
        exponent = 0
        while 48 <= data[at] <= 57:
            exponent = exponent * 10 + (data[at] - 48)
            at += 1
        shift += sign * exponent
    value = digits / powers[-shift] if shift < 0 else digits * powers[shift]
    return (-value if negative else value), at + 1
