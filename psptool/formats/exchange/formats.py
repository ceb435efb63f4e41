"""The formats as a table: how each is read and written, and what its own tools expect to find in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psptool.common.errors import PspError, suggest
from psptool.data.store.reading import Store
from psptool.formats.exchange import ctrgcn, pyskl, stgcn
from psptool.formats.exchange.contents import Contents
from psptool.formats.exchange.ctrgcn_names import names_beside
from psptool.formats.exchange.positions import Coordinates

Writer = Callable[[Store, Mapping[str, Sequence[str]], Coordinates, Path], None]


@dataclass(frozen=True)
class ExchangeFormat:
    """One tool's format.

    Attributes:
        name: As on the command line.
        read: What a file holds.
        write: Writes clips by part.
        coordinates: The positions that its tools expect.
        test: What it calls the part for test.
        ending: Of its files; empty for a folder.
        files: What is written at a path, given the parts.
        most: Frames and persons that a clip may have; None where any may.
        joints: V, where it is fixed.
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


FORMATS = {
    found.name: found
    for found in (
        ExchangeFormat(
            "pyskl", pyskl.read_pyskl, pyskl.write_pyskl, "recorded", "val", ".pkl", lambda path, _: [path]
        ),
        ExchangeFormat(
            "ctrgcn",
            ctrgcn.read_ctrgcn,
            ctrgcn.write_ctrgcn,
            "centred",
            "test",
            ".npz",
            lambda path, _: [path, names_beside(path)],
            (ctrgcn.FRAMES, ctrgcn.PERSONS),
            ctrgcn.JOINTS,
        ),
        ExchangeFormat(
            "stgcn",
            stgcn.read_stgcn,
            stgcn.write_stgcn,
            "recorded",
            "val",
            "",
            stgcn.files_of,
            (stgcn.FRAMES, stgcn.PERSONS),
        ),
    )
}


def format_of(path: Path) -> ExchangeFormat:
    """The format that a file's name speaks for.

    Raises:
        PspError: There is no such file, or its name is of none.
    """
    if not path.exists():
        near = suggest(path.name, (other.name for other in path.parent.glob("*")))
        raise PspError(f"{path}: there is no such file", fix=near or "Check the path.")
    if path.is_dir() or path.suffix == ".npy" or path.name.endswith("_label.pkl"):
        return FORMATS["stgcn"]
    by_ending = {".pkl": "pyskl", ".pickle": "pyskl", ".npz": "ctrgcn"}
    if path.suffix not in by_ending:
        raise PspError(
            f"{path}: of no format that psptool reads by its name",
            repr(path.suffix),
            ".pkl (PYSKL), .npz (CTR-GCN), or a folder or .npy (ST-GCN)",
            "Name the format with --format; raw recordings are for psptool prepare.",
        )
    return FORMATS[by_ending[path.suffix]]
