"""Results of worker processes are returned unchanged through shared memory, or through the pipe if they do not fit."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from psptool.preparation import slots
from psptool.preparation.parallel import run_ordered
from psptool.preparation.slots import SharedMemoryTask, Slots

needs_memory = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memfd_create")


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
    """Result of `SharedMemoryTask.__call__` in another process."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(SharedMemoryTask(arrays), (slot, size))


@needs_memory
def test_arrays_are_returned_through_the_shared_memory_of_their_slot():
    owner = Slots(3)
    result = [in_another_process(owner.slot(n), 1000 + n) for n in range(3)]
    assert all(isinstance(reference, tuple) for one in result for reference in one.arrays)
    for n, one in enumerate(result):
        assert_same(owner.unpack(one), 1000 + n)


@needs_memory
def test_arrays_remain_valid_after_the_slots_are_deleted():
    owner = Slots(1)
    found = owner.unpack(in_another_process(owner.slot(0), 1000))
    del owner
    assert_same(found, 1000)


def test_arrays_too_large_for_a_slot_are_returned_through_the_pipe(monkeypatch):
    monkeypatch.setattr(slots, "SLOT_BYTES", 4096)
    owner = Slots(2)
    result = in_another_process(owner.slot(1), 2000)
    assert all(isinstance(array, bytes) for array in result.arrays)
    assert_same(owner.unpack(result), 2000)


@pytest.mark.parametrize("path", ["", "/proc/self/fd/no such descriptor", __file__])
def test_arrays_are_returned_through_the_pipe_if_the_shared_memory_cannot_be_opened(path):
    owner = Slots(1)
    result = in_another_process(slots.Slot(path, -1, 0), 1000)
    assert all(isinstance(array, bytes) for array in result.arrays)
    assert_same(owner.unpack(result), 1000)


def test_more_results_than_slots_are_complete_and_in_order():
    sizes = range(1, 41)
    found = run_ordered(arrays, sizes, 2)
    for size, result in zip(sizes, found, strict=True):
        assert_same(result, size)


@needs_memory
def test_the_shared_memory_is_released_with_its_owner():
    before = len(list(Path("/proc/self/fd").iterdir()))
    Slots(4)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
