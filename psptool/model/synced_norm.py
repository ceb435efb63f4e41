"""Batch norm over the batches of all processes of a distributed training, each weighted by what it holds.

torch's own SyncBatchNorm refuses the CPU. This one takes any device that `torch.distributed` serves.

Notation for tensor shapes: B rows of this process, C channels, W processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncedNorm(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose moments at training are those of all processes together.

    Running statistics follow as they would in one process with all rows. A process may hold none.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        if not self.training:
            return super().forward(x)
        out, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return out  # type: ignore[no-any-return]


def synchronize_norms(model: nn.Module) -> None:
    """Turn every batch norm of ``model`` into a `SyncedNorm` with the same parameters and statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # The same state and names under another forward pass: nothing to copy, and no parameter changes hands.
            module.__class__ = SyncedNorm


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
        mean = wide.sum((0, 2, 3)) / max(here, 1)
        spread = (wide - _rows(mean)).square().sum((0, 2, 3))
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
        out = (wide - _rows(mean)) * _rows(scale * weight) + _rows(bias)
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        wide = gradient.to(weight.dtype)
        normal = (x.to(weight.dtype) - _rows(mean)) * _rows(scale)
        # The parameters' gradients stay this process's own: the training adds those of all processes up.
        of_bias, of_weight = wide.sum((0, 2, 3)), (wide * normal).sum((0, 2, 3))
        sums = torch.stack((of_bias, of_weight))
        dist.all_reduce(sums)
        through = (wide - _rows(sums[0] / count) - normal * _rows(sums[1] / count)) * _rows(weight * scale)
        return through.to(x.dtype), of_weight, of_bias, None


def _rows(x: Tensor) -> Tensor:
    """(C,) against (B, C, H, W)."""
    return x[:, None, None]
