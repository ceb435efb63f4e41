"""The pose branch: temporal convolutions over all joints at once. Those of the encoder are over one joint each.

Not in the paper. It is a residual network of temporal convolutions (similar to Kim and Reiter 2017) on positions and
their differences over time.

Notation for tensor shapes: P persons of all clips, C channels (C' after a layer), T frames (T' after pooling),
V joints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
            nn.BatchNorm2d(inputs), TimeConv(inputs, width, 1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.ModuleList(_block(width, dropout) for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = self.input_projection(poses(x))  # (P, 3, T, V) -> (P, 6*V, T, 1) -> (P, C, T, 1)
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


class TimeConv(nn.Conv1d):
    """Convolution over an odd number of frames, (P, C, T, 1) -> (P, C', T, 1).

    On a CPU, the 1-D convolution takes 40 % of the time of a 2-D convolution with an axis of size 1.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(x.squeeze(3)).unsqueeze(3)


def _block(width: int, dropout: float) -> nn.Sequential:
    """The residual part of a block, (P, C, T, 1) -> (P, C, T, 1)."""
    inner = (TimeConv(width, width, KERNEL), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(dropout))
    return nn.Sequential(*inner, TimeConv(width, width, KERNEL), nn.BatchNorm2d(width))
