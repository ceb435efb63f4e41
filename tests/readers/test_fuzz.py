"""Mutated files: parsing returns a valid clip or raises `RawFormatError`, within 2 s and 100 MB.

`PSPTOOL_FUZZ_FILES=100000` sets the total number of files over all readers.
"""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psptool.common.errors import RawFormatError
from psptool.formats.readers.arrays import ArraysReader
from psptool.formats.readers.base import ClipSource, Reader
from psptool.formats.readers.ntu import NtuReader
from psptool.formats.readers.table import TableReader
from psptool.formats.readers.ucla import UclaJsonReader, UclaTextReader
from psptool.schemas.formats import ArraysOptions, TableOptions

from . import general, raw
from .conformance import assert_valid_clip

COUNT = int(os.environ.get("PSPTOOL_FUZZ_FILES", "3000"))
MAX_SECONDS, MAX_BYTES = 2.0, 100 * 2**20
TEXT_FILES = {raw.ucla_frame_name(t): raw.ucla_frame(t) for t in (1, 2)}
TEXT_FILES[f"{raw.UCLA_FOLDER}/fileList.txt"] = b"1 9\n2 9\n3 9\n"
_ARRAYS = ArraysReader(general.SKELETON, ArraysOptions(reader="arrays"), general.key_of)


def _table(**options: Any) -> TableReader:
    return TableReader(general.SKELETON, TableOptions(reader="table", max_gap=3, **options), general.key_of)


FILES: list[tuple[Reader, dict[str, bytes]]] = [
    (NtuReader(), {f"{raw.NTU_NAME}.skeleton": raw.ntu()}),
    (NtuReader(), {f"{raw.NTU_NAME}.skeleton": raw.ntu((1,), end="\n")}),
    (UclaJsonReader(), {f"{raw.UCLA_NAME}.json": raw.ucla_json(2)}),
    (UclaTextReader(), TEXT_FILES),
    (_table(form="wide"), {"walk_s03.csv": general.wide()}),
    (_table(form="long"), {"walk_s03.csv": general.long(person="Eva")}),
    (_ARRAYS, {"walk_s03.npy": general.npy(general.positions())}),
    (_ARRAYS, {"walk_s03.npz": general.npz(np.savez_compressed, xyz=general.positions(), n=np.ones(3))}),
]
SOURCES = [(reader, *raw.source_of(reader, files)) for reader, files in FILES]
TOKENS = [
    *(
        b"",
        b" ",
        b"\n",
        b"\r\n",
        b"\t",
        b"\0",
        b"\xff",
        b"-",
        b".",
        b"e",
        b",",
        b"_",
        b"0",
        b"1",
        b"2",
        b"25",
        b"3",
    ),
    *(
        b"nan",
        b"-Infinity",
        b"1e999",
        b"1e-999",
        b"1e38",
        b"4e38",
        b"1e23",
        b"-0",
        b"0x10",
        b"1_0",
        b"\xef\xbb\xbf",
    ),
    *(b"1000000000000", b"2147483647", b"2147483648", b"9223372036854775807", b"9223372036854775808"),
    *(b"9" * 30, b"9" * 5000, b"0." + b"3" * 500, b"[", b"]", b"{", b"}", b'"', b"\\u0000", b"null", b"true"),
    *(b"[" * 3000, b'{"a":' * 3000, b"[]," * 500, b'"label"', b"\n" * 300, b" " * 300, b"0\n" * 300),
]


def mutated(blob: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four random edits."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        begin = rng.randrange(len(blob) + 1)
        end = min(len(blob), begin + rng.choice((0, 1, 1, 2, 8, 60, 400)))
        other = rng.randrange(len(blob) + 1)
        new = (
            rng.choice(TOKENS),
            bytes([rng.randrange(256)]),
            bytes([blob[begin] ^ 1 << rng.randrange(8)]) if begin < len(blob) else b"",
            blob[other : other + rng.choice((1, 10, 100, 1000))],
            blob[begin:end] * rng.choice((0, 2, 5)),
        )[rng.randrange(5)]
        blob = blob[:begin] + new + blob[end:]
        if rng.random() < 0.05:
            blob = blob[: rng.randrange(len(blob) + 1)]
    return blob


def is_a_clip(reader: Reader, source: ClipSource, blobs: list[bytes]) -> bool:
    """Whether the bytes are a valid clip; if not, check that the format error names the file."""
    try:
        clip, error = reader.parse(source, blobs), None
    except RawFormatError as caught:
        clip, error = None, caught
    if clip is not None:
        assert_valid_clip(clip, reader)
        return True
    assert error is not None
    assert error.reason
    assert any(str(file) in error.where for file in source.files)
    return False


def test_a_mutated_file_is_a_clip_or_a_format_error_in_limited_time_and_memory() -> None:
    for reader, source, blobs in SOURCES:
        assert is_a_clip(reader, source, blobs)
    clips, slowest, largest = 0, 0.0, 0
    tracemalloc.start()
    try:
        for seed in range(COUNT):
            rng = random.Random(seed)
            reader, source, blobs = SOURCES[seed % len(SOURCES)]
            changed = list(blobs)
            which = rng.randrange(len(blobs))
            changed[which] = mutated(blobs[which], rng)
            tracemalloc.reset_peak()
            before, began = tracemalloc.get_traced_memory()[0], time.thread_time()
            clips += is_a_clip(reader, source, changed)
            slowest = max(slowest, time.thread_time() - began)
            largest = max(largest, tracemalloc.get_traced_memory()[1] - before)
            assert slowest < MAX_SECONDS, f"seed {seed}"
            assert largest < MAX_BYTES, f"seed {seed}"
    finally:
        tracemalloc.stop()
    print(
        f"{COUNT} files, {clips} of them clips; at most {slowest:.3f} s and {largest / 1e6:.1f} MB per file"
    )
    # Both outcomes must be frequent: otherwise the mutations do not reach the code under test.
    assert 0.05 * COUNT < clips < 0.8 * COUNT


@pytest.mark.parametrize(
    ("reader", "source", "blobs"), SOURCES, ids=lambda value: getattr(value, "format", "")
)
def test_random_bytes_are_a_format_error(reader: Reader, source: ClipSource, blobs: list[bytes]) -> None:
    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.binary(max_size=300), min_size=len(blobs), max_size=len(blobs)))
    def check(any_bytes: list[bytes]) -> None:
        assert not is_a_clip(reader, source, any_bytes)

    check()


@pytest.mark.parametrize(
    "unit", [b"1", b"1 ", b"[", b"[],", b"1\n", b'{"a":', b"0,", b"-1.5,2,3,2\n", b"\n", b"9" * 70 + b" "]
)
@pytest.mark.parametrize(
    ("reader", "source", "blobs"), SOURCES[1:], ids=lambda value: getattr(value, "format", "")
)
def test_a_long_repetition_is_refused_in_limited_time_and_memory(
    reader: Reader, source: ClipSource, blobs: list[bytes], unit: bytes
) -> None:
    for blob in (
        unit * (3_000_000 // len(unit)),
        b"1\n1\n1 0 0 0 0 0 0 0 0 0\n25\n" + unit * (3_000_000 // len(unit)),
    ):
        tracemalloc.start()
        try:
            began = time.thread_time()
            assert not is_a_clip(reader, source, [blob] * len(blobs))
            assert time.thread_time() - began < MAX_SECONDS
            assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
        finally:
            tracemalloc.stop()
