"""Writing synthetic recordings in the raw formats: NTU's ``.skeleton`` text, and NW-UCLA's JSON and text formats."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray

from psptool.formats.synthesis.bodies import NTU25, Array
from psptool.formats.synthesis.recording import Faults, Recording, generator, record

# The number format of Kinect tools: 7 significant digits, scientific notation below 1E-04.
_JOINT_LINE = " ".join(["%.7G"] * 11) + " %d\r\n"
_BODY_LINE = "%d %d %d %d %d %d %d %.7G %.7G %d\r\n"
# Kinect v1's 20 joints among Kinect v2's 25.
_UCLA_JOINTS = (0, 1, 20, 3, *range(4, 20))
# Leaf joints: the sensor reports no orientation for them.
_TIPS = sorted(set(range(NTU25.size)) - {parent for parent, _ in NTU25.bones})
_DEPTH, _COLOUR = (365.0, 257.0, 209.0), (1060.0, 970.0, 537.0)


def skeleton_text(clip: Recording) -> bytes:
    """A recording as the bytes of a ``.skeleton`` file."""
    bodies = np.bincount(clip.frame, minlength=clip.frames)
    values, columns = _joint_fields(clip), _body_fields(clip)
    joints = f"{NTU25.size}\r\n" + _JOINT_LINE * NTU25.size
    first = np.concatenate(([0], np.cumsum(bodies)))
    parts = [f"{clip.frames}\r\n"]
    for frame, count in enumerate(bodies):
        parts.append(f"{count}\r\n")
        for row in range(first[frame], first[frame + 1]):
            parts.append(_BODY_LINE % columns[row])
            parts.append(joints % tuple(values[row].tolist()))
    return "".join(parts).encode("ascii")


def write_ntu(
    target: Path, names: Iterable[str], seed: int = 0, faults: Faults | None = None, jobs: int = 1
) -> int:
    """Write the named clips as ``.skeleton`` files.

    Args:
        target: A folder, or a zip file if the name ends with ``.zip``; an existing zip file is replaced.
        names: Clip names, for example from `demo_names` or `clip_names`.
        seed: Random seed; together with the names it determines all movement and noise.
        faults: Sensor errors; realistic ones if None.
        jobs: Number of processes. The files do not depend on it.

    Returns:
        Number of files written.
    """
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator")
    return write_files(target, parallel(joblib.delayed(_skeleton_file)(name, seed, faults) for name in names))


def write_ucla(target: Path, names: Iterable[str], seed: int = 0, form: str = "json") -> int:
    """Write the named clips as NW-UCLA files.

    Args:
        target: A folder, or a zip file if the name ends with ``.zip``; an existing zip file is replaced.
        names: Clip names ``aNN_sNN_eNN_vNN``.
        seed: Random seed; together with the names it determines all movement and noise.
        form: ``json``, the version in common use, or ``text``, the original distribution.

    Returns:
        Number of files written.
    """
    make = {"json": _ucla_json, "text": _ucla_text}[form]
    # In NW-UCLA, one person is present in every frame.
    faults = Faults(gap=0, ghost=0, empty_start=0)
    return write_files(target, (file for name in names for file in make(record(name, seed, faults))))


def write_files(target: Path, files: Iterable[tuple[str, bytes]]) -> int:
    """Write (relative name, content) pairs to a folder, or to a new zip file if ``target`` ends with ``.zip``."""
    count = 0
    if target.suffix == ".zip":
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in files:
                # A fixed timestamp, so that the same clips give a byte-identical archive.
                entry = zipfile.ZipInfo(name)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, content)
                count += 1
        return count
    for name, content in files:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        count += 1
    return count


def _skeleton_file(name: str, seed: int, faults: Faults | None) -> tuple[str, bytes]:
    return f"{name}.skeleton", skeleton_text(record(name, seed, faults))


def _joint_fields(clip: Recording) -> Array:
    """Position, depth and colour pixel, quaternion and state (B, V, 12), flattened to (B, V * 12)."""
    quaternion = clip.quaternion.copy()
    quaternion[:, _TIPS] = 0
    ratio = clip.xyz[..., :2] / np.maximum(clip.xyz[..., 2:], 0.1) * (1, -1)
    pixels = [ratio * f + (x, y) for f, x, y in (_DEPTH, _COLOUR)]
    fields = np.concatenate([clip.xyz, *pixels, quaternion, clip.state[..., None]], axis=-1)
    # Rounded to float32, as in the sensor, which writes 7 digits. Adding 0.0 turns -0.0 into 0.0.
    rounded: Array = fields.astype(np.float32).astype(np.float64) + 0.0
    return rounded.reshape(len(rounded), -1)


def _body_fields(clip: Recording) -> list[tuple[int | float, ...]]:
    """The ten numbers in the body line of each detection."""
    rng = generator(0, "hands", clip.name)
    hands = rng.integers(0, 5, (clip.body.size, 2)).tolist()
    lean = rng.uniform(-0.2, 0.2, (clip.body.size, 2)).tolist()
    return [
        (number, 0, left > 1, left, right > 1, right, 0, x, y, 2)
        for number, (left, right), (x, y) in zip(clip.body.tolist(), hands, lean, strict=True)
    ]


def _ucla_xyz(clip: Recording) -> Array:
    return clip.xyz[:, _UCLA_JOINTS]


def _ucla_json(clip: Recording) -> Iterator[tuple[str, bytes]]:
    """``all_sqe/<name>.json``: the stem, (T, 20, 3) positions, and the 1-based label."""
    skeletons = [[[_short(c) for c in joint] for joint in frame] for frame in _ucla_xyz(clip).tolist()]
    content = {"file_name": clip.name, "skeletons": skeletons, "label": clip.key.label + 1}
    yield f"all_sqe/{clip.name}.json", json.dumps(content).encode("ascii")


def _ucla_text(clip: Recording) -> Iterator[tuple[str, bytes]]:
    """``view_V/<clip without view>/frame_<index>_tc_<time>_skeletons.txt`` for each frame, and ``fileList.txt``."""
    performance, view = clip.name.rsplit("_v", 1)
    folder = f"view_{int(view)}/{performance}"
    rng = generator(0, "frames", clip.name)
    begin = int(rng.integers(1, 2000))
    times = int(rng.integers(10**6, 10**8)) + np.cumsum(rng.integers(30, 37, clip.frames))
    states: NDArray[np.uint8] = clip.state[:, _UCLA_JOINTS]
    frames = zip(range(begin, begin + clip.frames), times.tolist(), strict=True)
    listed = []
    for (index, time), xyz, state in zip(frames, _ucla_xyz(clip).tolist(), states.tolist(), strict=True):
        rows = [f"{_short(x)},{_short(y)},{_short(z)},{s}" for (x, y, z), s in zip(xyz, state, strict=True)]
        yield f"{folder}/frame_{index}_tc_{time}_skeletons.txt", "\n".join(["60", *rows, ""]).encode("ascii")
        listed.append(f"{index} {time}")
    yield f"{folder}/fileList.txt", "\n".join([*listed, ""]).encode("ascii")


def _short(metres: float) -> float:
    """A number with six significant digits, as in the files in common use."""
    return float(f"{metres:.6g}")
