"""The check of a dataset's HDF5 structure before anything of it is read: links, datasets, types, shapes and sizes.

HDF5 follows soft and external links, external storage and virtual datasets to other files without a word, and a few
bytes can declare petabytes. A file is therefore accepted only if it has exactly what the writer writes.

Array shapes: n clips, R rows (one person in one frame), V joints.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5l, h5o, h5t
from numpy.typing import NDArray

from psptool.data.store.fingerprint import text_digest
from psptool.data.store.layout import (
    MANIFEST,
    MANIFEST_DIGEST,
    NORMALIZATION,
    ROW_ARRAYS,
    TABLE_COLUMNS,
    row_shape,
)
from psptool.skeletons.keys import NO_LABEL

MAX_MANIFEST = 2**24
"""Largest manifest in characters; that of NTU 120 has 25,000. Protocols may list clips by name."""
MAX_NAME = 255
"""Largest length of a clip name in bytes."""
_LAYOUTS = {
    h5d.COMPACT: "compact",
    h5d.CONTIGUOUS: "contiguous",
    h5d.CHUNKED: "chunked",
    h5d.VIRTUAL: "virtual",
}
_LINKS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
_REFERENCE_BYTES = 16
"""Size in a chunk of one string's reference: uint32 length, uint64 address, uint32 index."""


class Expected(NamedTuple):
    """Type and shape of one entry of an array: a clip's or a row's.

    Attributes:
        dtype: As h5py takes it.
        shape: Of one entry.
    """

    dtype: Any
    shape: tuple[int, ...]


def manifest_text(file: h5py.File) -> str | None:
    """The attribute with the manifest; None if there is none.

    Raises:
        ValueError: The attribute is not one string, is longer than `MAX_MANIFEST`, or does not have its digest.
    """
    text, digest = _text(file, MANIFEST), _text(file, MANIFEST_DIGEST)
    if text is not None and digest not in (None, text_digest(text)):
        raise ValueError(f"attribute {MANIFEST!r} does not have the digest in {MANIFEST_DIGEST!r}")
    return text


def _text(file: h5py.File, name: str) -> str | None:
    """A text attribute; None if there is none."""
    if not h5a.exists(file.id, name.encode()):
        return None
    attribute = h5a.open(file.id, name.encode())
    found = h5py.check_string_dtype(attribute.dtype)
    if attribute.shape != () or found is None or found.length is not None:
        raise ValueError(f"attribute {name!r} is not one string of variable length")
    text = str(file.attrs[name])
    if len(text) > MAX_MANIFEST:
        raise ValueError(f"attribute {name!r} has {len(text):,} characters, more than {MAX_MANIFEST:,}")
    return text


def check_structure(file: h5py.File, joints: int, size: int) -> None:
    """Check that the file has exactly the datasets of the layout, as hard links, and that all of them fit into it.

    Args:
        file: The open file; nothing but its manifest has been read.
        joints: V of the manifest's dataset.
        size: Size of the file in bytes, the bound of all arrays.

    Raises:
        ValueError: The structure differs; says where.
    """
    rows = {name: Expected(dtype, row_shape(name, joints)) for name, (dtype, _) in ROW_ARRAYS.items()}
    clips = {"name": Expected(h5py.string_dtype("utf-8"), ())}
    clips |= dict.fromkeys(TABLE_COLUMNS, Expected("<i8", ()))
    clips |= {name: Expected("<f8", shape) for name, shape in NORMALIZATION.items()}
    _check_links(file.id, "/", {*rows, "clips"})
    group = h5o.open(file.id, b"clips")
    if not isinstance(group, h5py.h5g.GroupID):
        raise ValueError("/clips is not a group")
    _check_links(group, "/clips/", set(clips))
    total = 0
    for place, prefix, arrays in ((file.id, "/", rows), (group, "/clips/", clips)):
        lengths: dict[str, int] = {}
        for name, expected in arrays.items():
            dataset = h5o.open(place, name.encode())
            lengths[name], taken = _check_dataset(dataset, f"{prefix}{name}", expected, size)
            total += taken
        first = next(iter(lengths))
        if odd := [f"{prefix}{name}" for name in lengths if lengths[name] != lengths[first]]:
            raise ValueError(f"{', '.join(odd)}: length differs from {prefix}{first}")
    if total > size:
        raise ValueError(f"the arrays have {total:,} bytes, more than the file ({size:,})")
    _check_names(h5o.open(group, b"name"))


def check_table(columns: dict[str, NDArray[np.int64]], rows: int, classes: int) -> None:
    """Check the table against the arrays: wrong offsets would return rows of other clips.

    Args:
        columns: The clip table, int64 (n,) each.
        rows: R.
        classes: Number of classes.

    Raises:
        ValueError: A value is out of range, or the clips' rows are not contiguous from 0 to R.
    """
    largest = np.iinfo(np.int64).max
    for name, least, most in (
        ("label", NO_LABEL, classes - 1),
        ("frames", 1, largest),
        ("persons", 1, largest),
    ):
        odd = (columns[name] < least) | (columns[name] > most)
        if odd.any():
            clip = int(np.argmax(odd))
            bounds = f"at least {least}" if most == largest else f"{least} to {most}"
            raise ValueError(f"/clips/{name} of clip {clip}: found {columns[name][clip]}, expected {bounds}")
    frames, first = columns["frames"], columns["first_row"]
    # By division: the product of two int64 could wrap.
    fits = bool((frames <= rows // columns["persons"]).all() and ((first >= 0) & (first <= rows)).all())
    if fits:
        # Numbers of at most R, the end of each clip is the beginning of the next.
        ends = first + frames * columns["persons"]
        fits = np.array_equal(np.append(first, rows), np.insert(ends, 0, 0))
    if not fits:
        raise ValueError("/clips/first_row does not agree with the row counts of /clips/frames and persons")


def _check_links(group: Any, prefix: str, expected: set[str]) -> None:
    """Check that a group has the links ``expected`` and no other, all hard; none is followed."""
    if len(group) > len(expected):
        raise ValueError(f"{prefix} has {len(group)} entries, expected {len(expected)}")
    found = {link.decode("utf-8", "backslashreplace"): link for link in group}
    if odd := sorted(found.keys() ^ expected):
        state = "missing" if odd[0] in expected else "not expected"
        raise ValueError(f"array {prefix}{odd[0]} is {state}")
    for name, link in found.items():
        kind = group.links.get_info(link).type
        if kind != h5l.TYPE_HARD:
            raise ValueError(
                f"{prefix}{name} is {_LINKS.get(kind, 'a link of another kind')}, expected an array"
            )


def _check_dataset(dataset: Any, name: str, expected: Expected, size: int) -> tuple[int, int]:
    """Check one dataset; its length and its size in bytes."""
    if not isinstance(dataset, h5d.DatasetID):
        raise ValueError(f"{name} is not an array")
    wanted = h5t.py_create(np.dtype(expected.dtype), logical=True)
    if not dataset.get_type().equal(wanted):
        raise ValueError(f"{name}: found {_dtype_name(dataset)}, expected {_name(expected.dtype)}")
    # Before the shape, which HDF5 reads from other files for a virtual dataset.
    stored = dataset.get_create_plist()
    layout = stored.get_layout()
    if layout != h5d.CHUNKED or stored.get_external_count():
        found = "external" if stored.get_external_count() else _LAYOUTS.get(layout, "unknown")
        raise ValueError(f"{name}: found {found} storage, expected chunked storage in the file")
    if stored.get_nfilters():
        raise ValueError(f"{name}: found filter {stored.get_filter(0)[0]}, expected none (not compressed)")
    shape = tuple(map(int, dataset.shape))
    if len(shape) < 1 or shape[1:] != expected.shape:
        raise ValueError(f"{name}: found entries of shape {shape[1:]}, expected {expected.shape}")
    width = wanted.get_size()
    taken = math.prod(shape) * width
    chunk = math.prod(map(int, stored.get_chunk())) * width
    if taken > dataset.get_storage_size() or (taken and chunk > size):
        raise ValueError(f"{name}: has {taken:,} bytes by its shape, which are not in the file")
    return shape[0], taken


def _dtype_name(dataset: Any) -> str:
    try:
        return _name(dataset.dtype)
    except TypeError:
        return "a type that NumPy does not have"


def _name(dtype: Any) -> str:
    return "text" if h5py.check_string_dtype(np.dtype(dtype)) else str(np.dtype(dtype))


def _check_names(dataset: Any) -> None:
    """Check the lengths of the names before they are read: many references may name one long string."""
    (chunk,) = dataset.get_create_plist().get_chunk()
    for start in range(0, int(dataset.shape[0]), int(chunk)):
        _, raw = dataset.read_direct_chunk((start,))
        lengths = np.frombuffer(raw, "<u4")[:: _REFERENCE_BYTES // 4]
        if lengths.max() > MAX_NAME:
            raise ValueError(f"/clips/name: found {lengths.max():,} bytes, expected at most {MAX_NAME}")
