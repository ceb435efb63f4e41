"""Batch norm with statistics over the batches of all processes, weighted by their numbers of values.

`torch.nn.SyncBatchNorm` does not run on a CPU. This one runs on every device that `torch.distributed` supports.

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
"""Classes that are synchronized, and their subclasses."""


class SyncedNorm(_BatchNorm):
    """Batch norm that uses the moments of all processes in training mode.

    Running statistics are those of one process with all rows. A process may have no rows. `_synced` combines this
    class with one of `KINDS` or a subclass of it, whose forward pass is used in evaluation mode.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...), with any number of axes after the channels."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        # A norm without affine parameters: scale by 1, shift by 0.
        weight = torch.ones_like(self.running_mean) if self.weight is None else self.weight
        bias = torch.zeros_like(self.running_mean) if self.bias is None else self.bias
        out, mean, variance, count = _Normalize.apply(x, weight, bias, self.eps)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.num_batches_tracked += 1
            # As in PyTorch, a momentum of None means the average over all batches so far.
            momentum = (1 / self.num_batches_tracked).to(mean) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            # The running variance is unbiased, as in PyTorch.
            self.running_var.lerp_(variance * count / (count - 1), momentum)
        return out  # type: ignore[no-any-return]


def synchronize_norms(model: nn.Module) -> None:
    """Synchronize every batch norm of ``model`` in place. Parameters and statistics remain the same tensors.

    Raises:
        PspError: A module has running statistics that cannot be synchronized and would differ between processes.
    """
    for name, module in model.named_modules():
        if isinstance(module, SyncedNorm):
            continue
        if isinstance(module, KINDS) and module.running_mean is not None:
            # Only the forward pass changes. A new module would need new parameters, which an optimizer does not know.
            module.__class__ = _synced(type(module))  # type: ignore[assignment, arg-type]
        elif isinstance(module, KINDS) or _has_running_statistics(module):
            raise PspError(
                f"training in several processes: running statistics of module {name or 'model'} cannot be synchronized",
                found=f"{type(module).__name__}"
                + (" without running statistics" if isinstance(module, KINDS) else ""),
                expected=f"{', '.join(kind.__name__ for kind in KINDS)} with running statistics, or a norm without any",
                fix="Replace the module, or train in one process.",
            )


@cache
def _synced(kind: type[nn.Module]) -> type[nn.Module]:
    """The batch norm class ``kind`` with the forward pass of `SyncedNorm` in training mode."""
    return type(f"Synced{kind.__name__}", (SyncedNorm, kind), {})


def _has_running_statistics(module: nn.Module) -> bool:
    """Whether ``module`` itself, without its children, has buffers named as those of PyTorch's norms."""
    buffers = dict(module.named_buffers(recurse=False))
    return any(name.startswith("running_") or name == "num_batches_tracked" for name in buffers)


class _Normalize(torch.autograd.Function):
    """Normalized rows, and mean, variance and number of values of all processes.

    Processes exchange means and sums of squared deviations from them (Chan et al. 1979). The difference between a sum
    of squares and a squared sum would lose precision by cancellation.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(weight.dtype)  # statistics in float32 for bfloat16 input
        channels, own_count = x.shape[1], x.numel() // x.shape[1]
        mean = _channel_sums(wide) / max(own_count, 1)
        deviations = _channel_sums((wide - _per_channel(mean, x)).square())
        # One collective operation instead of three: mean, squared deviations and count, (2*C + 1,)
        own = torch.cat((mean, deviations, mean.new_full((1,), own_count)))
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, own)
        table = torch.stack(gathered)  # (W, 2*C + 1) -> (W, C), (W, C), (W, 1)
        means, deviations, counts = table[:, :channels], table[:, channels:-1], table[:, -1:]
        count = counts.sum()
        mean = (counts * means).sum(0) / count  # (C,)
        variance = (deviations + counts * (means - mean).square()).sum(0) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        out = (wide - _per_channel(mean, x)) * _per_channel(scale * weight, x) + _per_channel(bias, x)
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        grad_out = grad_out.to(weight.dtype)
        normalized = (x.to(weight.dtype) - _per_channel(mean, x)) * _per_channel(scale, x)
        # Gradients of the parameters are of this process only: the training loop sums those of all processes.
        grad_bias, grad_weight = _channel_sums(grad_out), _channel_sums(grad_out * normalized)
        sums = torch.stack((grad_bias, grad_weight))  # (2, C), over all rows after the all-reduce
        dist.all_reduce(sums)
        centered = grad_out - _per_channel(sums[0] / count, x) - normalized * _per_channel(sums[1] / count, x)
        return (centered * _per_channel(weight * scale, x)).to(x.dtype), grad_weight, grad_bias, None


def _channel_sums(x: Tensor) -> Tensor:
    """Sum over all axes except the channels, (B, C, ...) -> (C,)."""
    return x.sum((0, *range(2, x.ndim)))


def _per_channel(x: Tensor, like: Tensor) -> Tensor:
    """(C,) -> (C, 1, ...), which broadcasts against ``like`` (B, C, ...)."""
    return x.view(-1, *(1,) * (like.ndim - 2))
