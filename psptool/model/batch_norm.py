"""Batch norm with statistics that are accurate in float32 on a CPU too.

On channels-last memory, PyTorch's CPU kernel sums all rows one after the other in float32. With 250,000 rows, as in a
batch of preset `paper`, mean and variance are off by up to 1e-4, and the encoder's output by about 1 %.

Notation for tensor shapes: P persons of all clips, C channels, H and W (joints and frames), G = H * W.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psptool.common.errors import PspError


class BatchNorm(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with accurate statistics on channels-last memory of a CPU.

    The state dict and the gradients are those of `torch.nn.BatchNorm2d`, except that `num_batches_tracked` is not
    counted: nothing reads it if the momentum is fixed. Other layouts and devices use PyTorch's kernels, which are
    accurate there.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(P, C, H, W) -> (P, C, H, W).

        Raises:
            PspError: In training mode, there is only one value per channel, which has no variance.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.check_values(x)
        # (P, C, H, W) -> (P, H, W, C): contiguous if the memory layout is channels-last
        channels_last = x.permute(0, 2, 3, 1).is_contiguous()
        if not self.training or x.device.type != "cpu" or not channels_last or x.numel() == 0:
            moments_so_far = (self.running_mean, self.running_var)
            return F.batch_norm(
                x, *moments_so_far, self.weight, self.bias, self.training, self.momentum, self.eps
            )
        mean, variance = moments(x, self.weight.dtype)
        count = x.numel() // x.shape[1]
        self.running_mean.lerp_(mean, self.momentum)
        # The running variance is unbiased. The variance that normalizes the batch is not, as in PyTorch.
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return _Normalize.apply(x, mean, variance, self.weight, self.bias, self.eps)  # type: ignore[no-any-return, no-untyped-call]

    def check_values(self, x: Tensor) -> None:
        """Raise the error of `forward`."""
        if self.training and x.numel() == x.shape[1]:
            raise PspError(
                "batch norm: one value per channel, which has no variance",
                "a batch of one person with one frame",
                "at least two values per channel",
                "Raise optim.labelled_batch or sampling.frames.",
            )

    @property
    def has_kernel(self) -> bool:
        """Whether `psptool.model.kernels` can replace it: not in several processes, nor for gradients in evaluation."""
        return type(self) is BatchNorm and (self.training or not torch.is_grad_enabled())


def freeze_bias(conv: nn.Conv1d | nn.Conv2d) -> None:
    """Exclude the bias of a convolution before a batch norm from training.

    The batch norm subtracts it again, so its exact gradient is zero. The computed one would be rounding noise, which
    AdamW scales up to whole steps.
    """
    assert conv.bias is not None
    conv.bias.requires_grad_(False)


def normalize_shifted(norm: nn.BatchNorm2d, x: Tensor, shift: Tensor) -> Tensor:
    """Batch norm of ``x + shift``, (P, C, H, W) -> (P, C, H, W), without computing the sum.

    Args:
        norm: In training mode, its running statistics are those of ``x + shift``.
        x: (P, C, H, W), output of a convolution without its bias.
        shift: (C,), the bias.
    """
    assert norm.running_mean is not None
    assert norm.momentum is not None
    if norm.training:
        y = norm(x)
        # `data` hides the change from autograd, which saves the running mean, but does not use it in training mode.
        norm.running_mean.data.add_(shift, alpha=norm.momentum)
        return y  # type: ignore[no-any-return]
    mean = norm.running_mean - shift
    return F.batch_norm(x, mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)


@torch.no_grad()
def moments(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, (C,) each, of type ``dtype``.

    Moments over persons are computed at each position in (H, W) and then pooled, so that no sum has more than P terms.

    Args:
        x: (P, C, H, W) in channels-last memory, on a CPU.
        dtype: float32 if `x` is bfloat16, else the type of `x`.
    """
    persons, channels = x.shape[:2]
    # (P, C, H, W) -> (1, G*C, P, 1), without a copy: every position and channel is a channel of its own
    positions = x.permute(0, 2, 3, 1).reshape(1, persons, 1, -1).permute(0, 3, 1, 2)
    # The kernel computes in the type of the running statistics, which are not used otherwise.
    unused = x.new_zeros(2, positions.shape[1], dtype=dtype)
    mean, variance = torch.batch_norm_update_stats(positions, unused[0], unused[1], 0.0)
    mean, variance = mean.view(-1, channels), variance.view(-1, channels)  # (G*C,) -> (G, C)
    pooled = mean.mean(0)  # (G, C) -> (C,)
    # Total variance: the mean variance within positions, plus the variance of their means.
    return pooled, variance.mean(0) + (mean - pooled).square().mean(0)


class _Normalize(torch.autograd.Function):
    """Normalization with the moments of the batch. The gradient includes their dependence on the batch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        # The backward kernel needs the inverse standard deviation, (C,), not the variance.
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        # PyTorch's kernel requires the gradient in the memory layout of x.
        grad_out = grad_out.contiguous(memory_format=torch.channels_last)
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad_out, x, weight, None, None, mean, scale, True, ctx.eps, [True, True, True]
        )
        return grad_x, None, None, grad_weight, grad_bias, None
