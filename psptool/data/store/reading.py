"""Reading a prepared dataset: the manifest, the clip table, and the arrays of one clip or of all clips.

Array shapes: n clips, R rows (one person in one frame), M persons, T frames, V joints.
"""

from __future__ import annotations

import difflib
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from psptool.common.errors import PspError, cannot_read
from psptool.common.paths import regular_size, shown
from psptool.common.text import counted
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.layout import (
    CHUNK_ROWS,
    FORMAT_VERSION,
    KEY_COLUMNS,
    MANIFEST,
    NORMALIZATION,
    TABLE_COLUMNS,
    bytes_per_row,
)
from psptool.data.store.structure import check_structure, check_table, manifest_text
from psptool.schemas.base import describe
from psptool.schemas.clip_names import CLIP_NAME
from psptool.schemas.dataset import DatasetManifest, PreparationSettings
from psptool.skeletons.keys import ClipKey, class_name

SLICE_ROWS = 8 * CHUNK_ROWS
"""Maximum number of rows that `Store.positions` reads at once: 5 MB for 25 joints."""
BLOCK_BYTES = 8 * 2**20
"""Size of the clips that are read together."""
_PLAIN = re.compile(r"[0-9A-Za-z_\n]*")


def _are_plain(names: Sequence[str]) -> bool:
    """Whether the names are of letters, digits and _ only, as most are: one match for all is faster than one each."""
    lines = "\n".join(names)
    return lines.count("\n") == len(names) - 1 and all(names) and _PLAIN.fullmatch(lines) is not None


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


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
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


class Normalization(NamedTuple):
    """The normalization of n clips.

    Attributes:
        origin: float64 (n, 3), metres, camera coordinates.
        scale: float64 (n,), metres per unit.
        rotation: float64 (n, 3, 3), the body axes as rows, in camera coordinates.
    """

    origin: NDArray[np.float64]
    scale: NDArray[np.float64]
    rotation: NDArray[np.float64]


@dataclass(frozen=True)
class ClipBlock:
    """The rows of neighbouring clips.

    Attributes:
        store: The dataset.
        indices: The clips.
        normalization: Of these clips.
        joint: float32 (R, V, 3).
        present: bool (R,).
        state: uint8 (R, V).
    """

    store: Store
    indices: range
    normalization: Normalization
    joint: NDArray[np.float32]
    present: NDArray[np.bool_]
    state: NDArray[np.uint8]

    @cached_property
    def motion(self) -> NDArray[np.float32]:
        """The ``motion`` array of these rows, float32 (R, V, 3); read on first use.

        Raises:
            PspError: The file is damaged.
        """
        motion: NDArray[np.float32] = self.store._read("motion", self.store._rows_of(self.indices))
        return motion

    @property
    def person_starts(self) -> NDArray[np.int64]:
        """The first row of each person, and R."""
        table, clips = self.store.table, slice(self.indices.start, self.indices.stop)
        lengths = np.repeat(table.frames[clips], table.persons[clips])
        return np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))

    def place(self, number: int) -> tuple[slice, tuple[int, int]]:
        """The rows (person-major) of the clip ``number`` of the block, and their shape (M, T)."""
        store, index = self.store, self.indices[number]
        first = store._row_starts[self.indices.start]
        return slice(store._row_starts[index] - first, store._row_starts[index + 1] - first), store._shapes[
            index
        ]

    def clip(self, number: int) -> StoredClip:
        """The clip ``number`` of the block, whose arrays are views of the block's."""
        store, index = self.store, self.indices[number]
        place, shape = self.place(number)
        key = store.key(index)
        origin, scale, rotation = (values[number] for values in self.normalization)
        vectors = (*shape, *self.joint.shape[1:])
        return StoredClip(
            store.names[index],
            key,
            joint=self.joint[place].reshape(vectors),
            motion=self.motion[place].reshape(vectors),
            present=self.present[place].reshape(shape),
            state=self.state[place].reshape(vectors[:-1]),
            origin=origin,
            scale=float(scale),
            rotation=rotation,
            class_name=class_name(store.manifest.class_names, key.label),
            settings=store.manifest.settings,
        )


class Store:
    """An open dataset; a context manager. Names and clip table are read on opening, clips on access.

    ``dataset[0]``, ``dataset[name]`` and ``dataset.clip(...)`` read one clip; a loop reads all of them in the order of
    `names`. A pickled dataset is opened again by its path, so that worker processes can read it.

    Attributes:
        path: The file.
        manifest: The dataset's metadata.
        class_names: Class names, indexed by label.
        names: Clip names, ascending.
        table: The clip table: label, numbers in the names, frames and persons of each clip.
    """

    def __init__(self, path: Path, file: h5py.File, manifest: DatasetManifest) -> None:
        self.path, self.manifest, self._file = path, manifest, file
        self.class_names: tuple[str, ...] = manifest.class_names
        self._arrays: dict[str, h5py.Dataset] = {}
        table = file["clips"]
        self.names: tuple[str, ...] = tuple(table["name"].asstr()[:])
        if not _are_plain(self.names) and not all(map(CLIP_NAME.fullmatch, self.names)):
            raise ValueError(
                "/clips/name: found a name with other characters than letters, digits and _ . + -"
            )
        self.table = ClipTable(*(table[name][:] for name in TABLE_COLUMNS))
        check_table(self.table._asdict(), len(file["joint"]), len(manifest.class_names))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: int | str) -> StoredClip:
        """The clip with this index or name; see `clip`."""
        return self.clip(which)

    def __reduce__(self) -> tuple[Callable[[Path, str], Store], tuple[Path, str]]:
        if not self._file:
            raise PspError(f"{self.path}: a closed dataset cannot be pickled", fix="Open it again.")
        return reopen_store, (self.path.absolute(), self.manifest.fingerprints.content)

    def __iter__(self) -> Iterator[StoredClip]:
        """The clips in the order of `names`."""
        return self.clips()

    def __repr__(self) -> str:
        clips = counted(len(self), "clip")
        classes = len(self.manifest.class_names)
        state = "" if self._file else ", closed"
        skeleton = self.manifest.topology.name
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
            near = difflib.get_close_matches(name, self.names, n=3)
            fix = f"Did you mean {' or '.join(near)}?" if near else f"The first clip is {self.names[0]}."
            fix += " dataset.names lists all clips."
            raise PspError(f"{self.path}: has no clip {name!r}", fix=fix) from None

    def key(self, which: int | str) -> ClipKey:
        """The numbers in the name of one clip, by index or name.

        Raises:
            PspError: There is no such clip.
        """
        return self._keys[self._checked_index(which)]

    def _checked_index(self, which: int | str) -> int:
        """Index of a clip, 0 to N - 1, from an index (negative: from the end) or a name."""
        try:
            index = self.index(which) if isinstance(which, str) else operator.index(which)
        except TypeError:
            raise PspError("clip", f"{which!r:.60}", "an index or a name") from None
        if not -len(self) <= index < len(self):
            raise PspError(f"{self.path}: has no clip {index}", expected=f"an index below {len(self)}")
        return index % len(self)

    @cached_property
    def _keys(self) -> tuple[ClipKey, ...]:
        return tuple(map(ClipKey, *(getattr(self.table, name).tolist() for name in KEY_COLUMNS)))

    @cached_property
    def _shapes(self) -> list[tuple[int, int]]:
        """(M, T) of each clip."""
        return list(zip(self.table.persons.tolist(), self.table.frames.tolist(), strict=True))

    @cached_property
    def _row_starts(self) -> list[int]:
        """The first row of each clip, and R."""
        return [*self.table.first_row.tolist(), int((self.table.frames * self.table.persons).sum())]

    def clip(self, which: int | str) -> StoredClip:
        """Read one clip by index or name.

        Raises:
            PspError: There is no such clip, or the file is damaged.
        """
        (found,) = self.clips([self._checked_index(which)])
        return found

    def clips(self, indices: Iterable[int] | None = None) -> Iterator[StoredClip]:
        """Read the clips ``indices`` (all if None) in this order; neighbours are read together, which is faster.

        Raises:
            PspError: The file is damaged.
        """
        for block in self.blocks(indices):
            yield from map(block.clip, range(len(block.indices)))

    def blocks(self, indices: Iterable[int] | None = None) -> Iterator[ClipBlock]:
        """Read the clips ``indices`` (all if None) in blocks of neighbours, of up to `BLOCK_BYTES` or one clip.

        Raises:
            PspError: The file is damaged.
        """
        for run in self._runs(indices):
            clips, rows = slice(run.start, run.stop), self._rows_of(run)
            normalization = Normalization(*(self._read(f"clips/{name}", clips) for name in NORMALIZATION))
            arrays = (self._read(name, rows) for name in ("joint", "present", "state"))
            yield ClipBlock(self, run, normalization, *arrays)

    def _runs(self, indices: Iterable[int] | None) -> Iterator[range]:
        """The clips ``indices`` as runs of neighbours, of up to `BLOCK_BYTES` or one clip."""
        most = max(1, BLOCK_BYTES // bytes_per_row(self.array("joint").shape[1]))
        run, starts = range(0), self._row_starts
        for index in range(len(self)) if indices is None else indices:
            if run and index == run.stop and starts[index + 1] - starts[run.start] <= most:
                run = range(run.start, index + 1)
                continue
            if run:
                yield run
            run = range(index, index + 1)
        if run:
            yield run

    def _rows_of(self, run: range) -> slice:
        """The rows of neighbouring clips."""
        return slice(self._row_starts[run.start], self._row_starts[run.stop])

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
            PspError: There is no such array, or the dataset is closed.
        """
        if not self._file:
            raise PspError(f"{self.path}: the dataset is closed", fix="Open it again.")
        # h5py takes longer to find an array than to read a clip of it.
        if path not in self._arrays:
            found = self._file.get(path)
            if not isinstance(found, h5py.Dataset):
                raise _damaged(self.path, f"array /{path} is missing")
            self._arrays[path] = found
        return self._arrays[path]

    def _read(self, name: str, what: int | slice) -> Any:
        try:
            return self.array(name)[what]
        except (OSError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, f"/{name} cannot be read ({error})") from error


def open_store(path: str | os.PathLike[str], *, locked: bool = True) -> Store:
    """Open a prepared dataset, and check its structure before anything of it is read.

    Args:
        path: The file.
        locked: Take HDF5's lock for reading; False for a temporary file that this process has locked for writing.

    Raises:
        PspError: The file does not exist, is not an HDF5 file, is truncated, has another format version, is not a
            psptool dataset, or has another structure: `psptool.data.store.structure` says which is accepted.
    """
    path = Path(path)
    size = _size(path)
    try:
        file = h5py.File(path, "r", locking=None if locked else False)
    except (OSError, RuntimeError) as error:
        raise _cannot_open(path, error) from error
    try:
        manifest = _manifest(path, file)
        check_structure(file, manifest.topology.size, size)
        return Store(path, file, manifest)
    except (OSError, RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        file.close()
        raise _damaged(path, str(error)) from error
    except BaseException:
        file.close()
        raise


def reopen_store(path: Path, content: str) -> Store:
    """Open a dataset that was open before, perhaps in another process.

    Args:
        path: The file.
        content: Its content fingerprint.

    Raises:
        PspError: As `open_store`; or the file was replaced by one with other content.
    """
    store = open_store(path)
    if store.manifest.fingerprints.content != content:
        store.close()
        raise PspError(f"{path}: not the dataset that was open before: its content differs")
    return store


def _size(path: Path) -> int:
    """Size of the file in bytes.

    Raises:
        PspError: There is no such file, or it is a folder, pipe or device, from which reading could wait forever.
    """
    try:
        return regular_size(path)
    except FileNotFoundError:
        raise PspError(f"{path}: no such file", fix="Check the path, or run psptool prepare.") from None
    except (OSError, ValueError) as error:
        raise cannot_read(path, error, expected="the HDF5 file of a dataset") from error


def _manifest(path: Path, file: h5py.File) -> DatasetManifest:
    text = manifest_text(file)
    if text is None:
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
                    f"version {item['input']!s:.20}",
                    f"version {FORMAT_VERSION}",
                    "Prepare the dataset again, or use the version of psptool that wrote it.",
                ) from error
        raise _damaged(path, f"attribute {MANIFEST!r}: {describe(error)}") from error


def _cannot_open(path: Path, error: Exception) -> PspError:
    if "truncated" in str(error):
        return _damaged(path, "the file is truncated")
    why = "not an HDF5 file" if "signature not found" in str(error) else f"cannot be opened ({error})"
    return PspError(f"{path}: {why}", expected="an HDF5 file from psptool prepare")


def _damaged(path: Path, what: str) -> PspError:
    return PspError(f"{path}: damaged: {what}", fix="Copy it again from its source, or prepare it again.")
