"""Handing arrays from worker processes to this one through memory that both see, in place of a pipe.

A pipe copies what goes through it four times, which takes as long as a fifth of the preparation itself. Here the
arrays of a result are copied once, into a slot of a piece of memory that this process owns and its workers map;
what is pickled is the rest. The memory has no name in any file system, so that it goes with the last process that
has it, whatever ends them. Where a system has no such memory (it is Linux's), or a result is too large for its
slot, the arrays go through the pipe.
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
"""Of address space: memory is taken only where something is written."""
_ALIGNMENT = 64


@dataclass(frozen=True)
class Slot:
    """Where one result may be put.

    Attributes:
        path: The memory, as a worker can open it; empty where there is none.
        identity: Tells this piece of memory from others that had the same path.
        offset: The slot's first byte.
    """

    path: str
    identity: int
    offset: int


@dataclass(frozen=True)
class SharedResult:
    """A result on its way.

    Attributes:
        pickled: All of it but its arrays.
        arrays: The arrays' bytes; or (first byte, size) of each in the memory.
    """

    pickled: bytes
    arrays: list[bytes] | list[tuple[int, int]]


@dataclass(frozen=True)
class SharedMemoryTask(Generic[Task, Result]):
    """``function`` with its result result; this is what goes to the workers."""

    function: Callable[[Task], Result]

    def __call__(self, slot: Slot, task: Task) -> SharedResult:
        """Run the task and put its arrays into the slot."""
        found: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(self.function(task), protocol=5, buffer_callback=found.append)
        arrays = [buffer.raw() for buffer in found]
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
    """The memory, on the side of the process that takes the results.

    Args:
        count: Slots. The n-th result lies in slot n modulo `count` until another one is put there.
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
        """The slot of the ``number``-th result."""
        return Slot(self._path, self._identity, number % self._count * SLOT_BYTES)

    def unpack(self, result: SharedResult) -> Any:
        """The result; its arrays lie in the slot, so that they are to be used before the slot is."""
        arrays = [
            one if isinstance(one, bytes) else self._memory[one[0] : one[0] + one[1]] for one in result.arrays
        ]
        return pickle.loads(result.pickled, buffers=arrays)

    def __del__(self) -> None:
        """The memory itself stays as long as an array lies in it, or a worker has it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


@functools.lru_cache(maxsize=1)
def _mapped(path: str, identity: int) -> memoryview | None:
    """The memory at ``path`` where it can be had and is the one meant; kept open, as a worker gets many tasks."""
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
