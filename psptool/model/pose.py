"""The pose branch: temporal convolutions over all joints at once. Those of the encoder are over one joint each.

Not in the paper. It is a residual network of temporal convolutions (similar to Kim and Reiter 2017) on positions and
their differences over time.

Notation for tensor shapes: P persons of all clips, C channels (C' after a layer), T frames (T' after pooling),
V joints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psptool.model.batch_norm import BatchNorm, freeze_bias, normalize_shifted

KERNEL = 5
"""Number of frames of each temporal convolution."""
BLOCKS = 3
"""Number of residual blocks."""


class PoseBranch(nn.Module):
    """Features of whole poses, (P, 3, T, V) -> (P, 2*C): maximum and mean of each channel over time.

    Args:
        joints: V.
        width: C.
        dropout: Dropout probability in the blocks.
    """

    def __init__(self, joints: int, width: int, dropout: float) -> None:
        super().__init__()
        inputs = 2 * 3 * joints
        self.input_projection = nn.Sequential(
            BatchNorm(inputs), TimeConv(inputs, width, 1), BatchNorm(width), nn.ReLU()
        )
        self.blocks = nn.ModuleList(PoseBlock(width, dropout) for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        norm, *projection = self.input_projection
        # (P, 3, T, V) -> (P, 6*V, T, 1) -> (P, C, T, 1)
        y = _apply(projection, norm(in_layout(poses(x))))
        for number, block in enumerate(self.blocks):
            if number:
                # Longer receptive field: (P, C, T, 1) -> (P, C, ceil(T / 2), 1)
                y = F.max_pool2d(y, (2, 1), ceil_mode=True)
            y = F.relu(y + block(y))
        return torch.cat((y.amax((2, 3)), y.mean((2, 3))), 1)  # (P, C, T', 1) -> (P, 2*C)


def poses(x: Tensor) -> Tensor:
    """Positions and their central differences over time as channels, (P, 3, T, V) -> (P, 6*V, T, 1).

    The difference at frame t is x[t + 1] - x[t - 1]. It is zero in the first and the last frame.
    """
    # Padding makes T frames of T - 2 differences; the slice is for clips of one frame, padded to two.
    change = F.pad(x[:, :, 2:] - x[:, :, :-2], (0, 0, 1, 1))[:, :, : x.shape[2]]
    # (P, 6, T, V) -> (P, 6, V, T) -> (P, 6*V, T, 1)
    return torch.cat((x, change), 1).transpose(2, 3).flatten(1, 2)[..., None]


def in_layout(x: Tensor) -> Tensor:
    """``x`` in channels-last memory on a GPU, whose convolutions are made for it; unchanged on other devices."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cuda" else x


class TimeConv(nn.Conv1d):
    """Convolution over an odd number of frames, (P, C, T, 1) -> (P, C', T, 1). Its bias is added by the batch norm.

    On a CPU, the 1-D convolution takes 40 % of the time of a 2-D convolution with an axis of size 1.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        freeze_bias(self)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        padding = self.kernel_size[0] // 2
        if x.device.type == "cuda":
            return F.conv2d(x, self.weight[..., None], padding=(padding, 0))
        return F.conv1d(x.squeeze(3), self.weight, padding=padding).unsqueeze(3)


class PoseBlock(nn.Sequential):
    """The residual part of a block, (P, C, T, 1) -> (P, C, T, 1)."""

    def __init__(self, width: int, dropout: float) -> None:
        inner = (TimeConv(width, width, KERNEL), BatchNorm(width), nn.ReLU(), nn.Dropout(dropout))
        super().__init__(*inner, TimeConv(width, width, KERNEL), BatchNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return _apply(self, x)


def _apply(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply ``layers`` one after the other. A `TimeConv` is followed by its batch norm."""
    shift: Tensor | None = None
    for layer in layers:
        if shift is not None:
            x, shift = normalize_shifted(cast(BatchNorm, layer), x, shift), None
        else:
            x = layer(x)
            shift = layer.bias if isinstance(layer, TimeConv) else None
    return x
