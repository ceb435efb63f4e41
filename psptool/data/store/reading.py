"""Reading a prepared dataset: the manifest, the clip table, and the arrays of one clip or of all clips.

Array shapes: n clips, R rows (one person in one frame), M persons, T frames, V joints.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from typing_extensions import Self

from psptool.common.errors import PspError, suggest
from psptool.common.paths import shown
from psptool.common.text import counted
from psptool.data.skeletons.datasets import ClipKey
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.fingerprint import coordinates_digest
from psptool.data.store.layout import (
    CHUNK_ROWS,
    FORMAT_VERSION,
    KEY_COLUMNS,
    MANIFEST,
    NORMALIZATION,
    ROW_ARRAYS,
    TABLE_COLUMNS,
)
from psptool.schemas.base import describe
from psptool.schemas.dataset import DatasetManifest, PreparationSettings

SLICE_ROWS = 8 * CHUNK_ROWS
"""Maximum number of rows that `Store.positions` reads at once: 5 MB for 25 joints."""


class ClipTable(NamedTuple):
    """The clip table: columns of int64 (n,).

    The rows of a clip are first_row to first_row + frames * persons (exclusive), person-major. Labels are 0-based,
    other numbers as in the dataset; -1 if the clip names have no such field.
    """

    label: NDArray[np.int64]
    subject: NDArray[np.int64]
    camera: NDArray[np.int64]
    setup: NDArray[np.int64]
    repetition: NDArray[np.int64]
    frames: NDArray[np.int64]
    persons: NDArray[np.int64]
    first_row: NDArray[np.int64]


class Rows(NamedTuple):
    """Positions of consecutive rows.

    Attributes:
        joint: float32 (R, V, 3), normalized positions; zero where the person is absent.
        present: bool (R,), whether the person is tracked in that frame.
    """

    joint: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class StoredClip:
    """One clip of a prepared dataset.

    Attributes:
        name: The clip's name.
        key: Label, subject, camera, setup, repetition.
        joint: float32 (M, T, V, 3), normalized positions; zero where the person is absent.
        motion: float32 (M, T, V, 3), the next frame minus the current one.
        present: bool (M, T), whether the person is tracked in that frame.
        state: uint8 (M, T, V), tracking states of the joints.
        origin: float64 (3,), metres, camera coordinates.
        scale: Metres per unit.
        rotation: float64 (3, 3), the body axes as rows, in camera coordinates.
        class_name: Name of the clip's class.
        settings: How the dataset was prepared.
    """

    name: str
    key: ClipKey
    joint: NDArray[np.float32]
    motion: NDArray[np.float32]
    present: NDArray[np.bool_]
    state: NDArray[np.uint8]
    origin: NDArray[np.float64]
    scale: float
    rotation: NDArray[np.float64]
    class_name: str
    settings: PreparationSettings

    def __repr__(self) -> str:
        persons, frames, joints, _ = self.joint.shape
        who = counted(persons, "person")
        length = counted(frames, "frame")
        return f"<StoredClip {self.name}: {self.class_name!r}, {who}, {length}, {joints} joints>"

    def prepared(self) -> PreparedClip:
        """The clip as preparation returned it, without the report's notes."""
        return PreparedClip(
            self.name, self.key, self.joint, self.present, self.state, self.origin, self.scale, self.rotation
        )

    def recorded(self) -> NDArray[np.float64]:
        """Positions in camera coordinates, metres: float64 (M, T, V, 3); NaN where the person is absent."""
        # Inverse of the normalization. The rotation's rows are the body axes, so x @ rotation goes back to the camera.
        positions = self.joint.astype(np.float64) * self.scale @ self.rotation + self.origin
        positions[~self.present] = np.nan
        return positions


class Store:
    """An open dataset; a context manager. Names and clip table are read on opening, clips on access.

    Attributes:
        path: The file.
        manifest: The dataset's metadata.
        names: Clip names, ascending.
        table: The clip table.
    """

    def __init__(self, path: Path, file: h5py.File, manifest: DatasetManifest) -> None:
        self.path, self.manifest, self._file = path, manifest, file
        table = file["clips"]
        self.names: tuple[str, ...] = tuple(table["name"].asstr()[:])
        self.table = ClipTable(*(table[name][:].astype(np.int64) for name in TABLE_COLUMNS))
        self._check_sizes()

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[StoredClip]:
        """The clips in the order of `names`, read one at a time."""
        return map(self.clip, range(len(self)))

    def __repr__(self) -> str:
        clips = counted(len(self), "clip")
        classes = len(self.manifest.class_names)
        state = "" if self._file else ", closed"
        skeleton = self.manifest.topology
        content = (
            f"{self.manifest.dataset}, {clips}, {counted(classes, 'class', 'classes')}, {skeleton}{state}"
        )
        return f"<Store {shown(self.path)}: {content}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. The manifest, names and table remain available."""
        self._file.close()

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """The index of the clip ``name`` in the table.

        Raises:
            PspError: There is no such clip.
        """
        try:
            return self._positions[name]
        except KeyError:
            fix = suggest(name, self.names) or "List the clips with psptool inspect."
            raise PspError(f"{self.path}: has no clip {name!r}", fix=fix) from None

    def key(self, index: int) -> ClipKey:
        """The numbers in the name of the clip with this index."""
        return ClipKey(*(int(getattr(self.table, name)[index]) for name in KEY_COLUMNS))

    def clip(self, which: int | str) -> StoredClip:
        """Read one clip by index or name.

        Raises:
            PspError: There is no such clip, or the file is damaged.
        """
        index = self.index(which) if isinstance(which, str) else which
        if not -len(self) <= index < len(self):
            raise PspError(f"{self.path}: has no clip {index}", expected=f"an index below {len(self)}")
        index %= len(self)
        arrays = {name: self._rows_of(name, index) for name in ROW_ARRAYS}
        origin, scale, rotation = (self._read(f"clips/{name}", index) for name in NORMALIZATION)
        key, classes = self.key(index), self.manifest.class_names
        # A damaged table may have any label; `validate` reports it.
        class_name = classes[key.label] if 0 <= key.label < len(classes) else f"label {key.label}"
        return StoredClip(
            self.names[index],
            key,
            **arrays,
            origin=origin,
            scale=float(scale),
            rotation=rotation,
            class_name=class_name,
            settings=self.manifest.settings,
        )

    def positions(self, clips: NDArray[np.integer], slice_rows: int = SLICE_ROWS) -> Iterator[Rows]:
        """Read the positions of clips in slices, one after the other, so that the caller decides where they are kept.

        Args:
            clips: int (n',), clip indices. Neighbours in the file are read together, so ascending indices are fastest.
            slice_rows: Maximum number of rows of a slice.

        Yields:
            The rows of the clips in their order. A slice may begin and end within a clip.

        Raises:
            PspError: The file is damaged.
        """
        first = self.table.first_row[clips]
        end = first + self.table.frames[clips] * self.table.persons[clips]
        # A run of clips ends where the next clip does not follow in the file.
        gap = first[1:] != end[:-1]
        begins, ends = first[np.append(True, gap)[: len(first)]], end[np.append(gap, True)[: len(end)]]
        for run, stop in zip(begins.tolist(), ends.tolist(), strict=True):
            for row in range(run, stop, slice_rows):
                rows = slice(row, min(row + slice_rows, stop))
                yield Rows(self._read("joint", rows), self._read("present", rows))

    def array(self, path: str) -> h5py.Dataset:
        """The HDF5 dataset at ``path``, for direct access.

        Raises:
            PspError: There is no such array.
        """
        found = self._file.get(path)
        if not isinstance(found, h5py.Dataset):
            raise _damaged(self.path, f"array /{path} is missing")
        return found

    def digests(self, indices: Iterable[int] | None = None) -> list[bytes]:
        """Digest of the coordinates of each clip (or of the clips ``indices``); equal for equal coordinates.

        Raises:
            PspError: The file is damaged.
        """
        chosen = range(len(self)) if indices is None else indices
        return [coordinates_digest(self._rows_of("joint", n), self._rows_of("present", n)) for n in chosen]

    def _rows_of(self, name: str, index: int) -> NDArray[Any]:
        frames, persons = int(self.table.frames[index]), int(self.table.persons[index])
        first = int(self.table.first_row[index])
        rows: NDArray[Any] = self._read(name, slice(first, first + frames * persons))
        # (M * T, ...) -> (M, T, ...): rows are person-major.
        return rows.reshape(persons, frames, *rows.shape[1:])

    def _read(self, name: str, what: int | slice) -> Any:
        try:
            return self.array(name)[what]
        except (OSError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, f"/{name} cannot be read ({error})") from error

    def _check_sizes(self) -> None:
        """Check lengths and row offsets: wrong ones would return rows of other clips. `validate` checks the rest."""
        clips, rows = len(self.names), len(self._file["joint"])
        per_clip = (*TABLE_COLUMNS, *NORMALIZATION)
        odd = [f"/clips/{name}" for name in per_clip if len(self._file["clips"][name]) != clips]
        odd += [f"/{name}" for name in ROW_ARRAYS if len(self._file[name]) != rows]
        if odd:
            raise _damaged(self.path, f"{', '.join(odd)}: length differs from /clips/name or /joint")
        sizes = self.table.frames * self.table.persons
        starts = np.concatenate(([0], np.cumsum(sizes)))
        if np.any(sizes < 0) or starts[-1] != rows or not np.array_equal(starts[:-1], self.table.first_row):
            raise _damaged(
                self.path, "/clips/first_row does not agree with the row counts of /clips/frames and persons"
            )


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a prepared dataset.

    Raises:
        PspError: The file does not exist, is not an HDF5 file, is truncated, has another format version, or is not a
            psptool dataset.
    """
    path = Path(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _cannot_open(path, error) from error
    try:
        return Store(path, file, _manifest(path, file))
    except (OSError, RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        file.close()
        raise _damaged(path, str(error)) from error
    except BaseException:
        file.close()
        raise


def _manifest(path: Path, file: h5py.File) -> DatasetManifest:
    text = file.attrs.get(MANIFEST)
    if not isinstance(text, str):
        raise PspError(
            f"{path}: not a psptool dataset: the attribute {MANIFEST!r} is missing",
            fix="Create a dataset with psptool prepare.",
        )
    try:
        return DatasetManifest.model_validate_json(text)
    except ValidationError as error:
        for item in error.errors():
            if item["loc"] == ("format_version",):
                raise PspError(
                    f"{path}: format version not supported",
                    f"version {item['input']}",
                    f"version {FORMAT_VERSION}",
                    "Prepare the dataset again, or use the version of psptool that wrote it.",
                ) from error
        raise _damaged(path, f"attribute {MANIFEST!r}: {describe(error)}") from error


def _cannot_open(path: Path, error: OSError) -> PspError:
    if not path.exists():
        return PspError(f"{path}: no such file", fix="Check the path, or run psptool prepare.")
    if path.is_dir():
        return PspError(
            f"{path}: is a folder", expected="the HDF5 file of a dataset", fix="Choose a file in it."
        )
    if "truncated" in str(error):
        return _damaged(path, "the file is truncated")
    why = "not an HDF5 file" if "signature not found" in str(error) else f"cannot be opened ({error})"
    return PspError(f"{path}: {why}", expected="an HDF5 file from psptool prepare")


def _damaged(path: Path, what: str) -> PspError:
    return PspError(f"{path}: damaged: {what}", fix="Copy it again from its source, or prepare it again.")
