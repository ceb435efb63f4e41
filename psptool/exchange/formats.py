"""The table of exchange formats: how each is read and written, and what its tools expect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from psptool.common.errors import PspError, suggest
from psptool.data.store.reading import Store
from psptool.exchange import ctrgcn, pyskl, stgcn
from psptool.exchange.contents import Contents
from psptool.exchange.ctrgcn_names import names_beside
from psptool.exchange.positions import Coordinates

Writer = Callable[[Store, Mapping[str, Sequence[str]], Coordinates, Path], None]


@dataclass(frozen=True)
class ExchangeFormat:
    """The exchange format of a tool.

    Attributes:
        name: Name on the command line.
        read: Function that reads a file.
        write: Function that writes clips by part.
        coordinates: Coordinate system that its tools expect.
        test: Name of the test part.
        ending: Suffix of its files; empty for a folder.
        files: Function from a path and the parts to the files that are written.
        most: Maximum number of frames and persons per clip; None without a limit.
        joints: V if the format fixes it; otherwise None.
        graph: Skeleton whose graph is built into its tools; None if there is none.
        all_clips: Whether a file has all clips of the dataset and the parts of several splits.
        empty_frames: What becomes of frames without persons: ``kept``; ``removed``, because they look like padding; or
            ``padding``, kept and read as padding at the end of a clip.
    """

    name: str
    read: Callable[[Path], Contents]
    write: Writer
    coordinates: Coordinates
    test: str
    ending: str
    files: Callable[[Path, Sequence[str]], list[Path]]
    most: tuple[int, int] | None = None
    joints: int | None = None
    graph: str | None = None
    all_clips: bool = False
    empty_frames: Literal["kept", "removed", "padding"] = "kept"


FORMATS = {
    found.name: found
    for found in (
        ExchangeFormat(
            name="pyskl",
            read=pyskl.read_pyskl,
            write=pyskl.write_pyskl,
            coordinates="recorded",
            test="val",
            ending=".pkl",
            files=lambda path, _: [path],
            all_clips=True,
        ),
        ExchangeFormat(
            name="ctrgcn",
            read=ctrgcn.read_ctrgcn,
            write=ctrgcn.write_ctrgcn,
            coordinates="centred",
            test="test",
            ending=".npz",
            files=lambda path, _: [path, names_beside(path)],
            most=(ctrgcn.FRAMES, ctrgcn.PERSONS),
            joints=ctrgcn.JOINTS,
            empty_frames="removed",
        ),
        ExchangeFormat(
            name="stgcn",
            read=stgcn.read_stgcn,
            write=stgcn.write_stgcn,
            coordinates="recorded",
            test="val",
            ending="",
            files=stgcn.files_of,
            most=(stgcn.FRAMES, stgcn.PERSONS),
            graph="ntu25",
            empty_frames="padding",
        ),
    )
}


def format_of(path: Path) -> ExchangeFormat:
    """The format of a file, determined from its name.

    Raises:
        PspError: The file does not exist, or no format has its suffix.
    """
    if not path.exists():
        near = suggest(path.name, (other.name for other in path.parent.glob("*")))
        raise PspError(f"{path}: no such file", fix=near or "Check the path.")
    if path.is_dir() or path.suffix == ".npy" or path.name.endswith("_label.pkl"):
        return FORMATS["stgcn"]
    by_ending = {".pkl": "pyskl", ".pickle": "pyskl", ".npz": "ctrgcn"}
    if path.suffix not in by_ending:
        raise PspError(
            f"{path}: the format cannot be determined from the name",
            repr(path.suffix),
            ".pkl (PYSKL), .npz (CTR-GCN), or a folder or .npy (ST-GCN)",
            "Set the format with --format. For raw recordings use psptool prepare.",
        )
    return FORMATS[by_ending[path.suffix]]
