"""Arrays of ``.npy`` files and ``.npz`` archives as a look at the disk: no file costs memory by what it claims.

An archive's member that is stored as it is, as `numpy.savez` writes it, is looked at where it lies. A compressed one
is unpacked to a file without a name beside the archive's target, up to the size that it states and only where that
is a size that recordings can be packed from. Nothing is unpickled.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from psptool.common.errors import PspError

MOST_RATIO = 200
"""How much smaller a compressed member may be: padding packs well, but hardly a clip in twenty is empty."""

_PIECE = 2**20
_LOCAL_HEADER = 30


def map_npy(path: Path) -> NDArray[Any]:
    """The array of a ``.npy`` file, read-only, on the disk.

    Raises:
        PspError: It cannot be read, is no whole array, or holds objects.
    """
    try:
        with path.open("rb") as file:
            return _map(path, str(path), file, 0, path.stat().st_size)
    except PspError:
        raise
    except Exception as error:
        # Damaged bytes may raise about anything, in zipfile, zlib or NumPy's parser of headers.
        raise _damaged(str(path), error) from error


def map_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a ``.npz`` archive by name, read-only, on the disk.

    Raises:
        PspError: It cannot be read, is no archive of whole arrays, holds objects, or a member is packed as no
            recording can be.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return {
                member.filename.removesuffix(".npy"): _member(path, file, archive, member)
                for member in archive.infolist()
            }
    except PspError:
        raise
    except Exception as error:
        # Damaged bytes may raise about anything, in zipfile, zlib or NumPy's parser of headers.
        raise _damaged(str(path), error) from error


def _member(path: Path, file: IO[bytes], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    where = f"{path}:{member.filename}"
    if member.compress_type == zipfile.ZIP_STORED:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER)
        names = sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        start = member.header_offset + _LOCAL_HEADER + names
        return _map(path, where, file, start, start + member.file_size)
    if member.file_size > MOST_RATIO * max(member.compress_size, 2**16):
        raise PspError(
            f"{where}: refused",
            f"{member.file_size} bytes packed into {member.compress_size}",
            f"at most {MOST_RATIO} times as many",
        )
    if member.file_size > shutil.disk_usage(tempfile.gettempdir()).free:
        raise PspError(
            f"{where}: too large to unpack",
            f"{member.file_size} bytes",
            fix="Set TMPDIR to a larger disk, or save the archive with numpy.savez, which packs nothing.",
        )
    with tempfile.TemporaryFile() as unpacked:
        with archive.open(member) as packed:
            # No more than was stated: zipfile ends there too, and checks the sum.
            while piece := packed.read(_PIECE):
                unpacked.write(piece)
        unpacked.flush()
        return _map(path, where, unpacked, 0, unpacked.tell())


def _map(path: Path, where: str, file: IO[bytes], start: int, end: int) -> NDArray[Any]:
    """The array that begins at byte ``start`` of ``file`` and ends before ``end``; it keeps the file open."""
    file.seek(start)
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"version {version} of the format")
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "fiub" or dtype.names is not None:
        raise PspError(f"{where}: refused", f"an array of {dtype}", "numbers; objects are never unpickled")
    begin, size = file.tell(), math.prod(shape) * dtype.itemsize
    if begin + size > end or min(shape, default=0) < 0:
        raise ValueError(f"shape {shape} of {dtype} takes {size} bytes, and there are {end - begin}")
    if not size:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", begin, shape, "F" if fortran else "C")


def _damaged(where: str, error: Exception) -> PspError:
    what = getattr(error, "strerror", None) or error
    return PspError(f"{where}: cannot be read ({what})", fix="Copy it again from its source.")
