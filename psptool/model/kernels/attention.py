"""Spatial attention of a block as one matrix product and three Triton kernels.

Everything that a block computes from its input by a 1x1 convolution is one product, whose output is packed: queries
and keys of all heads, the features of each head, and the residual projections. The kernels read their columns of it.
Separate operations would copy queries, keys and features, and read the input once for each convolution.

Notation for tensor shapes: P persons of all clips, V joints, T frames, C channels of the input, C' of the output,
S heads, d channels of a query, N = 2*S*d + (S + residuals)*C' packed columns, V' the least power of 2 from 16 on that
holds V.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from psptool.model.kernels import on_device_of

COLUMNS, BACKWARD_COLUMNS, QUERY_COLUMNS = 128, 128, 64
"""Columns of a program's tiles: features forward and backward, queries and keys."""
MAP_WARPS, MIX_WARPS, BACKWARD_WARPS = 4, 4, 4
"""Warps of a program of each kernel."""


class Packing(NamedTuple):
    """Sizes of the packed output, whose columns are: queries, keys (S*d each), heads (S*C'), residuals (C' each).

    Attributes:
        heads: S.
        qk_channels: d.
        outputs: C'.
        residuals: Number of residual projections.
    """

    heads: int
    qk_channels: int
    outputs: int
    residuals: int

    @property
    def features(self) -> int:
        """First column of the heads' features."""
        return 2 * self.heads * self.qk_channels

    @property
    def attended(self) -> int:
        """Number of columns that the attention reads; the residuals begin there."""
        return self.features + self.heads * self.outputs


def spatial_attention(
    x: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor, everywhere: Tensor, packing: Packing
) -> tuple[Tensor, ...]:
    """Attended features (P, V, T, C'), and the residuals: the projected ones, or ``x`` itself if there are none.

    The map of a head is ``tanh(product) * alpha + everywhere``, where the product is the mean over frames and channels
    of queries times keys. The output at joint v is the sum over heads and query joints u of ``map[u, v]`` times the
    features at u.

    Args:
        x: (P, V, T, C), contiguous.
        weight: (N, C), of the same type.
        bias: (V, 2*S*d), float32, added to queries and keys: the bias of their convolution, and its output for the
            encoding of the joint.
        alpha: (S, 1, 1), float32.
        everywhere: (S, V, V), float32.
        packing: Sizes.

    Returns:
        (P, V, T, C') each; the residuals of a projection are columns of a larger tensor.
    """
    with on_device_of(x):
        return _SpatialAttention.apply(x, weight, bias, alpha, everywhere, packing)  # type: ignore[no-any-return]


class _SpatialAttention(torch.autograd.Function):
    """See `spatial_attention`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor, everywhere: Tensor, packing: Packing
    ) -> tuple[Tensor, ...]:
        persons, joints, frames, _ = x.shape
        packed = torch.mm(x.flatten(0, 2), weight.T)  # (P*V*T, C) -> (P*V*T, N)
        width = max(16, triton.next_power_of_2(joints))
        tanh = x.new_empty((persons, packing.heads, width, width), dtype=torch.float32)
        sizes = (joints, packing.heads, packing.qk_channels)
        _tanh_maps[(persons * packing.heads,)](
            packed, bias, tanh, frames, packed.shape[1], *sizes, width, *_query_tile(x, packing), _products(x),
            num_warps=MAP_WARPS,
        )  # fmt: skip
        mixed = x.new_empty((persons, joints, frames, packing.outputs))
        columns = _columns(x, COLUMNS)
        _mix_heads[(triton.cdiv(frames * packing.outputs, columns), persons)](
            packed, tanh, alpha, everywhere, mixed, frames, packed.shape[1], *sizes, packing.outputs, width,
            columns, _products(x), num_warps=MIX_WARPS,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, alpha, everywhere, packed, tanh)
        ctx.packing = packing
        if not packing.residuals:
            return mixed, x
        residuals = packed[:, packing.attended :].split(packing.outputs, dim=1)
        return mixed, *(residual.view_as(mixed) for residual in residuals)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mixed: Tensor, *grad_residuals: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, alpha, everywhere, packed, tanh = ctx.saved_tensors
        packing: Packing = ctx.packing
        persons, joints, frames, _ = x.shape
        width = tanh.shape[-1]
        grad_packed = packed.new_empty((len(packed), packing.attended))
        grad_maps = torch.empty_like(tanh)
        grad_bias = x.new_empty((persons, joints, packing.features), dtype=torch.float32)
        _attention_gradients[(persons * packing.heads,)](
            packed, bias, tanh, alpha, everywhere, grad_mixed.contiguous(), grad_packed, grad_maps, grad_bias,
            frames, packed.shape[1], packing.attended, joints, packing.heads, packing.qk_channels,
            packing.outputs, width, _columns(x, BACKWARD_COLUMNS), *_query_tile(x, packing), _products(x),
            num_warps=BACKWARD_WARPS,
        )  # fmt: skip
        rows = x.flatten(0, 2)  # (P*V*T, C)
        of_residuals = [grad.reshape(len(rows), -1) for grad in grad_residuals]
        grad_weights = [torch.mm(grad_packed.T, rows)]  # (2*S*d + S*C', P*V*T) @ (P*V*T, C)
        if packing.residuals:
            grad_x = torch.mm(grad_packed, weight[: packing.attended])
            for grad, part in zip(
                of_residuals, weight[packing.attended :].split(packing.outputs), strict=True
            ):
                grad_x.addmm_(grad, part)  # (P*V*T, C') @ (C', C)
                grad_weights.append(torch.mm(grad.T, rows))
        else:
            grad_x = torch.addmm(of_residuals[0], grad_packed, weight)
        grad_alpha = (grad_maps * tanh).sum((0, 2, 3))[:, None, None]
        grad_everywhere = grad_maps.sum(0)[:, :joints, :joints]
        return grad_x.view_as(x), torch.cat(grad_weights), grad_bias.sum(0), grad_alpha, grad_everywhere, None


def _products(x: Tensor) -> str:
    """Precision of products of float32 values: exact if `x` is float32, else more exact than bfloat16, and faster."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def _columns(x: Tensor, columns: int) -> int:
    """Columns of a tile. Exact products in float32 take long to compile, less so with small tiles."""
    return columns // 4 if x.dtype == torch.float32 else columns


def _query_tile(x: Tensor, packing: Packing) -> tuple[int, int]:
    """Columns of a tile of queries or keys, and of each frame in it, powers of 2."""
    frame = triton.next_power_of_2(packing.qk_channels)
    return max(_columns(x, QUERY_COLUMNS), frame), frame


@triton.jit
def _joint_bias(
    bias,
    head,
    V: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    FRAME: tl.constexpr,
):
    """Bias of queries and of keys of a head, (V', TILE) each in float32; the same in each frame of the tile."""
    v, c = tl.arange(0, WIDTH), tl.arange(0, TILE) % FRAME
    at = v[:, None] * (2 * S * D) + (head * D + c)[None, :]
    valid = (v < V)[:, None] & (c < D)[None, :]
    return tl.load(bias + at, mask=valid, other=0.0), tl.load(bias + at + S * D, mask=valid, other=0.0)


@triton.jit
def _query_offsets(
    start, first, head, T, length, V: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
    FRAME: tl.constexpr,
):  # fmt: skip
    """Offsets (V', TILE) of the queries of a head from frame ``first`` on, in rows of ``length``; which exist."""
    v, k = tl.arange(0, WIDTH), tl.arange(0, TILE)
    t, c = first + k // FRAME, k % FRAME
    at = start * length + v[:, None] * (T * length) + (t * length + head * D + c)[None, :]
    return at, (v < V)[:, None] & ((t < T) & (c < D))[None, :]


@triton.jit
def _feature_offsets(start, n, head, T, length, first, CO: tl.constexpr, WIDTH: tl.constexpr):
    """Offsets (V', TILE) of columns ``n`` (frames and channels) of a head's features, in rows of ``length``."""
    v = tl.arange(0, WIDTH)
    return (
        start * length
        + v[:, None] * (T * length)
        + ((n // CO) * length + n % CO)[None, :]
        + first
        + head * CO
    )


@triton.jit
def _load_query_key(
    packed, start, first, head, T, N, V: tl.constexpr, S: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr, FRAME: tl.constexpr,
):  # fmt: skip
    """Queries and keys of a head from frame ``first`` on, (V', TILE) each, and which exist; others are 0."""
    at, valid = _query_offsets(start, first, head, T, N, V, D, WIDTH, TILE, FRAME)
    query = tl.load(packed + at, mask=valid, other=0.0)
    return query, tl.load(packed + at + S * D, mask=valid, other=0.0), valid


@triton.jit
def _map_offsets(program, WIDTH: tl.constexpr):
    """Offsets (V', V') of the map of a person and head in (P, S, V', V')."""
    u = tl.arange(0, WIDTH)
    return program.to(tl.int64) * WIDTH * WIDTH + u[:, None] * WIDTH + u[None, :]


@triton.jit(do_not_specialize=["T"])
def _tanh_maps(
    packed, bias, tanh, T, N, V: tl.constexpr, S: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr, FRAME: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Tanh of the products of queries and keys, (P, S, V', V'); 0 beyond V. One program per person and head.

    With q and k for the packed columns, and a and b for their bias: the sum over frames of (q + a)(k + b) is
    sum(q k) + sum(q + a) b + a sum(k). The bias is only needed after the loop.
    """
    program = tl.program_id(0)
    person, head = program // S, program % S
    start = person.to(tl.int64) * (V * T)
    product = tl.zeros((WIDTH, WIDTH), tl.float32)
    queries = tl.zeros((WIDTH, TILE), tl.float32)
    keys = tl.zeros((WIDTH, TILE), tl.float32)
    for first in range(0, T, TILE // FRAME):
        query, key, _ = _load_query_key(packed, start, first, head, T, N, V, S, D, WIDTH, TILE, FRAME)
        product = tl.dot(query, tl.trans(key), product, input_precision=PRECISION)
        queries += query.to(tl.float32)
        keys += key.to(tl.float32)
    query_bias, key_bias = _joint_bias(bias, head, V, S, D, WIDTH, TILE, FRAME)
    # Number of frames that a column of the tiles stands for
    frames = (T - tl.arange(0, TILE) // FRAME + TILE // FRAME - 1) // (TILE // FRAME)
    queries += query_bias * frames.to(tl.float32)[None, :]
    product = tl.dot(queries, tl.trans(key_bias), product, input_precision=PRECISION)
    product = tl.dot(query_bias, tl.trans(keys), product, input_precision=PRECISION)
    result = 2 * tl.sigmoid(product * (2.0 / (T * D))) - 1
    tl.store(tanh + _map_offsets(program, WIDTH), result)


@triton.jit
def _attention_map(tanh, alpha, everywhere, program, head, V: tl.constexpr, WIDTH: tl.constexpr):
    """Attention map of a person and head, (V', V'), its tanh, and alpha. Rows are queries; 0 beyond V."""
    u = tl.arange(0, WIDTH)
    valid = (u < V)[:, None] & (u < V)[None, :]
    own = tl.load(tanh + _map_offsets(program, WIDTH))
    factor = tl.load(alpha + head)
    fixed = tl.load(everywhere + head * V * V + u[:, None] * V + u[None, :], mask=valid, other=0.0)
    return own * factor + fixed, own, factor


@triton.jit(do_not_specialize=["T"])
def _mix_heads(
    packed, tanh, alpha, everywhere, mixed, T, N, V: tl.constexpr, S: tl.constexpr, D: tl.constexpr,
    CO: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum over heads and query joints of maps times features, for a person and a tile of frames and channels."""
    person = tl.program_id(1)
    n = tl.program_id(0) * TILE + tl.arange(0, TILE)
    u = tl.arange(0, WIDTH)
    valid = (u < V)[:, None] & (n < T * CO)[None, :]
    start = person.to(tl.int64) * (V * T)
    total = tl.zeros((WIDTH, TILE), tl.float32)
    for head in tl.static_range(S):
        own, _, _ = _attention_map(tanh, alpha, everywhere, person * S + head, head, V, WIDTH)
        at = _feature_offsets(start, n, head, T, N, 2 * S * D, CO, WIDTH)
        features = tl.load(packed + at, mask=valid, other=0.0)
        total = tl.dot(tl.trans(own).to(features.dtype), features, total, input_precision=PRECISION)
    tl.store(
        mixed + start * CO + u[:, None] * (T * CO) + n[None, :], total.to(mixed.dtype.element_ty), mask=valid
    )


@triton.jit(do_not_specialize=["T"])
def _attention_gradients(
    packed, bias, tanh, alpha, everywhere, grad_mixed, grad_packed, grad_maps, grad_bias, T, N, M,
    V: tl.constexpr, S: tl.constexpr, D: tl.constexpr, CO: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr, QUERY_TILE: tl.constexpr, FRAME: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of features, queries and keys in rows of M columns, of maps (P, S, V', V') and bias (P, V, 2*S*d).

    One program per person and head.
    """
    program = tl.program_id(0)
    person, head = program // S, program % S
    start = person.to(tl.int64) * (V * T)
    own, own_tanh, factor = _attention_map(tanh, alpha, everywhere, program, head, V, WIDTH)
    u = tl.arange(0, WIDTH)
    grad_map = tl.zeros((WIDTH, WIDTH), tl.float32)
    for column in range(0, T * CO, TILE):
        n = column + tl.arange(0, TILE)
        valid = (u < V)[:, None] & (n < T * CO)[None, :]
        at = _feature_offsets(start, n, head, T, N, 2 * S * D, CO, WIDTH)
        grad = tl.load(grad_mixed + start * CO + u[:, None] * (T * CO) + n[None, :], mask=valid, other=0.0)
        features = tl.load(packed + at, mask=valid, other=0.0)
        # Map (V' of queries, V' of outputs) with rows of features (V', TILE) and of gradients (V', TILE)
        grad_map = tl.dot(features, tl.trans(grad), grad_map, input_precision=PRECISION)
        grad_features = tl.dot(own.to(grad.dtype), grad, input_precision=PRECISION)
        at = _feature_offsets(start, n, head, T, M, 2 * S * D, CO, WIDTH)
        tl.store(grad_packed + at, grad_features.to(grad_packed.dtype.element_ty), mask=valid)
    tl.store(grad_maps + _map_offsets(program, WIDTH), grad_map)
    grad_product = grad_map * factor * (1 - own_tanh * own_tanh) * (1.0 / (T * D))
    query_bias, key_bias = _joint_bias(bias, head, V, S, D, WIDTH, QUERY_TILE, FRAME)
    from_key_bias = tl.dot(grad_product, key_bias, input_precision=PRECISION)
    from_query_bias = tl.dot(tl.trans(grad_product), query_bias, input_precision=PRECISION)
    grad_product = grad_product.to(packed.dtype.element_ty)
    query_sums = tl.zeros((WIDTH, QUERY_TILE), tl.float32)
    key_sums = tl.zeros((WIDTH, QUERY_TILE), tl.float32)
    for first in range(0, T, QUERY_TILE // FRAME):
        query, key, valid = _load_query_key(
            packed, start, first, head, T, N, V, S, D, WIDTH, QUERY_TILE, FRAME
        )
        grad_query = tl.dot(grad_product, key, from_key_bias, input_precision=PRECISION)
        grad_key = tl.dot(tl.trans(grad_product), query, from_query_bias, input_precision=PRECISION)
        at, _ = _query_offsets(start, first, head, T, M, V, D, WIDTH, QUERY_TILE, FRAME)
        tl.store(grad_packed + at, grad_query.to(grad_packed.dtype.element_ty), mask=valid)
        tl.store(grad_packed + at + S * D, grad_key.to(grad_packed.dtype.element_ty), mask=valid)
        query_sums += tl.where(valid, grad_query, 0.0)
        key_sums += tl.where(valid, grad_key, 0.0)
    # (V', frames of a tile * channels) -> (V', channels)
    c = tl.arange(0, FRAME)
    at = person.to(tl.int64) * (V * 2 * S * D) + u[:, None] * (2 * S * D) + (head * D + c)[None, :]
    valid = (u < V)[:, None] & (c < D)[None, :]
    query_sums = tl.sum(tl.reshape(query_sums, (WIDTH, QUERY_TILE // FRAME, FRAME)), 1)
    key_sums = tl.sum(tl.reshape(key_sums, (WIDTH, QUERY_TILE // FRAME, FRAME)), 1)
    tl.store(grad_bias + at, query_sums, mask=valid)
    tl.store(grad_bias + at + S * D, key_sums, mask=valid)
