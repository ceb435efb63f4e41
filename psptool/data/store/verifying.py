"""Verification of a dataset's content fingerprint: what a command computes with is what the preparation wrote.

The file has one digest of all clips, so all clips are read and hashed, in threads beside the reading. The ``motion``
array is not read: it follows from the positions, nothing computes with it, and it is half of the file.

Array shapes: n clips, R rows (one person in one frame), V joints.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError
from psptool.data.store.fingerprint import Fingerprinting, content_digest, coordinates_digest
from psptool.data.store.reading import ClipBlock, Rows, Store

_THREADS = 4
_FIX = "Copy it again from its source, or prepare it again. psptool validate lists what is wrong."


def verify(store: Store) -> list[bytes]:
    """Check the content fingerprint of the whole dataset.

    Returns:
        `coordinates_digest` of each clip, equal for clips with equal coordinates.

    Raises:
        PspError: The content is not what the preparation wrote, or the file cannot be read.
    """
    found: list[bytes] = []
    for _ in _verified(store, found):
        pass
    return found


def verified_positions(store: Store, clips: NDArray[np.integer]) -> Iterator[Rows]:
    """Read the positions of clips as `Store.positions`, and check the fingerprint in the same pass over the file.

    Args:
        store: The dataset.
        clips: int (n',), clip indices, ascending.

    Yields:
        The rows of the clips in their order.

    Raises:
        PspError: After the last rows: the content is not what the preparation wrote; or the file cannot be read.
    """
    chosen = np.zeros(len(store), bool)
    chosen[clips] = True
    table = store.table
    for block in _verified(store, []):
        own = slice(block.indices.start, block.indices.stop)
        keep = np.repeat(chosen[own], table.frames[own] * table.persons[own])  # (R,)
        if keep.all():
            yield Rows(block.joint, block.present)
        elif keep.any():
            yield Rows(block.joint[keep], block.present[keep])


def verify_names(store: Store) -> None:
    """Check what a split is made from: the clip names, and the numbers in the clip table if they follow from them.

    Raises:
        PspError: They are not what the preparation wrote.
    """
    description, fingerprinting = store.manifest.description, Fingerprinting()
    for index, name in enumerate(store.names):
        key = store.key(index)
        if description.keys_in_names and description.parse(name) != key:
            raise _altered(store, f"clip {name}: the clip table says {key}")
        fingerprinting.add(name, key.label, b"")
    if fingerprinting.result().clips != store.manifest.fingerprints.clips:
        raise _altered(store, "the clip names do not have the fingerprint in the manifest")


def motion_rows(block: ClipBlock) -> NDArray[np.float32]:
    """The motion of a block's rows, float32 (R, V, 3), from their positions; see `psptool.data.store.arrays.motion`."""
    joint, present = block.joint, block.present
    step = np.empty_like(joint)
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(joint[1:], joint[:-1], out=step[:-1])
    # (R,): this row and the next one are two frames of one person, who is present in both.
    both = np.zeros_like(present)
    both[:-1] = present[:-1] & present[1:]
    both[block.person_starts[1:] - 1] = False
    step[~both] = 0
    return step


def block_digests(block: ClipBlock, motion: NDArray[np.float32]) -> list[tuple[bytes, bytes]]:
    """`coordinates_digest` and `content_digest` of each clip of a block, with the block's motion, (R, V, 3)."""
    found = []
    for number, index in enumerate(block.indices):
        rows, shape = block.place(number)
        vectors = (*shape, *block.joint.shape[1:])
        coordinates = coordinates_digest(
            block.joint[rows].reshape(vectors), block.present[rows].reshape(shape)
        )
        origin, scale, rotation = (values[number] for values in block.normalization)
        normalization = (origin, float(scale), rotation)
        key = block.store.key(index)
        content = content_digest(coordinates, motion[rows], block.state[rows], key, normalization)
        found.append((coordinates, content))
    return found


def _verified(store: Store, coordinates: list[bytes]) -> Iterator[ClipBlock]:
    """All blocks of the dataset, while threads hash them; appends the digest of each clip's coordinates.

    Raises:
        PspError: After the last block: the content is not what the preparation wrote.
    """
    fingerprinting = Fingerprinting()
    hashing: deque[tuple[range, Future[list[tuple[bytes, bytes]]]]] = deque()

    def finish() -> None:
        indices, future = hashing.popleft()
        for index, (position, content) in zip(indices, future.result(), strict=True):
            coordinates.append(position)
            fingerprinting.add(store.names[index], int(store.table.label[index]), content)

    threads = min(_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        for block in store.blocks():
            hashing.append((block.indices, pool.submit(_hash, block)))
            yield block
            # Few blocks are in memory at a time.
            while len(hashing) > threads:
                finish()
        while hashing:
            finish()
    if fingerprinting.result() != store.manifest.fingerprints:
        raise _altered(store, "its content does not have the fingerprint in the manifest")


def _hash(block: ClipBlock) -> list[tuple[bytes, bytes]]:
    return block_digests(block, motion_rows(block))


def _altered(store: Store, what: str) -> PspError:
    return PspError(f"{store.path}: damaged or altered: {what}", fix=_FIX)
