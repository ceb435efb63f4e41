"""NumPy arrays, one ``.npy`` or ``.npz`` file per clip, for any skeleton.

The array is (T, V, C) or (M, T, V, C): M persons, T frames, V joints, C coordinates. Files are untrusted: nothing is
unpickled, and the header's shape and type are compared with the size of the file before data are read.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.common.text import counted
from psptool.formats.readers.base import ClipSource, FileRef, RawClip, Stray
from psptool.formats.readers.detections import (
    Detections,
    drop_uncertain,
    joint_order,
    require_finite,
    to_clip,
)
from psptool.formats.readers.naming import KeyOf, find_named
from psptool.formats.readers.text import excerpt
from psptool.schemas.formats import ArraysOptions
from psptool.skeletons.topology import Topology

MAX_ARRAY_BYTES = 256 * 2**20
"""Maximum size of an unpacked array of an npz file, in bytes."""
MOST_RATIO = 200
"""Maximum compression ratio of an array of an npz file. Zero padding compresses well, but coordinates do not."""
MAX_VALUES = MAX_ARRAY_BYTES // 8
"""Maximum number of values in an array of positions; they are converted to float64, whatever their type in the file."""
MAX_MEMBERS = 1000
"""Maximum number of arrays in an npz file."""

Arrays = dict[str, "NDArray[Any] | RawFormatError"]
"""The arrays of a file by name, or the errors of those that cannot be read."""
_ENCRYPTED = 0x1


class ArraysReader:
    """Reads npy and npz files of any skeleton; see `psptool.formats.readers.base.Reader`.

    - A joint with NaN, at exactly zero in all coordinates, or with a confidence that is not above
      ``options.min_confidence``, is missing. A body without any joint is absent.
    - Frame numbers start at 0.
    - A channel after the coordinates is the confidence, unless ``options.confidence_key`` names its array.

    Args:
        topology: The skeleton, with V joints.
        options: Options of this format.
        key_of: Function from a clip's name to its key; None for any name.
        joints: The file's joints in order, by their names in the skeleton, None for one that it does not have; empty
            if they are the skeleton's joints.
    """

    def __init__(
        self,
        topology: Topology,
        options: ArraysOptions,
        key_of: KeyOf | None,
        joints: Sequence[str | None] = (),
    ) -> None:
        self.format = "arrays"
        self.topology, self.options, self.key_of = topology, options, key_of
        self._order = joint_order(joints, topology)
        self._joints, self._dimensions = len(joints) or topology.size, topology.dimensions

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """Clips are files with the suffixes of the options whose name is a clip name; others are strays."""
        return find_named(files, self.options, self.key_of)

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the bytes of one file to a clip.

        Raises:
            RawFormatError: The file is damaged, contains objects, or has another shape. The message names the key.
        """
        (blob,), (file,) = blobs, source.files
        arrays = read_arrays(file, blob)
        key, values = self._positions(file, arrays)
        where = f"{file}, {key}" if key else str(file)
        values = self._arranged(where, values)
        positions, confidence = self._without_confidence(file, where, values, arrays)
        # (M, T, J, C) -> (T, M, V, C), float64 to hold any number until it was compared with the range of float32.
        positions = positions.transpose(1, 0, 2, 3)[:, :, self._order].astype(np.float64)
        require_finite(positions, where, ("frame", "person"), self.topology)
        if confidence is not None:
            confidence = confidence.transpose(1, 0, 2)[:, :, self._order]
        drop_uncertain(positions, confidence, self.options.min_confidence)
        frames, persons, joints, channels = positions.shape
        if self.options.padded:
            there = (np.abs(positions).sum(axis=-1) > 0).any(axis=(1, 2))  # (T, M, V, C) -> (T,)
            frames = int(np.flatnonzero(there)[-1]) + 1 if there.any() else 0
            positions = positions[:frames]
        detections = Detections(
            np.repeat(np.arange(frames), persons),
            np.tile(np.arange(persons), frames),
            positions.reshape(frames * persons, joints, channels),
        )
        return to_clip(source, where, detections, self.options.max_gap, (0, frames - 1))

    def _positions(self, file: FileRef, arrays: Arrays) -> tuple[str, NDArray[Any]]:
        """The key and the array of positions; the key is empty in an npy file."""
        if "" in arrays or self.options.key is not None:
            name = "" if "" in arrays else str(self.options.key)
            return name, _array_named(file, arrays, name)
        names = [name for name in arrays if name != self.options.confidence_key]
        if len(names) > 1:
            # Labels, frame rates and the like have fewer axes.
            names = [name for name in names if getattr(arrays[name], "ndim", 0) >= 3]
        if len(names) != 1:
            expected = "one array of positions, or its name in the option `key`"
            raise RawFormatError("keys", str(file), _listed(arrays), expected)
        return names[0], _array_named(file, arrays, names[0])

    def _arranged(self, where: str, values: NDArray[Any]) -> NDArray[Any]:
        """The array with its axes in the order (M, T, J, C)."""
        axes = self.options.axes or {3: "TVC", 4: "MTVC"}.get(values.ndim, "TVC or MTVC")
        if values.ndim != len(axes):
            raise RawFormatError(
                "shape",
                where,
                f"shape {values.shape}",
                f"{len(axes)} axes {axes}" if " " not in axes else axes,
            )
        if values.dtype.kind not in "fiu":
            raise RawFormatError("type", where, f"an array of {values.dtype}", "an array of numbers")
        values = values.transpose([axes.index(axis) for axis in "MTVC" if axis in axes])
        values = values if "M" in axes else values[None]
        persons, frames, joints, channels = values.shape
        if joints != self._joints or channels not in (self._dimensions, self._dimensions + 1):
            found = f"{joints} joints of {channels} channels (axes {axes}, shape {values.shape})"
            expected = (
                f"{self._joints} joints of {self._dimensions} coordinates, optionally with a confidence"
            )
            raise RawFormatError("shape", where, found, expected)
        if values.size > MAX_VALUES:
            found = f"{values.size} values (axes {axes}, shape {values.shape})"
            raise RawFormatError("too large", where, found, f"at most {MAX_VALUES} values")
        if not persons or not frames:
            found = f"{counted(persons, 'person')} and {counted(frames, 'frame')}"
            raise RawFormatError("no body", where, found, "a body in at least one frame")
        return values

    def _without_confidence(
        self, file: FileRef, where: str, values: NDArray[Any], arrays: Arrays
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Positions (M, T, J, C), and confidences (M, T, J) if there are any."""
        positions, name = values[..., : self._dimensions], self.options.confidence_key
        if name is None or "" in arrays:
            more = values.shape[-1] > self._dimensions
            return positions, values[..., self._dimensions] if more else None
        confidence = _array_named(file, arrays, name)
        axes = (self.options.axes or "MTVC"[-confidence.ndim - 1 :]).replace("C", "")
        where = f"{file}, {name}"
        if confidence.ndim != len(axes) or confidence.dtype.kind not in "fiu":
            raise RawFormatError(
                "shape", where, f"an array {confidence.shape} of {confidence.dtype}", f"numbers, axes {axes}"
            )
        confidence = confidence.transpose([axes.index(axis) for axis in "MTV" if axis in axes])
        confidence = confidence if "M" in axes else confidence[None]
        if confidence.shape != positions.shape[:-1]:
            raise RawFormatError(
                "shape",
                where,
                f"shape {confidence.shape}",
                f"the shape {positions.shape[:-1]} of the positions",
            )
        return positions, confidence


def _array_named(file: FileRef, arrays: Arrays, name: str) -> NDArray[Any]:
    if name not in arrays:
        raise RawFormatError("keys", str(file), _listed(arrays), f"an array named {name!r}")
    found = arrays[name]
    if isinstance(found, RawFormatError):
        raise found
    return found


def _listed(arrays: Arrays) -> str:
    names = list(map(excerpt, arrays))
    return "no array" if not names else f"the arrays {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"


def read_arrays(file: FileRef, blob: bytes) -> Arrays:
    """The arrays of an npz file by name, or that of an npy file with an empty name, as views of the bytes.

    The value of an array of an npz file that cannot be read is its error, to be raised only if the array is used.

    Args:
        file: The file, for messages.
        blob: Its bytes.

    Raises:
        RawFormatError: The file is empty, damaged or too large, or an npy file does not contain numbers.
    """
    if not blob:
        raise RawFormatError("empty file", str(file), "0 bytes", "an npy or npz file")
    if blob.startswith(b"PK"):
        return _unzipped(file, blob)
    return {"": _array(str(file), blob)}


def _unzipped(file: FileRef, blob: bytes) -> Arrays:
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            named = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            _require_sizes(file, len(blob), list(named.values()))
            return {name: _member(file, archive, member) for name, member in named.items() if name}
    except RawFormatError:
        raise
    except Exception as error:
        # Damaged bytes may raise about anything, in zipfile, zlib or NumPy's parser of headers.
        raise _damaged(str(file), error) from None


def _require_sizes(file: FileRef, packed: int, members: Sequence[zipfile.ZipInfo]) -> None:
    """Check the number of arrays and their stated sizes, which zipfile does not exceed."""
    if len(members) > MAX_MEMBERS:
        raise RawFormatError("too large", str(file), f"{len(members)} arrays", f"at most {MAX_MEMBERS}")
    size = sum(member.file_size for member in members)
    if size > min(MAX_ARRAY_BYTES, MOST_RATIO * max(packed, 2**16)):
        expected = f"at most {MAX_ARRAY_BYTES} bytes, and {MOST_RATIO} times the file"
        raise RawFormatError("too large", str(file), f"{size} bytes in a file of {packed}", expected)


def _member(
    file: FileRef, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> NDArray[Any] | RawFormatError:
    where = f"{file}, {excerpt(member.filename)}"
    if member.flag_bits & _ENCRYPTED:
        return RawFormatError("encrypted", where, "an array with a password", "an array without password")
    try:
        with archive.open(member) as stream:
            return _array(where, stream.read(member.file_size + 1))
    except RawFormatError as error:
        return error
    except Exception as error:
        return _damaged(where, error)


def _array(where: str, blob: bytes) -> NDArray[Any]:
    """The array in the bytes of an npy file, as a view of them."""
    stream = io.BytesIO(blob)
    try:
        version = npy.read_magic(stream)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read_header is None:
            raise ValueError(f"version {version} of the format")
        shape, fortran, dtype = read_header(stream)
    except Exception as error:
        raise _damaged(where, error) from None
    if dtype.kind not in "fiub" or dtype.names is not None or dtype.subdtype is not None:
        # Other arrays of an npz file may hold anything, but objects would have to be unpickled.
        raise RawFormatError(
            "type", where, excerpt(f"an array of {dtype}"), "an array of numbers; objects are never unpickled"
        )
    size, held = math.prod(shape) * dtype.itemsize, len(blob) - stream.tell()
    if min(shape, default=0) < 0 or size != held:
        found = excerpt(f"shape {shape} of {dtype}") + f", which is {size} bytes, and {held} bytes"
        raise RawFormatError("truncated" if held < size else "size", where, found, "the bytes of this shape")
    if not size:
        return np.empty(shape, dtype)
    values = np.frombuffer(blob, dtype, offset=stream.tell())
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


def _damaged(where: str, error: BaseException) -> RawFormatError:
    return RawFormatError("damaged", where, excerpt(f"{error}" or type(error).__name__), "an npy or npz file")
