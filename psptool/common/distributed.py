"""One training over several processes, on several GPUs or machines: what the processes (ranks) tell each other.

Every rank draws the same global batch, since all have the same generators, and computes its own share of the clips.
The sum of the ranks' gradients is the gradient of the global batch's loss:

- the cross-entropy of a rank is the sum over its labelled clips, divided by the labelled clips of all ranks;
- the contrast of a rank is that of all clips (`ProcessGroup.all_gather`), differentiated by the rank's own rows;
- every batch norm sees the persons of all ranks (`psptool.model.synced_norm`); other running statistics are refused.

Gradients are added up by one reduction of one flat tensor after the backward pass. DistributedDataParallel would divide
by the number of ranks, and reduce while the backward pass runs, beside the reductions that batch norm makes there; what
that hides, a few megabytes once a step, is not worth it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from psptool.common.errors import PspError

Made = TypeVar("Made")

PATIENCE = timedelta(minutes=10)
"""How long a rank waits for the others: longer than loading a dataset and writing a checkpoint take."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that train together.

    Attributes:
        rank: Its number; the first one (0) writes the run folder.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def shard(self, backwards: bool = False) -> slice:
        """Which of a batch's clips this rank computes: every ``size``-th, from its number on.

        Labelled clips are dealt forwards and the contrast's backwards: no rank then has two clips more than another.
        """
        return slice(self.size - 1 - self.rank if backwards else self.rank, None, self.size)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks; the gradient goes to each rank's own term."""
        return x if self.size == 1 else _Sum.apply(x)  # type: ignore[no-untyped-call]

    def all_gather(self, x: Tensor, total: int) -> Tensor:
        """All ranks' rows in the order of the global batch.

        Each rank computes the same function of all rows, so that the gradient of its own rows is whole without asking
        the others.

        Args:
            x: (n, C), the rows of this rank's share, dealt backwards.
            total: N, rows of all ranks.

        Returns:
            (N, C).
        """
        return x if self.size == 1 else _Gather.apply(x, self, total)  # type: ignore[no-untyped-call]

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by the sum over all ranks."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([x.numel() for x in gradients]), strict=True):  # type: ignore[no-untyped-call]
            gradient.copy_(part.view(gradient.shape))

    def any(self, here: bool) -> bool:
        """Whether it holds on any rank."""
        if self.size == 1:
            return here
        flag = torch.tensor(int(here))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def broadcast(self, value: Made) -> Made:
        """The first rank's value on every rank; any object, handed over between our own processes."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]  # type: ignore[no-any-return]

    def broadcast_weights(self, model: nn.Module) -> None:
        """Give every rank the first one's parameters and buffers."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)


SINGLE = ProcessGroup()


@contextmanager
def init_distributed() -> Iterator[ProcessGroup]:
    """Meet the other processes that torchrun started, or be alone where it started none.

    Within, an error of any rank ends all ranks, and one of them says why: the one whose error came first. The others
    leave with `SystemExit` and code 2, without a word.

    Raises:
        PspError: The processes do not meet, or another one ended without a word of its own.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield SINGLE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise PspError(
            f"the processes of this training do not meet ({str(error).splitlines()[0]})",
            fix="Check torchrun's --nnodes and --rdzv-endpoint, and that the machines reach each other.",
        ) from error
    try:
        yield ProcessGroup(rank, size)
    except Exception as error:
        if not _reports_first(store):
            raise SystemExit(2) from error
        if _is_lost_peer(error):
            raise PspError(
                f"training stopped: process {rank} of {size} lost the others; one was killed, or its machine is gone",
                fix="torchrun says below which one; the same command goes on from the last checkpoint.",
            ) from error
        raise
    finally:
        # Where another rank is gone there is nobody to part from.
        with suppress(RuntimeError):
            dist.destroy_process_group()


def local_device(device: torch.device, ranks: ProcessGroup) -> torch.device:
    """``device``, and for several ranks on GPUs this process's own one.

    Raises:
        PspError: A GPU was named for all of them, or the machine has fewer than processes.
    """
    if ranks.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise PspError(
            f"--device {device}: each of {ranks.size} processes takes a GPU of its own",
            fix="Say --device cuda; CUDA_VISIBLE_DEVICES chooses among them.",
        )
    number, here = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= here:
        raise PspError(
            "torchrun started more processes than this machine has GPUs",
            f"{here} GPU(s)",
            fix=f"Say torchrun --nproc-per-node {here}.",
        )
    torch.cuda.set_device(number)
    return device


def _reports_first(store: Any) -> bool:
    """Whether no other rank has said yet why all stop; where the store is gone too, better twice than not at all."""
    try:
        return bool(store.add("psptool/said", 1) == 1)
    except RuntimeError:
        return True


def _is_lost_peer(error: Exception) -> bool:
    """Whether ``error`` is what a collective raises when a peer has gone; gloo's have no type of their own."""
    signs = ("gloo", "Connection", "NCCL", "Timed out", "timed out")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: ProcessGroup, total: int) -> Tensor:
        ctx.own = ranks.shard(backwards=True)
        most = -(-total // ranks.size)
        # Every rank hands over as many rows; the last ones of a smaller share are cut off again below.
        own = torch.cat((x, x.new_zeros(most - len(x), *x.shape[1:])))
        every = [torch.empty_like(own) for _ in range(ranks.size)]
        dist.all_gather(every, own)
        return torch.stack(every[::-1], dim=1).flatten(0, 1)[:total]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.own], None, None
