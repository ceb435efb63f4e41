"""Which clips each step sees: an endless shuffled stream of clip numbers, one a pool."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def endless(pool: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of ``size`` clip numbers; each pass over ``pool`` is a new permutation, and passes run into each other.

    Args:
        pool: int64 (n,), on the CPU.
        size: Clips a batch; it may exceed the pool, whose clips then repeat within a batch.
        generator: A CPU generator.
    """
    waiting = pool[:0]
    while True:
        while len(waiting) < size:
            waiting = torch.cat((waiting, pool[torch.randperm(len(pool), generator=generator)]))
        yield waiting[:size]
        waiting = waiting[size:]
