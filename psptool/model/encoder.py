"""The encoder: spatial attention over joints and convolution over time (PSP Learning, arXiv 2302.02327; the blocks
are those of DSTA-Net, Shi et al. 2020, as the released code uses them).

Notation for tensor shapes: P persons of all clips, C channels, T frames, V joints, S heads, d width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psptool.schemas.training import ModelSettings

SLOPE = 0.1


def joint_encoding(channels: int, joints: int) -> Tensor:
    """Sinusoidal encoding of the joint index, (1, C, 1, V): sine on even channels, cosine on odd ones."""
    position = torch.arange(joints, dtype=torch.float64)[None, :]
    channel = torch.arange(channels, dtype=torch.float64)[:, None]
    angle = position * torch.exp(-torch.log(torch.tensor(10000.0, dtype=torch.float64)) * (channel - channel % 2) / channels)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())[None, :, None, :].float()


def conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution over ``kernel`` frames, (P, C, T, V) -> (P, C', ceil(T / stride), V), and batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (kernel // 2, 0)), nn.BatchNorm2d(outputs)
    )


class Block(nn.Module):
    """One block, (P, C, T, V) -> (P, C', ceil(T / stride), V).

    Args:
        inputs: C.
        outputs: C'.
        inter: d, width of a head's q and k.
        heads: S.
        joints: V.
        stride: Over time.
        kernel: Frames of the temporal convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, inter: int, heads: int, joints: int, stride: int, kernel: int
    ) -> None:
        super().__init__()
        self.heads, self.inter = heads, inter
        self.register_buffer("encoding", joint_encoding(inputs, joints), persistent=False)
        self.query_key = nn.Conv2d(inputs, 2 * heads * inter, 1)
        self.alpha = nn.Parameter(torch.ones(heads, 1, 1))
        self.everywhere = nn.Parameter(torch.full((heads, joints, joints), 1 / joints))
        self.spatial = conv_bn(heads * inputs, outputs)
        self.feed_forward = conv_bn(outputs, outputs)
        self.temporal = conv_bn(outputs, outputs, kernel, stride)
        widen = inputs != outputs
        self.skip_spatial = conv_bn(inputs, outputs) if widen else nn.Identity()
        self.skip_feed = conv_bn(inputs, outputs) if widen else nn.Identity()
        self.skip_temporal = conv_bn(outputs, outputs, 1, stride) if stride != 1 else nn.Identity()

    def attention(self, x: Tensor) -> Tensor:
        """(P, C, T, V) -> (P, S, V, V); rows are queries. tanh, no softmax."""
        persons, _, frames, joints = x.shape
        query_key = self.query_key(x + self.encoding)  # (P, 2Sd, T, V)
        query, key = query_key.reshape(persons, 2, self.heads, self.inter * frames, joints).unbind(1)
        product = query.transpose(-1, -2) @ key / (self.inter * frames)  # (P, S, V, V)
        return torch.tanh(product) * self.alpha + self.everywhere

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        persons, channels, frames, joints = x.shape
        attention = self.attention(x)
        # Joint v gathers over u, the query index: the released block's direction.
        mixed = x.reshape(persons, 1, channels * frames, joints) @ attention  # (P, S, C*T, V)
        mixed = mixed.reshape(persons, self.heads * channels, frames, joints)
        y = F.leaky_relu(self.spatial(mixed) + self.skip_spatial(x), SLOPE)
        # The feed-forward's residual is the block's input, not y.
        y = F.leaky_relu(self.feed_forward(y) + self.skip_feed(x), SLOPE)
        return F.leaky_relu(self.temporal(y) + self.skip_temporal(y), SLOPE)


class Encoder(nn.Module):
    """Input map and blocks, (P, 3, T, V) -> (P, C, T', V)."""

    def __init__(self, settings: ModelSettings, joints: int) -> None:
        super().__init__()
        width = settings.channels[0]
        self.input_map = conv_bn(3, width)
        self.blocks = nn.ModuleList()
        for outputs, inter, stride in zip(settings.channels, settings.inter, settings.strides, strict=True):
            self.blocks.append(
                Block(width, outputs, inter, settings.heads, joints, stride, settings.temporal_kernel)
            )
            width = outputs
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = F.leaky_relu(self.input_map(x), SLOPE)
        for block in self.blocks:
            x = block(x)
        return x
