"""The pose branch: convolutions over time that see all joints at once; the encoder's own see one joint each.

Not in the paper. A residual network of temporal convolutions (in the manner of Kim and Reiter 2017) on the joint
stream's positions and their differences together.

Notation for tensor shapes: P persons of all clips, C channels, T frames, V joints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 5
BLOCKS = 3


class PoseBranch(nn.Module):
    """Whole poses to features, (P, 3, T, V) -> (P, 2 C): each channel's largest value and mean over time.

    Args:
        joints: V.
        width: C.
        dropout: Within the blocks.
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
        y = self.input_projection(poses(x))
        for number, block in enumerate(self.blocks):
            if number:
                y = F.max_pool2d(y, (2, 1), ceil_mode=True)
            y = F.relu(y + block(y))
        return torch.cat((y.amax((2, 3)), y.mean((2, 3))), 1)


def poses(x: Tensor) -> Tensor:
    """Positions (P, 3, T, V) as (P, 6 V, T, 1): all coordinates of a frame, then the frame after minus the one before.

    The first and the last frame have no difference; it is zero there.
    """
    change = F.pad(x[:, :, 2:] - x[:, :, :-2], (0, 0, 1, 1))[:, :, : x.shape[2]]
    return torch.cat((x, change), 1).transpose(2, 3).flatten(1, 2)[..., None]


class TimeConv(nn.Conv1d):
    """Convolution over an odd number of frames, (P, C, T, 1) -> (P, C', T, 1).

    In one dimension: on a CPU it takes two fifths of the time of one in two, of which one is empty.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(x.squeeze(3)).unsqueeze(3)


def _block(width: int, dropout: float) -> nn.Sequential:
    inner = (TimeConv(width, width, KERNEL), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(dropout))
    return nn.Sequential(*inner, TimeConv(width, width, KERNEL), nn.BatchNorm2d(width))
