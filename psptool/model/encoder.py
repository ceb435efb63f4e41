"""The encoder: spatial attention over joints and temporal convolution (PSP Learning, arXiv 2302.02327).

Its blocks are those of DSTA-Net (Shi et al. 2020), as in the original implementation of PSP Learning.

Notation for tensor shapes: P persons of all clips, C channels (C' after a layer), T frames (T' after the strides),
V joints, S heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psptool.model import kernels
from psptool.model.batch_norm import BatchNorm, freeze_bias, normalize_shifted
from psptool.model.precision import full_precision, padding, product_dtype
from psptool.schemas.training import ModelSettings

if TYPE_CHECKING:  # needs Triton
    from psptool.model.kernels import norm as norm_kernels

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
    """Convolution over ``kernel`` frames and batch norm, (P, C, V, T) -> (P, C', V, ceil(T / stride)).

    Tensors of the encoder are in channels-last memory, (P, V, T, C): a 1x1 convolution is then one matrix product, and
    the attention multiplies the rows (T*C) of the joints without a copy.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (kernel // 2, 0)), BatchNorm(outputs)
        )
        self.kernel, self.stride = kernel, stride
        freeze_bias(self.conv)

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution; its weight is (C', C, kernel, 1)."""
        return cast(nn.Conv2d, self[0])

    @property
    def norm(self) -> BatchNorm:
        """The batch norm over C' channels."""
        return cast(BatchNorm, self[1])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.normalize(self.convolve(x))

    def convolve(self, x: Tensor) -> Tensor:
        """The input of `normalize`, (P, C, V, T) -> (P, C', V, ceil(T / stride))."""
        weight, bias = self.folded()
        if self.kernel == 1:
            return pointwise(x, weight, bias, self.stride)
        # The kernel is over the last axis here: (C', C, kernel, 1) -> (C', C, 1, kernel)
        y = F.conv2d(x, weight.transpose(2, 3), bias, (1, self.stride), (0, self.kernel // 2))
        # Not all devices keep the memory layout of the input.
        return y.contiguous(memory_format=torch.channels_last)

    @property
    def folds(self) -> bool:
        """Whether the batch norm is part of the convolution, as a constant scale and shift: in evaluation mode.

        Not on a GPU, where computing the scaled weights takes more kernels than the batch norm, nor while Triton's
        interpreter imitates one: the attention kernels use the weights themselves.
        """
        weight = self.conv.weight
        return not self.training and weight.device.type == "cpu" and not kernels.usable(weight)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight (C', C, kernel, 1) and bias (C',) to convolve with; see `folds`.

        Without `folds`, `normalize` takes care of the bias.
        """
        conv, norm = self.conv, self.norm
        if not self.folds:
            return conv.weight, None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = (cast(Tensor, conv.bias) - norm.running_mean) * scale + norm.bias
        return conv.weight * scale[:, None, None, None], bias

    def normalize(self, y: Tensor) -> Tensor:
        """Batch norm of the convolution's output and bias, (P, C', V, T) -> (P, C', V, T); see `folds`."""
        return y if self.folds else normalize_shifted(self.norm, y, self.shift)

    @property
    def shift(self) -> Tensor:
        """What `normalize` adds to its input, (C',)."""
        return cast(Tensor, self.conv.bias)

    def kernel_input(self, y: Tensor) -> norm_kernels.Normalized:
        """The batch norm of the output of `convolve`, (P, C', V, T), for a kernel."""
        from psptool.model.kernels.norm import Normalized

        norm = self.norm
        norm.check_values(y)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.momentum is not None
        state = (norm.weight, norm.bias, norm.running_mean, norm.running_var, self.shift)
        return Normalized(channel_rows(y), *state, norm.momentum, norm.eps, norm.training)


class WholeBodyProjection(ConvBN):
    """Linear layer from the coordinates to the features of all joints of a frame, and batch norm.

    (P, 3, V, T) -> (P, C, V, T). The features of a joint then depend on the joint and on the positions of all others.
    The input projection of the original implementation is the same for every joint and leaves that to the attention.
    """

    def __init__(self, outputs: int, joints: int) -> None:
        super().__init__(joints * 3, joints * outputs)
        self[1] = BatchNorm(outputs)
        # The norm subtracts the mean over all joints. A bias is of one joint, so it does have an effect.
        cast(Tensor, self.conv.bias).requires_grad_(True)

    def convolve(self, x: Tensor) -> Tensor:
        """Features before the batch norm, with their bias, (P, 3, V, T) -> (P, C, V, T)."""
        persons, _, joints, frames = x.shape
        whole_body = x.permute(0, 3, 2, 1).flatten(2)  # (P, 3, V, T) -> (P, T, V*3)
        # (P, T, V*3) -> (P, T, V*C) -> (P, T, V, C) -> (P, C, V, T)
        y = padded_linear(whole_body, self.conv.weight.flatten(1), self.conv.bias)
        y = y.view(persons, frames, joints, -1).permute(0, 3, 2, 1)
        return y.contiguous(memory_format=torch.channels_last)

    @property
    def folds(self) -> bool:
        """Never: the weights of each joint would need a copy of the norm's scale."""
        return False

    @property
    def shift(self) -> Tensor:
        """Zero: the bias is added by `convolve`."""
        return torch.zeros_like(self.norm.bias)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """1x1 convolution of a tensor in channels-last memory.

    On a CPU, oneDNN's convolution with its fused bias is faster than the general matrix product of `linear`.

    Args:
        x: (P, C, V, T).
        weight: (C', C, 1, 1).
        bias: (C',).
        stride: Over frames.

    Returns:
        (P, C', V, ceil(T / stride)), in channels-last memory.
    """
    if x.device.type == "cpu" and x.dtype != torch.float64:  # oneDNN has no float64
        if stride > 1 and x.shape[1] % 16:
            # With a stride, oneDNN (PyTorch 2.13) writes gradients of weights beyond the end of their memory if the
            # channels do not fill a vector of 8 or 16 values. The process crashed with 2 to 7 channels.
            x, stride = x[..., ::stride].contiguous(memory_format=torch.channels_last), 1
        return F.conv2d(x, weight, bias, (1, stride))
    # Sliced in the order of the memory: the gradient of a slice is contiguous in the order of the axes.
    return padded_linear(x.permute(0, 2, 3, 1)[:, :, ::stride], weight.flatten(1), bias).permute(0, 3, 1, 2)


def padded_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Linear layer, (..., C) -> (..., C'), with inputs padded by zeros where that is faster (see `padding`)."""
    pad = padding(weight.shape[1], x)
    return F.linear(F.pad(x, (0, pad)), F.pad(weight, (0, pad)), bias) if pad else F.linear(x, weight, bias)


def input_projection(settings: ModelSettings, joints: int) -> ConvBN:
    """Build the first layer, (P, 3, V, T) -> (P, C, V, T)."""
    width = settings.channels[0]
    return (
        WholeBodyProjection(width, joints) if settings.input_projection == "whole_body" else ConvBN(3, width)
    )


class Block(nn.Module):
    """One block: spatial attention, feed-forward layer, temporal convolution.

    (P, C, V, T) -> (P, C', V, ceil(T / stride)).

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
        """Attention maps, (P, C, V, T) -> (P, S, V, V'); rows are queries. tanh instead of softmax.

        V' is V, or larger where that is faster (see `padding`). Columns from V on are zero.
        """
        persons, _, joints, frames = x.shape
        layer = self.query_key
        # (V, 1, C) -> (C, V, 1), added to (P, C, V, T)
        encoded = x + self.get_buffer("encoding").permute(2, 0, 1).to(x.dtype)
        # (P, C, V, T) -> (P, V, T, 2*S*d) -> (P, V, T, 2, S, d)
        query_key = pointwise(encoded, layer.weight, layer.bias).permute(0, 2, 3, 1)
        query_key = query_key.view(persons, joints, frames, 2, self.heads, self.qk_channels)
        pad = padding(joints, query_key)
        product = query_key_product(query_key, joints + pad)
        everywhere = F.pad(self.global_attention, (0, pad)) if pad else self.global_attention
        return torch.tanh(product) * self.alpha + everywhere

    def attend(self, x: Tensor, attention: Tensor) -> Tensor:
        """Apply attention maps and mix the heads, (P, C, V, T) -> (P, C', V, T), before the batch norm.

        The output at joint v is a sum over the query index u, as in the original implementation. The 1x1 convolution
        after the attention is applied head by head before the sum over joints: the same sum in another order, but the
        concatenated heads (P, V, T, S*C) are never stored.

        Args:
            x: (P, C, V, T).
            attention: (P, S, V, V'), as returned by `attention`.
        """
        persons, _, joints, frames = x.shape
        weight, bias = self.spatial.folded()
        head_weights = weight.chunk(self.heads, dim=1)  # (C', S*C, 1, 1) -> S of (C', C, 1, 1)
        # S of (P, C', V, T) -> (P, V, T*C')
        rows = [pointwise(x, head_weight).permute(0, 2, 3, 1).flatten(2) for head_weight in head_weights]
        mixed = _SumOverQueries.apply(attention.to(rows[0].dtype), *rows)  # type: ignore[no-untyped-call]
        mixed = mixed.view(persons, joints, frames, -1)  # (P, V, T*C') -> (P, V, T, C')
        if bias is not None:
            mixed = mixed + bias.to(mixed.dtype)
        return cast(Tensor, mixed.permute(0, 3, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if kernels.usable(x) and kernels.attention_fits(x.shape[0], x.shape[2], self.qk_channels):
            attended, residual, residual_of_feed = self._attend_fused(x)
        else:
            attended = self.attend(x, self.attention(x))
            residual, residual_of_feed = (_convolved(skip, x) for skip in (self.skip_spatial, self.skip_feed))
        y = normalize_add_activate(self.spatial, attended, self.skip_spatial, residual)
        # The residual of the feed-forward layer is the input of the block, not y.
        fed = self.feed_forward.convolve(y)
        y = normalize_add_activate(self.feed_forward, fed, self.skip_feed, residual_of_feed)
        convolved = self.temporal.convolve(y)
        return normalize_add_activate(
            self.temporal, convolved, self.skip_temporal, _convolved(self.skip_temporal, y)
        )

    def _attend_fused(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `attend` and the residuals of the spatial attention and of the feed-forward layer, with Triton kernels.

        (P, C, V, T) -> (P, C', V, T) each.
        """
        from psptool.model.kernels.attention import Packing, spatial_attention

        dtype, query_key = product_dtype(x), self.query_key
        skips = [skip for skip in (self.skip_spatial, self.skip_feed) if isinstance(skip, ConvBN)]
        outputs = self.spatial.conv.out_channels
        packing = Packing(self.heads, self.qk_channels, outputs, len(skips))
        # (C', S*C, 1, 1) -> (C', S, C) -> (S*C', C)
        heads = self.spatial.conv.weight.view(outputs, self.heads, -1).transpose(0, 1).flatten(0, 1)
        rows = [query_key.weight.flatten(1), heads, *(skip.conv.weight.flatten(1) for skip in skips)]
        weight = torch.cat(rows).to(dtype)
        with full_precision(x.device):
            # A convolution is linear: its output for the encoding, (V, 1, C) -> (V, 2*S*d), is added to that for x.
            encoding = self.get_buffer("encoding").flatten(1)
            bias = F.linear(encoding, query_key.weight.flatten(1).float(), query_key.bias)
        inputs = x.permute(0, 2, 3, 1).to(dtype).contiguous()  # (P, C, V, T) -> (P, V, T, C)
        attended, *residuals = spatial_attention(
            inputs, weight, bias, self.alpha, self.global_attention, packing
        )
        # Without a projection there is one residual, the input.
        found = [y.permute(0, 3, 1, 2) for y in (attended, residuals[0], residuals[-1])]
        return found[0], found[1], found[2]


def _convolved(skip: nn.Module, x: Tensor) -> Tensor:
    """Residual before its batch norm: ``x`` itself if ``skip`` is no projection."""
    return skip.convolve(x) if isinstance(skip, ConvBN) else x


def normalize_add_activate(
    layer: ConvBN, y: Tensor, skip: nn.Module | None = None, residual: Tensor | None = None
) -> Tensor:
    """Leaky ReLU of a normalized output and a residual, (P, C, V, T) each.

    Args:
        layer: The layer of the output.
        y: Output of ``layer.convolve``; its memory may be reused.
        skip: The layer of the residual, if it has one.
        residual: Output of ``skip.convolve``, or the residual itself; None without a residual.
    """
    projection = skip if isinstance(skip, ConvBN) else None
    if kernels.usable(y) and all(each.norm.has_kernel for each in (layer, projection) if each is not None):
        from psptool.model.kernels import norm

        second: Tensor | norm.Normalized | None = None
        if residual is not None and projection is not None:
            second = projection.kernel_input(residual)
        elif residual is not None:
            second = channel_rows(residual)
        out = norm.normalize_add_activate(layer.kernel_input(y), second, SLOPE)
        # (P*V*T, C) -> (P, V, T, C) -> (P, C, V, T)
        return out.view(*y.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
    y = layer.normalize(y)
    if residual is None:
        return F.leaky_relu_(y, SLOPE)
    return add_activate(y, residual if projection is None else projection.normalize(residual))


def query_key_product(query_key: Tensor, columns: int) -> Tensor:
    """Mean over frames and channels of the products of queries and keys.

    Plain operations would copy queries and keys twice, to order them by head and to pad them.

    Args:
        query_key: (P, V, T, 2, S, d).
        columns: V', at least V; see `padding`.

    Returns:
        (P, S, V, V'), zero for keys from V on. Rows are queries.
    """
    return _QueryKeyProduct.apply(query_key, columns)  # type: ignore[no-any-return, no-untyped-call]


class _QueryKeyProduct(torch.autograd.Function):
    """See `query_key_product`."""

    @staticmethod
    def forward(ctx: Any, query_key: Tensor, columns: int) -> Tensor:
        persons, joints, frames, _, heads, channels = query_key.shape
        # All frames of a joint are one row: (P, V, T, 2, S, d) -> (2, P, S, V', T, d)
        ordered = query_key.new_empty(2, persons, heads, columns, frames, channels)
        if columns > joints:
            ordered[:, :, :, joints:].zero_()
        ordered[:, :, :, :joints] = query_key.permute(3, 0, 4, 1, 2, 5)
        ctx.save_for_backward(ordered)
        ctx.joints = joints
        query, key = ordered.view(2, persons * heads, columns, -1)  # (P*S, V', T*d) each
        product = _scaled(query[:, :joints], key.transpose(1, 2), 1 / (frames * channels))
        return product.view(persons, heads, joints, columns)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None]:
        (ordered,) = ctx.saved_tensors
        joints, (_, persons, heads, columns, frames, channels) = ctx.joints, ordered.shape
        scale = 1 / (frames * channels)
        query, key = ordered.view(2, persons * heads, columns, -1)
        grad_out = grad_out.reshape(persons * heads, joints, columns)
        grad = torch.empty_like(ordered).view(2, persons * heads, columns, -1)
        _scaled(grad_out, key, scale, out=grad[0, :, :joints])
        _scaled(grad_out.transpose(1, 2), query[:, :joints], scale, out=grad[1])
        # (2, P*S, V', T*d) -> (P, V, T, 2, S, d)
        grad = grad.view_as(ordered)[:, :, :, :joints].permute(1, 3, 4, 0, 2, 5).contiguous()
        return grad, None


def _scaled(first: Tensor, second: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """``scale * first @ second`` of batches of matrices, in one operation."""
    return torch.baddbmm(first.new_empty(1, 1, 1), first, second, beta=0, alpha=scale, out=out)


class _SumOverQueries(torch.autograd.Function):
    """Sum over heads s and query joints u of ``maps[:, s, u, v] * rows[s][:, u]``, (P, V, R).

    Maps are (P, S, V, V') with V' >= V, and the rows of each head (P, V, R). Plain products would compute gradients of
    the maps with rows of V, not V' values (see `padding`).
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, *rows: Tensor) -> Tensor:
        ctx.save_for_backward(maps, *rows)
        out = maps[:, 0].transpose(1, 2) @ rows[0]  # (P, V', V) @ (P, V, R) -> (P, V', R)
        for head in range(1, len(rows)):
            out.baddbmm_(maps[:, head].transpose(1, 2), rows[head])
        return out[:, : rows[0].shape[1]].contiguous()

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, ...]:
        maps, *rows = ctx.saved_tensors
        pad = maps.shape[3] - maps.shape[2]
        grad_out = F.pad(grad_out, (0, 0, 0, pad)) if pad else grad_out  # (P, V, R) -> (P, V', R)
        # (P, V, R) @ (P, R, V') -> (P, V, V') per head
        grad_maps = torch.stack([x @ grad_out.transpose(1, 2) for x in rows], dim=1)
        return grad_maps, *(maps[:, head] @ grad_out for head in range(len(rows)))


def channel_rows(x: Tensor) -> Tensor:
    """(P, C, V, T) -> (P*V*T, C) with contiguous channels; copied only if they are not, or rows are irregular."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    # One person in another memory layout is flattened without a copy: its channels are then apart.
    return rows if rows.stride(1) == 1 else rows.contiguous()


def add_activate(y: Tensor, residual: Tensor) -> Tensor:
    """Leaky ReLU of ``y + residual``, computed in the memory of ``y``.

    ``y`` must be the output of a batch norm or a convolution: no gradient needs its values.
    """
    return F.leaky_relu_(y.add_(residual), SLOPE)


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

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.forward_blocks(project(self.input_projection, x))

    def forward_blocks(self, x: Tensor) -> Tensor:
        """Apply the blocks to the output of `project`, (P, C, V, T) -> (P, C', T', V)."""
        for block in self.blocks:
            x = block(x)  # (P, C, V, T) -> (P, C', V, ceil(T / stride))
        return x.transpose(2, 3)


def project(projection: ConvBN, x: Tensor) -> Tensor:
    """Leaky ReLU of an input projection, in channels-last memory, (P, 3, T, V) -> (P, C, V, T)."""
    y = normalize_add_activate(projection, projection.convolve(x.transpose(2, 3)))
    return y.contiguous(memory_format=torch.channels_last)


def as_rows(features: Tensor) -> Tensor:
    """Features in the order of their memory, (P, C, T', V) -> (P, V, T', C).

    Gradients of slices and means are contiguous in the order of the axes. In another order than that of the features,
    adding them up is slow.
    """
    return features.permute(0, 3, 2, 1)


def as_features(rows: Tensor) -> Tensor:
    """The inverse of `as_rows`, (P, V, T', C) -> (P, C, T', V)."""
    return rows.permute(0, 3, 2, 1)


def concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate along the persons: several (P, C, V, T) -> one, in channels-last memory."""
    return torch.cat([x.permute(0, 2, 3, 1) for x in tensors]).permute(0, 3, 1, 2)
