"""Passing arrays from worker processes to the main process through shared memory instead of a pipe.

A pipe copies its data four times, which would take a fifth of the preparation's time. With shared memory, the arrays
of a result are copied once, into a slot of a memory block that the main process owns and the workers map. Only the
rest of the result is pickled. The block is an anonymous file (memfd, Linux only), which the system frees when the last
process ends, even after a crash. On other systems, and for results larger than a slot, the arrays use the pipe.
"""

from __future__ import annotations

import functools
import mmap
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

SLOT_BYTES = 16 * 2**20
"""Size of a slot in bytes of address space; physical memory is allocated only where data are written."""
_ALIGNMENT = 64


@dataclass(frozen=True)
class Slot:
    """A slot of the shared memory block for one result.

    Attributes:
        path: Path under which a worker opens the block; empty if there is no block.
        identity: Inode number, which distinguishes the block from earlier ones with the same path.
        offset: First byte of the slot in the block.
    """

    path: str
    identity: int
    offset: int


@dataclass(frozen=True)
class SharedResult:
    """A result in transfer from a worker.

    Attributes:
        pickled: The pickled result without its arrays.
        arrays: The bytes of each array, or (first byte, size) of each array in the block.
    """

    pickled: bytes
    arrays: list[bytes] | list[tuple[int, int]]


@dataclass(frozen=True)
class SharedMemoryTask(Generic[Task, Result]):
    """``function``, with its result passed through shared memory; this object is sent to the workers."""

    function: Callable[[Task], Result]

    def __call__(self, slot: Slot, task: Task) -> SharedResult:
        """Run the task and copy its arrays to the slot."""
        found: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(self.function(task), protocol=5, buffer_callback=found.append)
        arrays = [buffer.raw() for buffer in found]
        # Aligned places of the arrays in the slot, one after the other.
        places, end = [], slot.offset
        for array in arrays:
            places.append((end, array.nbytes))
            end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        memory = _mapped(slot.path, slot.identity) if slot.path else None
        if memory is None or end > slot.offset + SLOT_BYTES:
            return SharedResult(pickled, [bytes(array) for array in arrays])
        for (begin, size), array in zip(places, arrays, strict=True):
            memory[begin : begin + size] = array
        return SharedResult(pickled, places)


class Slots:
    """The shared memory block, in the main process.

    Args:
        count: Number of slots. The n-th result uses slot n modulo `count`.
    """

    def __init__(self, count: int) -> None:
        self._count, self._memory = count, memoryview(b"")
        self._path, self._identity, self._descriptor = "", 0, -1
        if not hasattr(os, "memfd_create"):
            return
        self._descriptor = os.memfd_create("psptool")
        os.ftruncate(self._descriptor, count * SLOT_BYTES)
        self._memory = memoryview(mmap.mmap(self._descriptor, count * SLOT_BYTES))
        self._path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self._identity = os.fstat(self._descriptor).st_ino

    def slot(self, number: int) -> Slot:
        """The slot for the ``number``-th result."""
        return Slot(self._path, self._identity, number % self._count * SLOT_BYTES)

    def unpack(self, result: SharedResult) -> Any:
        """The result. Its arrays are views of the slot, valid until the slot is used again."""
        arrays = [
            one if isinstance(one, bytes) else self._memory[one[0] : one[0] + one[1]] for one in result.arrays
        ]
        return pickle.loads(result.pickled, buffers=arrays)

    def __del__(self) -> None:
        """Close the descriptor. The system keeps the block while an array or a worker uses it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


@functools.lru_cache(maxsize=1)
def _mapped(path: str, identity: int) -> memoryview | None:
    """Map the block ``path`` in a worker; None if it cannot be opened or has another identity. Cached over tasks."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if status.st_ino != identity:
            return None
        return memoryview(mmap.mmap(descriptor, status.st_size))
    except OSError:
        return None
    finally:
        os.close(descriptor)
