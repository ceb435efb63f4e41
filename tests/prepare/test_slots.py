"""Results of worker processes through shared memory: what comes out is what went in, also where it does not fit."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from psptool.preparation import slots
from psptool.preparation.parallel import run_ordered
from psptool.preparation.slots import SharedMemoryTask, Slots

needs_memory = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no such memory")


def arrays(size):
    return {
        "a": np.arange(size, dtype=np.float32),
        "b": np.arange(3),
        "text": "text",
        "none": np.empty((0, 3)),
    }


def assert_same(found, size):
    assert found["text"] == "text"
    for name, array in arrays(size).items():
        if name != "text":
            np.testing.assert_array_equal(found[name], array)


def in_another_process(slot, size):
    """`SharedMemoryTask.__call__` where the memory is not this process's."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(SharedMemoryTask(arrays), (slot, size))


@needs_memory
def test_arrays_come_through_the_memory_of_their_slot():
    there = Slots(3)
    result = [in_another_process(there.slot(n), 1000 + n) for n in range(3)]
    assert all(isinstance(place, tuple) for one in result for place in one.arrays)
    for n, one in enumerate(result):
        assert_same(there.unpack(one), 1000 + n)


@needs_memory
def test_arrays_outlive_the_slots():
    there = Slots(1)
    found = there.unpack(in_another_process(there.slot(0), 1000))
    del there
    assert_same(found, 1000)


def test_arrays_that_are_too_large_for_a_slot_come_through_the_pipe(monkeypatch):
    monkeypatch.setattr(slots, "SLOT_BYTES", 4096)
    there = Slots(2)
    result = in_another_process(there.slot(1), 2000)
    assert all(isinstance(array, bytes) for array in result.arrays)
    assert_same(there.unpack(result), 2000)


@pytest.mark.parametrize("path", ["", "/proc/self/fd/no such descriptor", __file__])
def test_arrays_come_through_the_pipe_where_the_memory_cannot_be_had(path):
    there = Slots(1)
    result = in_another_process(slots.Slot(path, -1, 0), 1000)
    assert all(isinstance(array, bytes) for array in result.arrays)
    assert_same(there.unpack(result), 1000)


def test_more_results_than_slots_come_whole_and_in_order():
    sizes = range(1, 41)
    found = run_ordered(arrays, sizes, 2)
    for size, result in zip(sizes, found, strict=True):
        assert_same(result, size)


@needs_memory
def test_the_memory_goes_with_its_owner():
    before = len(list(Path("/proc/self/fd").iterdir()))
    Slots(4)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
