"""Reading columns of Parquet files with pyarrow, an optional dependency (``pip install pyarrow``)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError, RawFormatError
from psptool.formats.readers.base import FileRef
from psptool.formats.readers.text import LARGEST_FLOAT32, excerpt, number_error

MAX_VALUES = 2**25
"""Maximum number of values that are read from a file, rows times columns."""
MAX_UNPACKED = 2**28
"""Maximum size of a file's data once unpacked, in bytes, as stated in the file."""

Texts = tuple[tuple[str, ...], ...]


def read_parquet(
    file: FileRef, blob: bytes
) -> tuple[tuple[str, ...], Callable[[Sequence[int], int], tuple[NDArray[np.float64], Texts]]]:
    """The names of the columns, and a function that reads some of them.

    The function's arguments are the indices of the columns, and how many of the first of these have text. It returns
    the values, float64 (R, columns) with the index of the text in columns of text, and the different texts of each such
    column.

    Raises:
        RawFormatError: The file is damaged or too large, a column has neither numbers nor text, or a number is not in
            the range of float32.
        PspError: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import compute, parquet
    except ImportError as error:
        raise PspError(
            f"{file}: reading Parquet files needs pyarrow ({error})",
            fix="Install it with `pip install pyarrow`, or save the file as CSV.",
        ) from error

    damage = (arrow.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError)

    def damaged(error: BaseException) -> RawFormatError:
        return RawFormatError("damaged", str(file), excerpt(str(error)), "a complete Parquet file")

    try:
        opened = parquet.ParquetFile(io.BytesIO(blob))
        names = tuple(str(name) for name in opened.schema_arrow.names)
        about = opened.metadata
        unpacked = sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups))
        rows = int(about.num_rows)
        if rows < 0:
            raise ValueError(f"{rows} rows")
    except damage as error:
        raise damaged(error) from None
    if not 0 <= unpacked <= MAX_UNPACKED:
        raise RawFormatError(
            "too large", str(file), f"{unpacked} bytes once unpacked", f"at most {MAX_UNPACKED}"
        )

    def read(columns: Sequence[int], texts: int) -> tuple[NDArray[np.float64], Texts]:
        if rows * max(1, len(columns)) > MAX_VALUES:
            found = f"{rows} rows of {len(columns)} columns"
            raise RawFormatError("too large", str(file), found, f"at most {MAX_VALUES} values")
        values, known = np.empty((rows, len(columns))), []
        for slot, column in enumerate(columns):
            where = f"{file}, column {names[column]}"
            try:
                found = _column(arrow, opened, names, column)
                if slot < texts:
                    encoded = compute.dictionary_encode(compute.fill_null(found.cast(arrow.string()), ""))
                    known.append(tuple(map(str, encoded.dictionary.to_pylist())))
                    values[:, slot] = encoded.indices.to_numpy(zero_copy_only=False)
                else:
                    numbers = found.cast(arrow.float64(), safe=False)
                    values[:, slot] = numbers.to_numpy(zero_copy_only=False)
                    if len(large := np.flatnonzero(np.abs(values[:, slot]) > LARGEST_FLOAT32)):
                        row = int(large[0])
                        raise number_error(
                            str(values[row, slot]), f"{file}, row {row + 1}, column {names[column]}"
                        )
            except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError, arrow.ArrowTypeError) as error:
                expected = "text or numbers" if slot < texts else "numbers"
                raise RawFormatError("type", where, excerpt(str(error)), expected) from None
            except damage as error:
                raise damaged(error) from None
        return values, tuple(known)

    return names, read


def _column(arrow: Any, opened: Any, names: Sequence[str], column: int) -> Any:
    """One column as a contiguous array."""
    if names.count(names[column]) > 1:
        raise arrow.ArrowInvalid(f"{names.count(names[column])} columns with this name")
    found = opened.read(columns=[names[column]], use_threads=False).column(0)
    return found.combine_chunks() if found.num_chunks != 1 else found.chunk(0)
