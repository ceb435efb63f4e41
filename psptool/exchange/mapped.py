"""Memory-mapped arrays of ``.npy`` files and ``.npz`` archives, so that untrusted files cannot fill the memory.

An uncompressed member of an archive, as written by `numpy.savez`, is mapped in place. A compressed member is unpacked
to an anonymous temporary file, up to its stated size, and is refused if its compression ratio is implausible for
recordings. Nothing is unpickled.
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

from psptool.common.errors import PspError, cannot_read
from psptool.common.paths import regular_size

MOST_RATIO = 200
"""Maximum compression ratio of a member. Zero padding compresses well, but coordinates do not."""

_PIECE = 2**20
_LOCAL_HEADER = 30


def map_npy(path: Path) -> NDArray[Any]:
    """The array of a ``.npy`` file, memory-mapped and read-only.

    Raises:
        PspError: The file cannot be read, is damaged, or contains objects.
    """
    try:
        size = regular_size(path)
        with path.open("rb") as file:
            return _map(path, str(path), file, 0, size)
    except PspError:
        raise
    except Exception as error:
        # Damaged bytes may raise about anything, in zipfile, zlib or NumPy's parser of headers.
        raise _damaged(str(path), error) from error


def map_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a ``.npz`` archive by name, memory-mapped and read-only.

    Raises:
        PspError: The archive cannot be read, is damaged, contains objects, or a member exceeds `MOST_RATIO`.
    """
    try:
        regular_size(path)
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
            f"{member.file_size} bytes compressed to {member.compress_size}",
            f"a compression ratio of at most {MOST_RATIO}",
            "Save the archive with numpy.savez, which does not compress.",
        )
    if member.file_size > shutil.disk_usage(tempfile.gettempdir()).free:
        raise PspError(
            f"{where}: too large to unpack",
            f"{member.file_size} bytes",
            fix="Set TMPDIR to a larger disk, or save the archive with numpy.savez, which does not compress.",
        )
    with tempfile.TemporaryFile() as unpacked:
        with archive.open(member) as packed:
            # zipfile returns at most the stated size, and verifies the checksum.
            while piece := packed.read(_PIECE):
                unpacked.write(piece)
        unpacked.flush()
        return _map(path, where, unpacked, 0, unpacked.tell())


def _map(path: Path, where: str, file: IO[bytes], start: int, end: int) -> NDArray[Any]:
    """The array in the bytes ``start`` to ``end`` (exclusive) of ``file``; it keeps the file open."""
    file.seek(start)
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"version {version} of the format")
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "fiub" or dtype.names is not None:
        raise PspError(
            f"{where}: refused", f"an array of {dtype}", "an array of numbers; objects are never unpickled"
        )
    begin, size = file.tell(), math.prod(shape) * dtype.itemsize
    if begin + size > end or min(shape, default=0) < 0:
        raise ValueError(f"shape {shape} of {dtype} needs {size} bytes, the file has {end - begin}")
    if not size:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", begin, shape, "F" if fortran else "C")


def _damaged(where: str, error: Exception) -> PspError:
    return cannot_read(where, error, "Check the path, or copy the file again from its source.")
