"""A small skeleton and recordings of it as arrays and tables, for the tests of the readers of general formats."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from psptool.skeletons.keys import ClipKey
from psptool.skeletons.topology import JointGroup, Topology

JOINTS = ("hip", "neck", "left hand", "right hand")
SKELETON = Topology(
    name="small4",
    joints=JOINTS,
    bones=((0, 1), (1, 2), (1, 3)),
    parts=(JointGroup("trunk", (0, 1)), JointGroup("left hand", (2,)), JointGroup("right hand", (3,))),
    regions=(JointGroup("body", (0, 1)), JointGroup("hands", (2, 3))),
    mirror=(0, 1, 3, 2),
    center=0,
    spine=(0, 1),
    shoulders=(2, 3),
    ankles=(0, 0),
    released_across=(2, 3),
)
FLAT = replace(SKELETON, name="flat4", dimensions=2)
NAME = "walk_s03"
CLASSES = ("sit", "walk")
_PATTERN = re.compile(r"([a-z]+)_s(\d\d)")


def key_of(name: str) -> ClipKey | None:
    match = _PATTERN.fullmatch(name)
    if match is None or match[1] not in CLASSES:
        return None
    return ClipKey(CLASSES.index(match[1]), int(match[2]))


def positions(frames: int = 3, channels: int = 3, joints: int = 4) -> NDArray[np.float64]:
    """(T, V, C): short decimals that are all different."""
    t, v, c = np.ogrid[:frames, :joints, :channels]
    return np.round(0.5 + t + 0.1 * v + 0.01 * c, 2)


def npy(values: NDArray[np.generic], version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values, version, allow_pickle=True)
    return stream.getvalue()


def npz(save: Callable[..., None] = np.savez, **arrays: NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def lines(*rows: Sequence[object], separator: str = ",", end: str = "\n") -> bytes:
    return "".join(separator.join(map(str, row)) + end for row in rows).encode()


def wide(
    xyz: NDArray[np.float64] | None = None,
    numbers: Sequence[int] | None = (5, 6, 7),
    separator: str = ",",
    axes: str = "xyz",
) -> bytes:
    xyz = positions() if xyz is None else xyz
    header = [f"{joint.replace(' ', '_')}_{axis}" for joint in JOINTS for axis in axes]
    rows = [[repr(value) for value in frame.ravel().tolist()] for frame in xyz]
    if numbers is not None:
        header = ["frame", *header]
        rows = [[str(number), *row] for number, row in zip(numbers, rows, strict=True)]
    return lines(header, *rows, separator=separator)


def long(xyz: NDArray[np.float64] | None = None, person: object = None) -> bytes:
    xyz = positions() if xyz is None else xyz
    more = [] if person is None else ["person"]
    values = [] if person is None else [person]
    rows = [
        [t, *values, joint, *xyz[t, v].tolist()] for t in range(len(xyz)) for v, joint in enumerate(JOINTS)
    ]
    return lines(["frame", *more, "joint", *"xyz"[: xyz.shape[-1]]], *rows)
