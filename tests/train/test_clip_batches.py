"""Endless batches of clip indices."""

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
def test_every_clip_occurs_once_in_every_epoch(size: int) -> None:
    stream = [clip for batch in batches(size, 7 * 12) for clip in batch]
    epochs = [stream[start : start + 7] for start in range(0, len(stream) - 6, 7)]
    assert all(sorted(epoch) == POOL.tolist() for epoch in epochs)


@pytest.mark.parametrize("size", [2, 3, 5, 6, 7])
def test_no_clip_occurs_twice_in_a_batch(size: int) -> None:
    assert all(len(set(batch)) == size for batch in batches(size, 300))


@pytest.mark.parametrize("size", [8, 10, 20])
def test_a_batch_larger_than_the_pool_repeats_each_clip_as_rarely_as_possible(size: int) -> None:
    for batch in batches(size, 50):
        assert len(batch) == size
        assert set(batch) == set(POOL.tolist())
    assert set(Counter(batches(size, 1)[0]).values()) <= {size // 7, size // 7 + 1}


def test_the_order_depends_on_the_seed_and_differs_between_epochs() -> None:
    assert batches(7, 5) == batches(7, 5)
    assert batches(7, 5) != batches(7, 5, seed=1)
    assert len({tuple(batch) for batch in batches(7, 5)}) == 5


def test_batches_from_an_empty_pool_are_empty() -> None:
    stream = endless_batches(POOL[:0], 0, torch.Generator())
    assert [batch.tolist() for batch in islice(stream, 3)] == [[], [], []]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 8, 10, 14, 20])
def test_skipping_batches_does_not_change_the_following_batches(size: int) -> None:
    stream = batches(size, 60)
    for done in (0, 1, 2, 3, 6, 7, 8, 13, 20, 44):
        generator = torch.Generator().manual_seed(0)
        rest = islice(endless_batches(POOL, size, generator, done), 60 - done)
        assert [batch.tolist() for batch in rest] == stream[done:], done


@pytest.mark.parametrize(("clips", "size"), [(40_091, 90), (100, 48), (50, 32)])
def test_skipped_batches_are_not_computed(clips: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = torch.isin
    monkeypatch.setattr(torch, "isin", lambda *arguments: calls.append(1) or original(*arguments))
    next(endless_batches(torch.arange(clips), size, torch.Generator().manual_seed(0), 59_000))
    assert len(calls) <= size + 1
