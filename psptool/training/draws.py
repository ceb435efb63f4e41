"""Which clips each step sees: an endless shuffled stream of clip numbers, one a pool."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def endless(pool: Tensor, size: int, generator: torch.Generator, done: int = 0) -> Iterator[Tensor]:
    """Batches of ``size`` clip numbers; each pass over ``pool`` is a new permutation, and passes run into each other.

    Where two passes meet in a batch no clip stands in it twice, since the contrast would take a clip's copy for
    another clip; only a batch larger than the pool repeats clips.

    Args:
        pool: int64 (n,), on the CPU.
        size: Clips a batch.
        generator: A CPU generator, as it was before the first batch.
        done: Batches to leave out at the beginning; they are skipped without making each.
    """
    waiting = _waiting_after(done, pool, size, generator)
    while True:
        while len(waiting) < size:
            waiting = torch.cat((waiting, _next_pass(pool, waiting, generator)))
        yield waiting[:size]
        waiting = waiting[size:]


def _next_pass(pool: Tensor, waiting: Tensor, generator: torch.Generator) -> Tensor:
    """A permutation of ``pool``, (n,), in which the clips that wait already come last."""
    following = pool[torch.randperm(len(pool), generator=generator)]
    again = torch.isin(following, waiting)
    return torch.cat((following[~again], following[again]))


def _waiting_after(done: int, pool: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Clips that are drawn and in no batch yet after ``done`` batches, (less than n,); moves the generator on.

    The order of a pass depends on the clips that wait when it is drawn, which are the last ones of the pass before. It
    depends on nothing where none wait: where passes and batches end together. Up to the last such place, permutations
    are drawn only to move the generator on.
    """
    n, used = len(pool), done * size
    if not used or not n:
        return pool[:0]
    period = size // math.gcd(n, size)
    unneeded = used // n // period * period
    for _ in range(unneeded):
        torch.randperm(n, generator=generator)
    stream = pool[:0]
    drawn = -(-used // n)
    for number in range(unneeded, drawn):
        waiting = stream[len(stream) - number * n % size :]
        stream = torch.cat((waiting, _next_pass(pool, waiting, generator)))
    return stream[len(stream) - (drawn * n - used) :]
