"""Order of clips in training: endless batches of shuffled clip numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def endless_batches(pool: Tensor, size: int, generator: torch.Generator, skip: int = 0) -> Iterator[Tensor]:
    """Endless batches of clip numbers, int64 (size,). Each epoch over ``pool`` is a new permutation.

    A batch may contain the end of one epoch and the start of the next. No clip is in a batch twice, because the
    contrastive loss would treat the copy as a negative. Only a batch larger than the pool repeats clips.

    Args:
        pool: int64 (n,), on the CPU.
        size: Clips per batch.
        generator: A CPU generator in its state before the first batch.
        skip: Number of batches to skip, without constructing them.
    """
    queue = _queue_after(skip, pool, size, generator)  # shuffled clips that are in no batch yet
    while True:
        while len(queue) < size:
            queue = torch.cat((queue, _next_epoch(pool, queue, generator)))
        yield queue[:size]
        queue = queue[size:]


def _next_epoch(pool: Tensor, queue: Tensor, generator: torch.Generator) -> Tensor:
    """A permutation of ``pool``, (n,), with the clips that are also in ``queue`` at the end."""
    epoch = pool[torch.randperm(len(pool), generator=generator)]
    queued = torch.isin(epoch, queue)
    return torch.cat((epoch[~queued], epoch[queued]))


def _queue_after(skip: int, pool: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The queue after ``skip`` batches, with fewer than n clips; advances the generator.

    The order of an epoch depends on the queue at its start, which has the last clips of the previous epoch. If epoch
    and batch end together, the queue is empty and the order depends only on the generator. Epochs before the last such
    point are therefore not constructed.
    """
    n, used = len(pool), skip * size
    if not used or not n:
        return pool[:0]
    period = size // math.gcd(n, size)  # epochs until epoch and batch end together
    unneeded = used // n // period * period
    for _ in range(unneeded):
        torch.randperm(n, generator=generator)  # only to advance the generator
    stream = pool[:0]
    epochs = -(-used // n)  # used / n, rounded up
    for number in range(unneeded, epochs):
        queue = stream[len(stream) - number * n % size :]
        stream = torch.cat((queue, _next_epoch(pool, queue, generator)))
    return stream[len(stream) - (epochs * n - used) :]
