"""Writing a prepared dataset atomically, clip by clip, in the order of the names.

The file is written under a temporary name (``.<name>.partial``) in the same folder, and renamed once every byte is on
disk. Memory does not grow with the number of clips. The same clips give a byte-identical file.

Array shapes: n clips, M persons, T frames, V joints; rows R = M * T, person-major.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from psptool.common.atomic_write import Replacement
from psptool.common.errors import PspError, cannot_write
from psptool.data.store.arrays import PreparedClip, motion
from psptool.data.store.fingerprint import Fingerprinting, content_digest, coordinates_digest, text_digest
from psptool.data.store.guarded import GuardedFile
from psptool.data.store.layout import (
    CHUNK_CLIPS,
    CHUNK_ROWS,
    KEY_COLUMNS,
    MANIFEST,
    MANIFEST_DIGEST,
    NORMALIZATION,
    ROW_ARRAYS,
    TABLE_COLUMNS,
    row_shape,
)
from psptool.schemas.dataset import DatasetManifest, Fingerprints

_key = attrgetter(*KEY_COLUMNS)


class PackedClips(NamedTuple):
    """Concatenated arrays, motion and digests of several prepared clips, computed in the workers.

    Attributes:
        names: n names, ascending.
        numbers: int64 (n, 7): `KEY_COLUMNS`, then frames and persons.
        origin: float64 (n, 3), metres, camera coordinates.
        scale: float64 (n,), metres per unit.
        rotation: float64 (n, 3, 3).
        coordinates: `coordinates_digest` of each clip.
        content: `content_digest` of each clip.
        joint: float32 (R, V, 3), the rows of all clips.
        motion: float32 (R, V, 3).
        present: bool (R,).
        state: uint8 (R, V).
    """

    names: tuple[str, ...]
    numbers: NDArray[np.int64]
    origin: NDArray[np.float64]
    scale: NDArray[np.float64]
    rotation: NDArray[np.float64]
    coordinates: tuple[bytes, ...]
    content: tuple[bytes, ...]
    joint: NDArray[np.float32]
    motion: NDArray[np.float32]
    present: NDArray[np.bool_]
    state: NDArray[np.uint8]

    @property
    def frames(self) -> int:
        """Number of frames of all clips."""
        return int(self.numbers[:, -2].sum())


def pack(clips: Sequence[PreparedClip], joints: int) -> PackedClips:
    """Concatenate ``clips`` of V = ``joints`` joints to rows, and compute their motion and digests."""
    numbers = np.array([(*_key(clip.key), clip.frames, clip.persons) for clip in clips], np.int64)
    numbers = numbers.reshape(len(clips), len(KEY_COLUMNS) + 2)
    rows = int((numbers[:, -2] * numbers[:, -1]).sum())
    joint, step, present, state = (
        np.empty((rows, *row_shape(name, joints)), dtype) for name, (dtype, _) in ROW_ARRAYS.items()
    )
    coordinates, content, end = [], [], 0
    for clip in clips:
        begin, end = end, end + clip.frames * clip.persons
        # (M, T, V, 3) -> (M * T, V, 3); motion is written straight into its rows, as an (M, T, V, 3) view of them.
        joint[begin:end] = clip.joint.reshape(-1, joints, 3)
        present[begin:end] = clip.present.reshape(-1)
        state[begin:end] = clip.state.reshape(-1, joints)
        differences = motion(clip.joint, clip.present, out=step[begin:end].reshape(clip.joint.shape))
        coordinates.append(coordinates_digest(clip.joint, clip.present))
        normalization = (clip.origin, clip.scale, clip.rotation)
        content.append(content_digest(coordinates[-1], differences, clip.state, clip.key, normalization))
    return PackedClips(
        tuple(clip.name for clip in clips),
        numbers,
        np.array([clip.origin for clip in clips], np.float64).reshape(-1, 3),
        np.array([clip.scale for clip in clips], np.float64),
        np.array([clip.rotation for clip in clips], np.float64).reshape(-1, 3, 3),
        tuple(coordinates),
        tuple(content),
        *(joint, step, present, state),
    )


class StoreWriter:
    """Writes one HDF5 file. A context manager that discards the file unless `finish` or `commit` was called.

    Args:
        path: The final file; its folder must exist. An existing file is kept until the new one is complete.
        joints: V.

    Raises:
        PspError: The file cannot be written (permissions, full disk), or another process is writing it.
    """

    def __init__(self, path: Path, joints: int) -> None:
        self.clips = self.frames = self.rows = 0
        self._path, self._last, self._fingerprinting = path, "", Fingerprinting()
        self._replacement = Replacement(path)
        try:
            self._target = GuardedFile(self._replacement.partial)
            # No timestamps and fixed format versions: the bytes of the file depend on its content only.
            self._file = h5py.File(self._target, "w", libver=("earliest", "v110"), track_order=False)
            with self._writing():
                self._rows = _Rows(self._file, joints)
                self._table = _Table(self._file)
        except BaseException:
            self._replacement.abandon()
            raise

    def add(self, packed: PackedClips) -> None:
        """Append clips. Names must be in ascending order over all calls.

        Raises:
            PspError: The names are not in ascending order, or the file cannot be written.
        """
        for name in packed.names:
            if name <= self._last:
                raise PspError(
                    f"{self._path}: clips must be written in ascending order of their names",
                    f"{name!r} after {self._last!r}",
                )
            self._last = name
        with self._writing():
            self._table.append(packed, self.rows)
            self._rows.append(packed.joint, packed.motion, packed.present, packed.state)
        for name, label, content in zip(
            packed.names, packed.numbers[:, 0].tolist(), packed.content, strict=True
        ):
            self._fingerprinting.add(name, label, content)
        self.clips, self.frames = self.clips + len(packed.names), self.frames + packed.frames
        self.rows += len(packed.joint)

    def fingerprints(self) -> Fingerprints:
        """The fingerprints of the clips added so far, for the manifest."""
        return self._fingerprinting.result()

    def close(self, manifest: DatasetManifest) -> None:
        """Write the buffers and the manifest, and flush the file to disk. `commit` must follow.

        Raises:
            PspError: The file cannot be written.
        """
        with self._writing():
            self._table.flush()
            self._rows.flush()
            text = manifest.model_dump_json()
            self._file.attrs[MANIFEST] = text
            self._file.attrs[MANIFEST_DIGEST] = text_digest(text)
            self._file.close()
            self._target.close()
            self._replacement.sync()

    @property
    def partial(self) -> Path:
        """The temporary file; after `close` it is complete."""
        return self._replacement.partial

    def commit(self) -> None:
        """Rename the closed file to its final name.

        Raises:
            PspError: The file cannot be renamed.
        """
        with self._writing():
            self._replacement.commit()

    def finish(self, manifest: DatasetManifest) -> None:
        """`close`, then `commit`.

        Raises:
            PspError: The file cannot be written.
        """
        self.close(manifest)
        self.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._replacement.done:
            return
        try:
            # The error was raised already; closing may raise it again.
            with suppress(OSError, RuntimeError):
                self._file.close()
        finally:
            self._target.close()
            self._replacement.abandon()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
            self._target.check()
        except (OSError, RuntimeError) as error:
            cause = self._target.error or error
            raise cannot_write(self._path, cause) from cause


class _Rows:
    """The arrays of length R, written one chunk at a time."""

    def __init__(self, file: h5py.File, joints: int) -> None:
        shapes = {name: row_shape(name, joints) for name in ROW_ARRAYS}
        self._datasets = [
            file.create_dataset(
                name,
                (0, *shape),
                ROW_ARRAYS[name][0],
                maxshape=(None, *shape),
                chunks=(CHUNK_ROWS, *shape),
                track_times=False,
            )
            for name, shape in shapes.items()
        ]
        self._buffers: list[NDArray[Any]] = [
            np.zeros((CHUNK_ROWS, *shape), ROW_ARRAYS[name][0]) for name, shape in shapes.items()
        ]
        self._filled = self._written = 0

    def append(self, *values: NDArray[Any]) -> None:
        """Append rows (R, ...) of each array, in the order of `ROW_ARRAYS`."""
        rows, taken = len(values[0]), 0
        while taken < rows:
            if not self._filled and rows - taken >= CHUNK_ROWS:
                # A full chunk: write it from the given arrays, without copying it to the buffers.
                self._write([array[taken : taken + CHUNK_ROWS] for array in values])
                taken += CHUNK_ROWS
                continue
            start = self._filled
            count = min(rows - taken, CHUNK_ROWS - start)
            for buffer, array in zip(self._buffers, values, strict=True):
                buffer[start : start + count] = array[taken : taken + count]
            self._filled, taken = start + count, taken + count
            if self._filled == CHUNK_ROWS:
                self.flush()

    def flush(self) -> None:
        if self._filled:
            self._write([buffer[: self._filled] for buffer in self._buffers])
            self._filled = 0

    def _write(self, values: Sequence[NDArray[Any]]) -> None:
        """Write at most one chunk of rows of each array; only the last chunk of a file may be shorter."""
        start, end = self._written, self._written + len(values[0])
        for dataset, array in zip(self._datasets, values, strict=True):
            row = array.shape[1:]
            dataset.id.set_extent((end, *row))
            if len(array) == CHUNK_ROWS:
                # Bypass HDF5's chunk cache: several times faster, and the bytes are the same.
                dataset.id.write_direct_chunk((start, *(0 for _ in row)), array)
            else:
                dataset[start:end] = array
        self._written = end


class _Table:
    """The arrays of the group ``/clips``, written one chunk at a time."""

    def __init__(self, file: h5py.File) -> None:
        group = file.create_group("clips", track_order=False)
        columns: dict[str, tuple[Any, tuple[int, ...]]] = {"name": (h5py.string_dtype("utf-8"), ())}
        columns |= dict.fromkeys(TABLE_COLUMNS, ("<i8", ()))
        columns |= {name: ("<f8", shape) for name, shape in NORMALIZATION.items()}
        self._datasets = {
            name: group.create_dataset(
                name,
                (0, *shape),
                dtype,
                maxshape=(None, *shape),
                chunks=(CHUNK_CLIPS, *shape),
                track_times=False,
            )
            for name, (dtype, shape) in columns.items()
        }
        self._names: list[str] = []
        self._numbers = np.zeros((CHUNK_CLIPS, len(TABLE_COLUMNS)), np.int64)
        self._normalization = {name: np.zeros((CHUNK_CLIPS, *shape)) for name, shape in NORMALIZATION.items()}
        self._written = 0

    def append(self, packed: PackedClips, first_row: int) -> None:
        """Append clips; the rows of the first one begin at ``first_row``."""
        rows = packed.numbers[:, -2] * packed.numbers[:, -1]  # (n,): frames * persons
        starts = first_row + np.cumsum(rows) - rows  # (n,): exclusive prefix sum of the row counts
        taken = 0
        while taken < len(packed.names):
            start = len(self._names)
            some = slice(taken, taken + CHUNK_CLIPS - start)
            names = packed.names[some]
            place = slice(start, start + len(names))
            self._numbers[place, :-1], self._numbers[place, -1] = packed.numbers[some], starts[some]
            for name, buffer in self._normalization.items():
                buffer[place] = getattr(packed, name)[some]
            self._names += names
            taken += len(names)
            if len(self._names) == CHUNK_CLIPS:
                self.flush()

    def flush(self) -> None:
        filled = len(self._names)
        values: dict[str, Any] = dict(zip(TABLE_COLUMNS, self._numbers[:filled].T, strict=True))
        values |= {name: buffer[:filled] for name, buffer in self._normalization.items()}
        values["name"] = self._names
        for name, dataset in self._datasets.items():
            dataset.resize(self._written + filled, axis=0)
            dataset[self._written :] = values[name]
        self._names, self._written = [], self._written + filled
