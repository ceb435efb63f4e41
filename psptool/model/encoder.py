"""The encoder: spatial attention over joints and temporal convolution (PSP Learning, arXiv 2302.02327).

Its blocks are those of DSTA-Net (Shi et al. 2020), as in the original implementation of PSP Learning.

Notation for tensor shapes: P persons of all clips, C channels (C' after a layer), T frames (T' after the strides),
V joints, S heads, d channels of a head.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psptool.model.batch_norm import BatchNorm
from psptool.schemas.training import ModelSettings

SLOPE = 0.1
"""Negative slope of the leaky ReLUs."""


def joint_encoding(channels: int, joints: int) -> Tensor:
    """Sinusoidal encoding of the joint index, (V, 1, C): sine on even channels, cosine on odd ones."""
    position = torch.arange(joints, dtype=torch.float64)[:, None]
    channel = torch.arange(channels, dtype=torch.float64)[None, :]
    # (V, 1) * (1, C) -> (V, C). Channels 2i and 2i + 1 have the same frequency, 10000 ** (-2i / C).
    angle = position * torch.exp(
        -torch.log(torch.tensor(10000.0, dtype=torch.float64)) * (channel - channel % 2) / channels
    )
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())[:, None, :].float()


class ConvBN(nn.Sequential):
    """Convolution over ``kernel`` frames and batch norm, (P, V, T, C) -> (P, V, ceil(T / stride), C').

    Channels are last in memory throughout the encoder. A 1x1 convolution is then one matrix product without a copy,
    and so is the attention, whose operands are the rows (T*C) of the joints.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (kernel // 2, 0)), BatchNorm(outputs)
        )
        self.kernel, self.stride = kernel, stride

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution; its weight is (C', C, kernel, 1)."""
        return cast(nn.Conv2d, self[0])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        conv = self.conv
        if self.kernel == 1:
            y = F.linear(x[:, :, :: self.stride], conv.weight.flatten(1), conv.bias)
        else:
            # (P, V, T, C) -> (P, C, V, T), with the kernel over the last axis, -> (P, V, T', C')
            y = F.conv2d(
                x.permute(0, 3, 1, 2),
                conv.weight.transpose(2, 3),
                conv.bias,
                (1, self.stride),
                (0, self.kernel // 2),
            ).permute(0, 2, 3, 1)
        return self.normalize(y)

    def normalize(self, y: Tensor) -> Tensor:
        """Only the batch norm, (P, V, T, C') -> (P, V, T, C')."""
        return self[1](y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class WholeBodyProjection(ConvBN):
    """Linear layer from the coordinates to the features of all joints of a frame, and batch norm.

    (P, V, T, 3) -> (P, V, T, C). The features of a joint then depend on the joint and on the positions of all others.
    The input projection of the original implementation is the same for every joint and leaves that to the attention.
    """

    def __init__(self, outputs: int, joints: int) -> None:
        super().__init__(joints * 3, joints * outputs)
        self[1] = BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        persons, joints, frames, _ = x.shape
        conv = self.conv
        whole_body = x.permute(0, 2, 1, 3).flatten(2)  # (P, V, T, 3) -> (P, T, V*3)
        # (P, T, V*3) -> (P, T, V*C) -> (P, T, V, C)
        y = F.linear(whole_body, conv.weight.flatten(1), conv.bias).view(persons, frames, joints, -1)
        return self.normalize(y.permute(0, 2, 1, 3))


def input_projection(settings: ModelSettings, joints: int) -> ConvBN:
    """Build the first layer, (P, V, T, 3) -> (P, V, T, C)."""
    width = settings.channels[0]
    return (
        WholeBodyProjection(width, joints) if settings.input_projection == "whole_body" else ConvBN(3, width)
    )


class Block(nn.Module):
    """One block: spatial attention, feed-forward layer, temporal convolution.

    (P, V, T, C) -> (P, V, ceil(T / stride), C').

    Args:
        inputs: C.
        outputs: C'.
        qk_channels: d, channels of the query and of the key of a head.
        heads: S.
        joints: V.
        stride: Temporal stride.
        kernel: Number of frames of the temporal convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, qk_channels: int, heads: int, joints: int, stride: int, kernel: int
    ) -> None:
        super().__init__()
        self.heads, self.qk_channels = heads, qk_channels
        self.register_buffer("encoding", joint_encoding(inputs, joints), persistent=False)
        self.query_key = nn.Conv2d(inputs, 2 * heads * qk_channels, 1)
        self.alpha = nn.Parameter(torch.ones(heads, 1, 1))
        self.global_attention = nn.Parameter(torch.full((heads, joints, joints), 1 / joints))
        self.spatial = ConvBN(heads * inputs, outputs)
        self.feed_forward = ConvBN(outputs, outputs)
        self.temporal = ConvBN(outputs, outputs, kernel, stride)
        # The same condition for all three residuals, as in the original implementation: a projection is also used
        # where only the stride or only the number of channels changes.
        changes = inputs != outputs or stride != 1
        self.skip_spatial = ConvBN(inputs, outputs) if changes else nn.Identity()
        self.skip_feed = ConvBN(inputs, outputs) if changes else nn.Identity()
        self.skip_temporal = ConvBN(outputs, outputs, 1, stride) if changes else nn.Identity()

    def attention(self, x: Tensor) -> Tensor:
        """Attention maps, (P, V, T, C) -> (P, S, V, V); rows are queries. tanh instead of softmax."""
        persons, joints, frames, _ = x.shape
        encoded = x + self.get_buffer("encoding").to(x.dtype)  # (P, V, T, C) + (V, 1, C)
        # (P, V, T, C) -> (P, V, T, 2*S*d) -> (P, V, T, 2, S, d)
        query_key = F.linear(encoded, self.query_key.weight.flatten(1), self.query_key.bias)
        query_key = query_key.view(persons, joints, frames, 2, self.heads, self.qk_channels)
        # -> (2, P, S, V, T*d) -> two of (P, S, V, T*d): all frames of a joint are one vector
        query, key = query_key.permute(3, 0, 4, 1, 2, 5).flatten(4).unbind(0)
        product = query @ key.transpose(-1, -2) / (self.qk_channels * frames)  # (P, S, V, V)
        return torch.tanh(product) * self.alpha + self.global_attention

    def attend(self, x: Tensor, attention: Tensor) -> Tensor:
        """Apply attention maps and mix the heads, (P, V, T, C) -> (P, V, T, C').

        The output at joint v is a sum over the query index u, as in the original implementation. The 1x1 convolution
        after the attention is applied head by head before the sum over joints: the same sum in another order, but the
        concatenated heads (P, V, T, S*C) are never stored.

        Args:
            x: (P, V, T, C).
            attention: (P, S, V, V).
        """
        persons, joints, frames, _ = x.shape
        conv = self.spatial.conv
        head_weights = conv.weight.flatten(1).chunk(self.heads, dim=1)  # (C', S*C) -> S of (C', C)
        # The sum starts with the bias: (C',) -> (P, V, T, C') -> (P, V, T*C')
        mixed = cast(Tensor, conv.bias).expand(persons, joints, frames, -1).flatten(2)
        for head, weight in enumerate(head_weights):
            # (P, V, V) @ (P, V, T*C') -> (P, V, T*C')
            mixed = torch.baddbmm(mixed, attention[:, head].transpose(1, 2), F.linear(x, weight).flatten(2))
        return self.spatial.normalize(mixed.view(persons, joints, frames, -1))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = F.leaky_relu(self.attend(x, self.attention(x)) + self.skip_spatial(x), SLOPE)
        # The residual of the feed-forward layer is the input of the block, not y.
        y = F.leaky_relu(self.feed_forward(y) + self.skip_feed(x), SLOPE)
        return F.leaky_relu(self.temporal(y) + self.skip_temporal(y), SLOPE)


class Encoder(nn.Module):
    """Input projection and blocks, (P, 3, T, V) -> (P, C, T', V)."""

    def __init__(self, settings: ModelSettings, joints: int) -> None:
        super().__init__()
        width = settings.channels[0]
        self.input_projection = input_projection(settings, joints)
        self.blocks = nn.ModuleList()
        for outputs, qk_channels, stride in zip(
            settings.channels, settings.qk_channels, settings.strides, strict=True
        ):
            self.blocks.append(
                Block(width, outputs, qk_channels, settings.heads, joints, stride, settings.temporal_kernel)
            )
            width = outputs
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.forward_blocks(self.input_projection(channels_last(x)))

    def forward_blocks(self, projected: Tensor) -> Tensor:
        """Apply the blocks to the output of the input projection, (P, V, T, C) -> (P, C', T', V)."""
        x = F.leaky_relu(projected, SLOPE)
        for block in self.blocks:
            x = block(x)  # (P, V, T, C) -> (P, V, ceil(T / stride), C')
        return channels_last(x)


def channels_last(x: Tensor) -> Tensor:
    """(P, C, T, V) -> (P, V, T, C), or the reverse, as a view."""
    return x.permute(0, 3, 2, 1)
