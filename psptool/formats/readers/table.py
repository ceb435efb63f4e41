"""Tables for any skeleton: CSV, TSV, text with blanks, and Parquet (with pyarrow), one file per recording.

- *Wide form*: a row is one person in one frame, with one column per coordinate.
- *Long form*: a row is one joint of one person in one frame.

Names of columns and joints are compared without upper and lower case, spaces and punctuation: ``Left Hip.x`` and
``left_hip_x`` are the same.

- *Missing*: a coordinate that is empty, NaN, NA, N/A, null, none or ``-``. A joint is missing without one of its
  coordinates, at exactly zero in all of them, or with a confidence that is not above ``options.min_confidence``.
- *Frame numbers* may begin anywhere. A number that does not occur is a frame without a body, unless ``options.max_gap``
  has it interpolated. Without such a column, the rows of the wide form are consecutive frames.
- *Repetitions*: of several rows for one frame and person (long form: and joint), the first is used, and the report says
  how many were ignored. If no frame has a single row and there is no column for the person, the file is refused:
  it probably has several persons.
- *Text*: fields may be quoted. Lines end with LF, CR LF or CR. Files must be UTF-8; a byte order mark is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import RawFormatError
from psptool.common.text import counted
from psptool.formats.readers.base import ClipSource, FileRef, RawClip, Stray
from psptool.formats.readers.detections import Detections, drop_uncertain, to_clip
from psptool.formats.readers.naming import KeyOf, find_named
from psptool.formats.readers.table_layout import Layouts, whole_number
from psptool.formats.readers.table_text import Rows, read_text
from psptool.formats.readers.text import no_body, without_mark
from psptool.schemas.formats import TableOptions
from psptool.skeletons.topology import Topology

MAX_CELLS = 2**25
"""Maximum number of joints times bodies of a recording in long form."""
MAX_FRAME = 2**53
"""Larger frame numbers are not exact in float64."""

_PARQUET = b"PAR1"


class TableReader:
    """Reads tables of any skeleton; see `psptool.formats.readers.base.Reader`, and this module for the format.

    Args:
        topology: The skeleton, with V joints.
        options: Options of this format.
        key_of: Function from a clip's name to its key; None for any name.
        joints: The file's joints in order, by their names in the skeleton, None for one that it does not have; empty
            if they are the skeleton's joints. The order matters where joints have numbers, or columns no names.
    """

    def __init__(
        self,
        topology: Topology,
        options: TableOptions,
        key_of: KeyOf | None,
        joints: Sequence[str | None] = (),
    ) -> None:
        self.format = "table"
        self.topology, self.options, self.key_of = topology, options, key_of
        self._dimensions, self._layouts = topology.dimensions, Layouts(topology, options, joints)

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """Clips are files with the suffixes of the options whose name is a clip name; others are strays."""
        return find_named(files, self.options, self.key_of)

    def compile(self) -> None:
        """Load the compiled scanner, or compile it."""
        from psptool.formats.readers.scanner import scan_table

        scan_table(b"1", 0, ",", np.zeros(1, np.int64), 0)

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the bytes of one file to a clip.

        Raises:
            RawFormatError: The file is malformed. The message names the line and, where possible, the column.
        """
        (blob,), (file,) = map(without_mark, blobs), source.files
        rows = self._rows(file, blob)
        if not len(rows.values):
            raise no_body(source, 0)
        number, person = self._frames(rows), self._persons(rows)
        first = rows.layout.texts + rows.layout.frame  # the first coordinate among the values
        if self.options.form == "wide":
            detections, notes = self._wide(file, rows, first, number, person)
        else:
            detections, notes = self._long(file, rows, first, number, person)
        where = f"{file}, column {rows.layout.names[first - 1]}" if rows.layout.frame else str(file)
        ends = int(number.min()), int(number.max())
        return to_clip(source, where, detections, self.options.max_gap, ends, notes)

    def _wide(
        self,
        file: FileRef,
        rows: Rows,
        first: int,
        number: NDArray[np.int64],
        person: NDArray[np.int64] | None,
    ) -> tuple[Detections, tuple[str, ...]]:
        """One body per row."""
        joints, dimensions = self.topology.size, self._dimensions
        end = first + joints * dimensions
        positions = rows.values[:, first:end].reshape(-1, joints, dimensions)
        confidence = rows.values[:, end : end + joints] if rows.layout.confidence else None
        drop_uncertain(positions, confidence, self.options.min_confidence)
        ids = np.zeros(len(number), np.int64) if person is None else person
        if (np.diff(number) > 0).all():  # the usual case
            return Detections(number, ids, positions), ()
        order = np.lexsort((ids, number))  # stable: of equal rows, the first comes first
        number, ids, positions = number[order], ids[order], positions[order]
        new = np.ones(len(number), bool)
        new[1:] = (np.diff(number) != 0) | (np.diff(ids) != 0)
        notes = self._repetition(file, len(number) - int(new.sum()), number[new], number, person is not None)
        return Detections(number[new], ids[new], positions[new]), notes

    def _long(
        self,
        file: FileRef,
        rows: Rows,
        first: int,
        number: NDArray[np.int64],
        person: NDArray[np.int64] | None,
    ) -> tuple[Detections, tuple[str, ...]]:
        """One joint per row; a joint without a row is missing."""
        of_text = self._layouts.joint_numbers(file, rows.texts[0])  # index in the skeleton, or -1
        joint = of_text[rows.values[:, 0].astype(np.int64)]  # (R,)
        used = joint >= 0
        ids = np.zeros(len(number), np.int64) if person is None else person
        coordinates = rows.values[:, first : first + self._dimensions]
        confidence = rows.values[:, first + self._dimensions] if rows.layout.confidence else None
        drop_uncertain(coordinates, confidence, self.options.min_confidence)
        if not used.all():
            number, ids, joint, coordinates = number[used], ids[used], joint[used], coordinates[used]
        if (np.diff(number) < 0).any() or (np.diff(ids) != 0).any():
            order = np.lexsort((ids, number))
            number, ids, joint, coordinates = number[order], ids[order], joint[order], coordinates[order]
        new = np.ones(len(number), bool)
        new[1:] = (np.diff(number) != 0) | (np.diff(ids) != 0)
        body = np.cumsum(new) - 1  # (R,), the body of each row
        bodies, joints = int(body[-1]) + 1, self.topology.size
        if bodies * joints > MAX_CELLS:
            found = f"{bodies} bodies of {joints} joints"
            raise RawFormatError("too large", str(file), found, f"at most {MAX_CELLS} joints in all")
        positions = np.full((bodies, joints, self._dimensions), np.nan)
        # Backwards, so that of several rows for one joint the first is written last.
        positions[body[::-1], joint[::-1]] = coordinates[::-1]
        there = np.zeros((bodies, joints), bool)
        there[body, joint] = True
        repeated = len(number) - int(there.sum())
        notes: tuple[str, ...] = ()
        if repeated:
            kept = number[np.unique(body * joints + joint, return_index=True)[1]]
            notes = self._repetition(file, repeated, kept, number, person is not None)
        return Detections(number[new], ids[new], positions), notes

    def _repetition(
        self,
        file: FileRef,
        repeated: int,
        kept: NDArray[np.int64],
        every: NDArray[np.int64],
        has_person: bool,
    ) -> tuple[str, ...]:
        """The note on ``repeated`` rows that were ignored.

        Args:
            file: The file.
            repeated: Number of rows that repeat another one's frame and person (long form: and joint).
            kept: Frame numbers of the rows that are kept.
            every: Frame numbers of all rows.
            has_person: Whether there is a column of the person.

        Raises:
            RawFormatError: There is no column of the person, and every frame has repeated rows.
        """
        if not repeated:
            return ()
        what = "row" if self.options.form == "wide" else "row per joint"
        if not has_person and set(every.tolist()) == _repeated_frames(kept, every):
            found = f"every frame has more than one {what}"
            expected = "one person, or a column of the person's number (option `person`)"
            raise RawFormatError("several persons", str(file), found, expected)
        same = "frame and person" if self.options.form == "wide" else "frame, person and joint"
        return (f"{counted(repeated, 'row')} with the {same} of an earlier row, ignored",)

    def _frames(self, rows: Rows) -> NDArray[np.int64]:
        """The frame number of each row, int64 (R,)."""
        if not rows.layout.frame:
            return np.arange(len(rows.values))
        column = rows.layout.texts
        values = rows.values[:, column]
        # NaN is not equal to itself. Compared in float64, because large numbers have no int64.
        wrong = ~((values == np.floor(values)) & (np.abs(values) < MAX_FRAME))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            where = f"{rows.place(row)}, column {rows.layout.names[column]}"
            found = "no number" if np.isnan(values[row]) else f"{values[row]:.12g}"
            raise RawFormatError("frame number", where, found, "an integer")
        return values.astype(np.int64)

    def _persons(self, rows: Rows) -> NDArray[np.int64] | None:
        """The id of each row's person, int64 (R,): the number, or the order of appearance of persons with names."""
        if not rows.layout.person:
            return None
        texts = rows.texts[rows.layout.texts - 1]
        numbers = [whole_number(text) for text in texts]
        ids = list(range(len(texts))) if None in numbers else [n for n in numbers if n is not None]
        return np.array(ids, np.int64)[rows.values[:, rows.layout.texts - 1].astype(np.int64)]

    def _rows(self, file: FileRef, blob: bytes) -> Rows:
        """The used values of a text or Parquet file."""
        if not blob.startswith(_PARQUET):
            return read_text(file, blob, self.options, self._layouts)
        from psptool.formats.readers.parquet import read_parquet

        names, read = read_parquet(file, blob)
        layout = self._layouts.find(file, names, True)
        # The used columns in the order of their values.
        columns = np.argsort(layout.columns, kind="stable")[int((layout.columns < 0).sum()) :]
        values, texts = read(columns.tolist(), layout.texts)
        return Rows(layout, values, texts, lambda row: f"{file}, row {row + 1}")


def _repeated_frames(kept: NDArray[np.int64], every: NDArray[np.int64]) -> set[int]:
    """The frames that have more rows than are kept."""
    frames, counts = np.unique(every, return_counts=True)
    kept_frames, kept_counts = np.unique(kept, return_counts=True)
    return set(frames[counts > kept_counts[np.searchsorted(kept_frames, frames)]].tolist())
