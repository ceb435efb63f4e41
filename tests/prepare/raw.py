"""Writers of synthetic raw recordings: NTU text and NW-UCLA JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psptool.formats.readers.base import RawClip
from psptool.skeletons.keys import ClipKey

Frame = Sequence[tuple[int, NDArray[np.float64]]]
"""Bodies of one frame: id and positions (25, 3)."""


def ntu_text(frames: Sequence[Frame], state: int = 2) -> str:
    """Content of a `.skeleton` file."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body, xyz in bodies:
            lines += [f"{body} 0 1 1 1 1 0 0.1 -0.2 2", "25"]
            lines += [
                f"{x:.7g} {y:.7g} {z:.7g} 1 2 3 4 0 0 0 0 {state}" for x, y, z in np.asarray(xyz).tolist()
            ]
    return "\r\n".join(lines) + "\r\n"


def write_ucla_clip(folder: Path, name: str, xyz: NDArray[np.float64]) -> Path:
    """Write a JSON clip; xyz has shape (T, 20, 3)."""
    actions = [1, 2, 3, 4, 5, 6, 8, 9, 11, 12]
    label = actions.index(int(name[1:3])) + 1
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"file_name": name, "skeletons": xyz.tolist(), "label": label}))
    return path


def write_ucla_clips(folder: Path, count: int, frames: int = 8, seed: int = 0) -> list[str]:
    """Write ``count`` clips of random positions; returns their names."""
    rng = np.random.default_rng(seed)
    names = [f"a01_s{n // 99 + 1:02}_e{n % 99:02}_v01" for n in range(count)]
    for name in names:
        write_ucla_clip(folder, name, rng.normal(size=(frames, 20, 3)) + np.array((0, 0, 3)))
    return names


def raw_clip(
    bodies: Mapping[int, Mapping[int, NDArray[np.float64]]] | Sequence[tuple[int, int, NDArray[np.float64]]],
    frames: int,
) -> RawClip:
    """A clip from (frame, body id, xyz (V, 3)) detections, or from ``{id: {frame: xyz}}``."""
    if isinstance(bodies, Mapping):
        bodies = sorted(
            ((frame, body, xyz) for body, seen in bodies.items() for frame, xyz in seen.items()),
            key=lambda d: d[0],
        )
    return RawClip(
        "clip",
        ClipKey(0),
        frames,
        np.array([frame for frame, _, _ in bodies], np.int32),
        np.array([body for _, body, _ in bodies], np.int64),
        np.array([xyz for _, _, xyz in bodies], np.float32),
        np.full((len(bodies), len(bodies[0][2])), 2, np.uint8),
    )
