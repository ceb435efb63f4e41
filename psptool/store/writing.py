"""Writing a prepared dataset: clip by clip, in name order, whole or not at all.

The file grows under a temporary name (``.<name>.partial``) in the folder of the final one, and takes the
final name once every byte is on the disk. Memory does not grow with the number of clips. The same clips give
the same bytes.

Notation for array shapes: M persons, T frames, V joints; rows R = M * T, person-major.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from psptool.errors import PspError
from psptool.replacing import Replacement
from psptool.schemas.dataset import DatasetManifest, Fingerprints
from psptool.store.arrays import PreparedClip, motion
from psptool.store.fingerprint import Fingerprinting, content_digest, coordinates_digest
from psptool.store.guarded import GuardedFile
from psptool.store.layout import (
    CHUNK_CLIPS,
    CHUNK_ROWS,
    MANIFEST,
    NORMALIZATION,
    ROW_ARRAYS,
    TABLE_COLUMNS,
    row_shape,
)


class PackedClip(NamedTuple):
    """A prepared clip with all that the writer would otherwise compute: this is made where the clip is.

    Attributes:
        clip: The clip.
        motion: float32 (M, T, V, 3).
        coordinates: Its `coordinates_digest`.
        content: Its `content_digest`.
    """

    clip: PreparedClip
    motion: NDArray[np.float32]
    coordinates: bytes
    content: bytes


def pack(clip: PreparedClip) -> PackedClip:
    """Take differences and digests of ``clip``."""
    step = motion(clip.joint, clip.present)
    coordinates = coordinates_digest(clip.joint, clip.present)
    normalization = (clip.origin, clip.scale, clip.rotation)
    return PackedClip(
        clip, step, coordinates, content_digest(coordinates, step, clip.state, clip.key, normalization)
    )


class StoreWriter:
    """Writes one HDF5 file; a context manager that leaves nothing behind unless `finish` was called.

    Args:
        path: The final file; its folder must exist. What stands there stays until the new one is whole.
        joints: V.

    Raises:
        PspError: The file cannot be written (permission, full disk), or another process is writing it.
    """

    def __init__(self, path: Path, joints: int) -> None:
        self.clips = self.frames = self.rows = 0
        self._path, self._last, self._fingerprinting = path, "", Fingerprinting()
        self._replacement = Replacement(path)
        try:
            self._target = GuardedFile(self._replacement.partial)
            # Without times and with fixed versions of its structures, a file depends on its content alone.
            self._file = h5py.File(self._target, "w", libver=("earliest", "v110"), track_order=False)
            with self._writing():
                self._rows = _Rows(self._file, joints)
                self._table = _Table(self._file)
        except BaseException:
            self._replacement.abandon()
            raise

    def add(self, packed: PackedClip) -> None:
        """Append a clip; names must ascend.

        Raises:
            PspError: The name does not come after the last one's, or the file cannot be written.
        """
        clip = packed.clip
        if clip.name <= self._last:
            raise PspError(
                f"{self._path}: clips must be written in name order", f"{clip.name!r} after {self._last!r}"
            )
        with self._writing():
            self._table.append(clip, self.rows)
            self._rows.append(clip.joint, packed.motion, clip.present, clip.state)
        self._last = clip.name
        self._fingerprinting.add(clip.name, clip.key.label, packed.content)
        self.clips, self.frames = self.clips + 1, self.frames + clip.frames
        self.rows += clip.frames * clip.persons

    def fingerprints(self) -> Fingerprints:
        """The fingerprints of the clips added so far, for the manifest."""
        return self._fingerprinting.result()

    def close(self, manifest: DatasetManifest) -> None:
        """Write what is buffered and the manifest, and put the file on the disk; `commit` is left to do.

        Raises:
            PspError: The file cannot be written.
        """
        with self._writing():
            self._table.flush()
            self._rows.flush()
            self._file.attrs[MANIFEST] = manifest.model_dump_json()
            self._file.close()
            self._target.close()
            self._replacement.sync()

    def commit(self) -> None:
        """Give the closed file its final name.

        Raises:
            PspError: It cannot take the name.
        """
        with self._writing():
            self._replacement.commit()

    def finish(self, manifest: DatasetManifest) -> None:
        """`close` and `commit` in one.

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
            # What went wrong was said already; HDF5 may stumble over it once more.
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
            raise PspError(
                f"{self._path}: cannot be written ({getattr(cause, 'strerror', None) or cause})",
                way_out="Free space on the disk or mend the folder's permissions, or choose another file.",
            ) from cause


def write_store(
    path: Path, clips: Iterable[PreparedClip], joints: int, draft: DatasetManifest
) -> DatasetManifest:
    """Write ``clips`` (in name order) with the manifest ``draft``, its fingerprints and sizes filled in.

    Returns:
        The manifest as written.

    Raises:
        PspError: The names do not ascend, or the file cannot be written.
    """
    with StoreWriter(path, joints) as writer:
        for clip in clips:
            writer.add(pack(clip))
        sizes = {"clips": writer.clips, "frames": writer.frames, "rows": writer.rows}
        manifest = draft.model_copy(
            update={
                "fingerprints": writer.fingerprints(),
                "counts": draft.counts.model_copy(update=sizes),
            }
        )
        writer.finish(manifest)
    return manifest


class _Rows:
    """The arrays of length R, filled a whole chunk at a time."""

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

    def append(self, *clip: NDArray[Any]) -> None:
        """Take a clip's arrays (M, T, ...), in the order of `ROW_ARRAYS`."""
        rows = clip[0].shape[0] * clip[0].shape[1]
        values = [array.reshape(rows, *array.shape[2:]) for array in clip]
        taken = 0
        while taken < rows:
            start = self._filled
            count = min(rows - taken, CHUNK_ROWS - start)
            for buffer, array in zip(self._buffers, values, strict=True):
                buffer[start : start + count] = array[taken : taken + count]
            self._filled, taken = start + count, taken + count
            if self._filled == CHUNK_ROWS:
                self.flush()

    def flush(self) -> None:
        if not self._filled:
            return
        start, end = self._written, self._written + self._filled
        for dataset, buffer in zip(self._datasets, self._buffers, strict=True):
            row = buffer.shape[1:]
            dataset.id.set_extent((end, *row))
            if self._filled == CHUNK_ROWS:
                # Past HDF5's chunk cache: several times as fast, and the same bytes.
                dataset.id.write_direct_chunk((start, *(0 for _ in row)), buffer)
            else:
                dataset[start:end] = buffer[: self._filled]
        self._written, self._filled = end, 0


class _Table:
    """The arrays under ``/clips``, filled a whole chunk at a time."""

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

    def append(self, clip: PreparedClip, first_row: int) -> None:
        place, key = len(self._names), clip.key
        numbers = (key.label, key.subject, key.camera, key.setup, key.repetition)
        self._numbers[place] = (*numbers, clip.frames, clip.persons, first_row)
        for name, buffer in self._normalization.items():
            buffer[place] = getattr(clip, name)
        self._names.append(clip.name)
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
