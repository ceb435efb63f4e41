"""Batch norm over the batches of all processes of a distributed training, each weighted by what it holds.

torch's own SyncBatchNorm refuses the CPU. This one takes any device that `torch.distributed` serves.

Notation for tensor shapes: B rows of this process, C channels, W processes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from psptool.common.errors import PspError

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""What is synchronized, subclasses included."""


class SyncedNorm(_BatchNorm):
    """Batch norm whose moments at training are those of all processes together.

    Running statistics follow as they would in one process with all rows. A process may hold none. It is mixed into a
    class of `KINDS` or one derived from it (`_synced`), whose own forward pass serves outside of training.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same: any number of axes after the channels."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        # Without parameters of its own it scales by 1 and shifts by 0.
        weight = torch.ones_like(self.running_mean) if self.weight is None else self.weight
        bias = torch.zeros_like(self.running_mean) if self.bias is None else self.bias
        out, mean, variance, count = _Normalize.apply(x, weight, bias, self.eps)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.num_batches_tracked += 1
            # torch's meaning of a momentum of None: the plain mean over all batches so far.
            momentum = (1 / self.num_batches_tracked).to(mean) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
        return out  # type: ignore[no-any-return]


def synchronize_norms(model: nn.Module) -> None:
    """Synchronize every batch norm of ``model`` in place; parameters and statistics stay the same tensors.

    Raises:
        PspError: A module keeps running statistics that this does not synchronize: they would differ between
            processes. Names the module.
    """
    for name, module in model.named_modules():
        if isinstance(module, SyncedNorm):
            continue
        if isinstance(module, KINDS) and module.running_mean is not None:
            # The same state and names under another forward pass: nothing to copy, and no parameter changes hands.
            module.__class__ = _synced(type(module))  # type: ignore[assignment, arg-type]
        elif isinstance(module, KINDS) or _keeps_statistics(module):
            raise PspError(
                f"training over several processes: the statistics of module {name or 'model'} are not synchronized",
                found=f"{type(module).__name__}"
                + (" without running statistics" if isinstance(module, KINDS) else ""),
                expected=f"{', '.join(kind.__name__ for kind in KINDS)} with running statistics, or a norm without any",
                fix="Replace the module, or train in one process.",
            )


@cache
def _synced(kind: type[nn.Module]) -> type[nn.Module]:
    """``kind``, a batch norm, with the training pass of `SyncedNorm`."""
    return type(f"Synced{kind.__name__}", (SyncedNorm, kind), {})


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether ``module`` itself has buffers that torch's norms keep statistics in."""
    buffers = dict(module.named_buffers(recurse=False))
    return any(name.startswith("running_") or name == "num_batches_tracked" for name in buffers)


class _Normalize(torch.autograd.Function):
    """Normalized rows, and the moments and the count of all processes.

    Processes exchange means and squared deviations from them (Chan et al. 1979): a sum of squares less the square of
    a sum would lose the digits that the two have in common.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(weight.dtype)
        channels, here = x.shape[1], x.numel() // x.shape[1]
        mean = _over_rows(wide) / max(here, 1)
        spread = _over_rows((wide - _rows(mean, x)).square())
        own = torch.cat((mean, spread, mean.new_full((1,), here)))
        every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(every, own)
        table = torch.stack(every)
        means, spreads, counts = (
            table[:, :channels],
            table[:, channels:-1],
            table[:, -1:],
        )  # (W, C), (W, C), (W, 1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (spreads + counts * (means - mean).square()).sum(0) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        out = (wide - _rows(mean, x)) * _rows(scale * weight, x) + _rows(bias, x)
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        wide = gradient.to(weight.dtype)
        normal = (x.to(weight.dtype) - _rows(mean, x)) * _rows(scale, x)
        # The parameters' gradients stay this process's own: the training adds those of all processes up.
        of_bias, of_weight = _over_rows(wide), _over_rows(wide * normal)
        sums = torch.stack((of_bias, of_weight))
        dist.all_reduce(sums)
        through = wide - _rows(sums[0] / count, x) - normal * _rows(sums[1] / count, x)
        return (through * _rows(weight * scale, x)).to(x.dtype), of_weight, of_bias, None


def _over_rows(x: Tensor) -> Tensor:
    """The sum over all axes but the channels, (B, C, ...) -> (C,)."""
    return x.sum((0, *range(2, x.ndim)))


def _rows(x: Tensor, like: Tensor) -> Tensor:
    """(C,) against ``like``, (B, C, ...)."""
    return x.view(-1, *(1,) * (like.ndim - 2))
