"""Hand-made raw recordings in the three formats of NTU and NW-UCLA, with known values."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

from psptool.formats.readers.base import ClipSource, FileRef, Reader

NTU_NAME = "S001C002P003R001A024"
UCLA_NAME = "a01_s02_e03_v01"
UCLA_FOLDER = "view_1/a01_s02_e03"
BODY_IDS = (72057594037931101, 72057594037931102)
"""Above 2**53 and next to each other, so that both become the same float64."""


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".TAR.GZ")


def write(path: Path, blob: bytes = b"1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob)
    return path


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """Create an archive whose format follows from the suffix of `path`."""
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, blob in members.items():
                archive.writestr(name, blob)
        return path
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, blob in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
    packer = PACKERS.get(path.suffix.lower().replace(".tgz", ".gz"), bytes)
    return write(path, packer(packed.getvalue()))


def position(t: int, joint: int, body: int = 0) -> tuple[float, float, float]:
    """Position of a joint as written by `ntu`, `ucla_json` and `ucla_frame`; short decimals."""
    return (-0.5 + 0.01 * joint + 0.25 * body, 0.1 * t + 0.02 * joint, 3.0 + 0.001 * joint)


def joint_line(x: str, y: str, z: str, state: str = "2") -> str:
    return f"{x} {y} {z} 254.1 190.2 973.5 498.8 0.2 0.03 0.97 -0.1 {state}"


def ntu_lines(bodies: tuple[int, ...] = (1, 2, 0, 1)) -> list[str]:
    """The lines of a file with `bodies[t]` bodies in frame t."""
    lines = [str(len(bodies))]
    for t, count in enumerate(bodies):
        lines.append(str(count))
        for body in range(count):
            lines += [f"{BODY_IDS[body]} 0 1 1 1 1 0 0.02 -0.1 2", "25"]
            for joint in range(25):
                x, y, z = (f"{value:.7g}" for value in position(t, joint, body))
                lines.append(joint_line(x, y, z, str(joint % 3)))
    return lines


def ntu(bodies: tuple[int, ...] = (1, 2, 0, 1), end: str = "\r\n") -> bytes:
    return (end.join(ntu_lines(bodies)) + end).encode()


def ucla_json(frames: int = 3, **changed: object) -> bytes:
    skeletons = [[[round(v, 6) for v in position(t, joint)] for joint in range(20)] for t in range(frames)]
    return json.dumps({"file_name": UCLA_NAME, "skeletons": skeletons, "label": 1, **changed}).encode()


def ucla_frame(t: int, rows: int = 20) -> bytes:
    """One frame's text file."""
    lines = ["60"]
    lines += [",".join(f"{v:.6g}" for v in position(t, joint)) + f",{joint % 3}" for joint in range(rows)]
    return ("\r\n".join(lines) + "\r\n").encode()


def ucla_frame_name(index: int) -> str:
    return f"{UCLA_FOLDER}/frame_{index}_tc_{1000 + 33 * index}_skeletons.txt"


def source_of(reader: Reader, files: dict[str, bytes]) -> tuple[ClipSource, list[bytes]]:
    """The only clip that a reader finds in files (name -> content), and the contents in the order of its files."""
    clips, strays = reader.find([FileRef(name, None, len(blob)) for name, blob in files.items()])
    assert len(clips) == 1
    assert not strays
    return clips[0], [files[file.path] for file in clips[0].files]
