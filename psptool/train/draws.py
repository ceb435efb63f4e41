"""Which clips each step sees: an endless shuffled stream of clip numbers, one a pool."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def endless(pool: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of ``size`` clip numbers; each pass over ``pool`` is a new permutation, and passes run into each other.

    Where two passes meet in a batch no clip stands in it twice, since the contrast would take a clip's copy for
    another clip; only a batch larger than the pool repeats clips.

    Args:
        pool: int64 (n,), on the CPU.
        size: Clips a batch.
        generator: A CPU generator.
    """
    waiting = pool[:0]
    while True:
        while len(waiting) < size:
            following = pool[torch.randperm(len(pool), generator=generator)]
            again = torch.isin(following, waiting)
            waiting = torch.cat((waiting, following[~again], following[again]))
        yield waiting[:size]
        waiting = waiting[size:]
