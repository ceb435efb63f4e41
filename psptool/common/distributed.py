"""Data-parallel training on several GPUs or machines: communication between the processes (ranks).

Every rank has the same random generators, samples the same global batch, and computes its shard of the clips. The sum
of the ranks' gradients is the gradient of the loss on the global batch:

- Cross-entropy: each rank sums over its labelled clips and divides by the labelled clips of all ranks.
- Contrastive loss: each rank computes it for all clips (`ProcessGroup.all_gather`), with gradients for its own rows.
- Batch normalization: statistics are computed over all ranks (`psptool.model.synced_norm`). Modules with other running
  statistics are refused.

Gradients are summed by one all-reduce of one flat tensor after the backward pass. DistributedDataParallel is not used:
it divides by the number of ranks, and its all-reduce would overlap with those of batch normalization. The gradients
have a few megabytes, so overlapping would save little.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from psptool.common.errors import PspError
from psptool.common.text import counted

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""Timeout of a rank that waits for the others; longer than loading a dataset or writing a checkpoint takes."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process within a group of training processes.

    Attributes:
        rank: Index of this process; rank 0 writes the run folder.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and prints messages."""
        return self.rank == 0

    def shard(self, backwards: bool = False) -> slice:
        """The clips of a batch that this rank computes: every ``size``-th clip, starting at ``rank``.

        Args:
            backwards: Start at ``size - 1 - rank``. Labelled clips are sharded forwards and the contrastive set
                backwards, so that ranks differ by at most one clip.
        """
        return slice(self.size - 1 - self.rank if backwards else self.rank, None, self.size)

    def sum(self, x: Tensor) -> Tensor:
        """Sum of ``x`` over all ranks. The gradient of the sum is passed to each rank's own ``x`` unchanged."""
        return x if self.size == 1 else _Sum.apply(x)  # type: ignore[no-untyped-call]

    def all_gather(self, x: Tensor, total: int) -> Tensor:
        """Rows of all ranks in the order of the global batch.

        Every rank then computes the same function of all rows, so its own rows get their full gradient without further
        communication.

        Args:
            x: (n, C), the rows of this rank, sharded backwards.
            total: N, number of rows of all ranks.

        Returns:
            (N, C).
        """
        return x if self.size == 1 else _Gather.apply(x, self, total)  # type: ignore[no-untyped-call]

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over all ranks."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # One flat tensor, (number of parameters,): a single all-reduce has less overhead than one per parameter.
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([x.numel() for x in gradients]), strict=True):  # type: ignore[no-untyped-call]
            gradient.copy_(part.view(gradient.shape))

    def any(self, value: bool) -> bool:
        """Whether ``value`` is true on any rank."""
        if self.size == 1:
            return value
        flag = torch.tensor(int(value))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def call_on_main(self, function: Callable[[], T]) -> T:
        """Call ``function`` on rank 0 only; its result on every rank. Other ranks get a pickled copy."""
        values: list[Any] = [function() if self.is_main else None]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]  # type: ignore[no-any-return]

    def broadcast_weights(self, model: nn.Module) -> None:
        """Copy the parameters and buffers of rank 0 to every rank."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)


SINGLE = ProcessGroup()


@contextmanager
def init_distributed() -> Iterator[ProcessGroup]:
    """Join the process group that torchrun started; a group of one process without torchrun.

    An error on any rank ends all ranks. The rank whose error came first raises it; the others exit silently with
    `SystemExit` and code 2.

    Raises:
        PspError: The processes cannot connect, or another process ended without an error message.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield SINGLE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise PspError(
            f"torchrun: the training processes cannot connect ({str(error).splitlines()[0]})",
            fix="Check torchrun's --nnodes and --rdzv-endpoint, and the network between the machines.",
        ) from error
    try:
        yield ProcessGroup(rank, size)
    except Exception as error:
        if not _reports_first(store):
            raise SystemExit(2) from error
        if _is_lost_peer(error):
            raise PspError(
                f"training stopped: process {rank} of {size} lost the connection to the others; one of them was "
                "killed, or its machine failed",
                fix="See torchrun's message below for the process. The same command resumes from the last checkpoint.",
            ) from error
        raise
    finally:
        # Fails if another rank has already ended; nothing is left to clean up then.
        with suppress(RuntimeError):
            dist.destroy_process_group()


def local_device(device: torch.device, ranks: ProcessGroup) -> torch.device:
    """``device``, or this process's own GPU if several ranks train on GPUs.

    Raises:
        PspError: ``device`` names one GPU for all ranks, or the machine has fewer GPUs than processes.
    """
    if ranks.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise PspError(
            f"--device {device}: each of {ranks.size} processes needs its own GPU",
            fix="Use --device cuda; select GPUs with CUDA_VISIBLE_DEVICES.",
        )
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= gpus:
        raise PspError(
            "torchrun --nproc-per-node: more processes than GPUs on this machine",
            counted(gpus, "GPU"),
            fix=f"Use torchrun --nproc-per-node {gpus}.",
        )
    torch.cuda.set_device(number)
    return device


def _reports_first(store: Any) -> bool:
    """Whether this rank is the first to report an error. True if the store is gone."""
    try:
        return bool(store.add("psptool/said", 1) == 1)
    except RuntimeError:
        return True


def _is_lost_peer(error: Exception) -> bool:
    """Whether ``error`` is what a collective operation raises when a peer has ended; gloo has no own type."""
    signs = ("gloo", "Connection", "NCCL", "Timed out", "timed out")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


class _Sum(torch.autograd.Function):
    """See `ProcessGroup.sum`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Gather(torch.autograd.Function):
    """See `ProcessGroup.all_gather`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: ProcessGroup, total: int) -> Tensor:
        ctx.own = ranks.shard(backwards=True)
        rows = -(-total // ranks.size)  # rows of the largest shard: N / size, rounded up
        # all_gather needs equal shapes: pad (n, C) to (rows, C). The padding is cut off below.
        own = torch.cat((x, x.new_zeros(rows - len(x), *x.shape[1:])))
        shards = [torch.empty_like(own) for _ in range(ranks.size)]
        dist.all_gather(shards, own)
        # Shards are assigned backwards, so the reversed stack (rows, size, C) flattens to the order of the batch.
        return torch.stack(shards[::-1], dim=1).flatten(0, 1)[:total]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.own], None, None
