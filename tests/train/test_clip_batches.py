"""Endless batches of clip numbers."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
import torch

from psptool.training.clip_batches import endless_batches

POOL = torch.tensor([3, 5, 8, 13, 21, 34, 55])


def batches(size: int, count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [batch.tolist() for batch in islice(endless_batches(POOL, size, generator), count)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 8, 10, 20])
def test_every_clip_stands_once_in_every_pass(size: int) -> None:
    stream = [clip for batch in batches(size, 7 * 12) for clip in batch]
    passes = [stream[start : start + 7] for start in range(0, len(stream) - 6, 7)]
    assert all(sorted(some) == POOL.tolist() for some in passes)


@pytest.mark.parametrize("size", [2, 3, 5, 6, 7])
def test_no_clip_stands_twice_in_a_batch(size: int) -> None:
    assert all(len(set(batch)) == size for batch in batches(size, 300))


@pytest.mark.parametrize("size", [8, 10, 20])
def test_a_batch_larger_than_the_pool_repeats_as_little_as_it_must(size: int) -> None:
    for batch in batches(size, 50):
        assert len(batch) == size
        assert set(batch) == set(POOL.tolist())
    assert set(Counter(batches(size, 1)[0]).values()) <= {size // 7, size // 7 + 1}


def test_the_seed_decides_and_passes_differ() -> None:
    assert batches(7, 5) == batches(7, 5)
    assert batches(7, 5) != batches(7, 5, seed=1)
    assert len({tuple(batch) for batch in batches(7, 5)}) == 5


def test_nothing_is_drawn_from_an_empty_pool() -> None:
    stream = endless_batches(POOL[:0], 0, torch.Generator())
    assert [batch.tolist() for batch in islice(stream, 3)] == [[], [], []]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 8, 10, 14, 20])
def test_batches_that_are_skipped_leave_the_rest_as_it_is(size: int) -> None:
    stream = batches(size, 60)
    for done in (0, 1, 2, 3, 6, 7, 8, 13, 20, 44):
        generator = torch.Generator().manual_seed(0)
        late = islice(endless_batches(POOL, size, generator, done), 60 - done)
        assert [batch.tolist() for batch in late] == stream[done:], done


@pytest.mark.parametrize(("clips", "size"), [(40_091, 90), (100, 48), (50, 32)])
def test_skipping_makes_no_batch(clips: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    plain = torch.isin
    monkeypatch.setattr(torch, "isin", lambda *given: made.append(1) or plain(*given))
    next(endless_batches(torch.arange(clips), size, torch.Generator().manual_seed(0), 59_000))
    assert len(made) <= size + 1
