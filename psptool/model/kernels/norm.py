"""Batch norms, residual and leaky ReLU in few passes over memory, as Triton kernels.

A pass over a tensor of a block takes about as long as the matrix product before it. For a normalized output and a
residual, PyTorch's operations read and write eight tensors forward and eight backward, these kernels four and seven;
for a normalized residual, eleven and thirteen against five and ten.

Notation for tensor shapes: R rows (persons, joints and frames), C channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from psptool.model.kernels import on_device_of

TILE, TILE_CHANNELS = 2048, 64
"""Number of values of a program's tile, and its most channels: few tile shapes, since each is compiled."""
MOST_PROGRAMS = 1024
"""Largest number of programs that add up rows of the same channels. Each writes one row of partial sums."""
WARPS = 4
"""Warps of a program that reads rows."""
FINISHED_CHANNELS = 16
"""Number of channels of a program that adds up partial sums."""
NO_RESIDUAL, PLAIN_RESIDUAL, NORMALIZED_RESIDUAL = 0, 1, 2


class Normalized(NamedTuple):
    """Input of a batch norm and its state.

    Attributes:
        x: (R, C); channels are contiguous, the distance of rows is arbitrary.
        weight: (C,), float32.
        bias: (C,), float32.
        running_mean: (C,), float32; updated in training mode.
        running_var: (C,), likewise.
        shift: (C,), float32; the statistics are those of ``x + shift``.
        momentum: Of the running statistics.
        eps: Added to the variance.
        training: Normalize by the statistics of `x`, not by the running ones.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    shift: Tensor
    momentum: float
    eps: float
    training: bool


def normalize_add_activate(first: Normalized, residual: Tensor | Normalized | None, slope: float) -> Tensor:
    """Leaky ReLU of the sum of a batch norm and a residual, (R, C), in the type of ``first.x``.

    Gradients are those of the input tensors, weights and biases. They are only available in training mode.

    Args:
        first: The batch norm.
        residual: (R, C) like ``first.x``; another batch norm, in the same mode; or None.
        slope: Negative slope of the leaky ReLU, above 0.
    """
    other = residual if isinstance(residual, Normalized) else None
    x = residual.x if isinstance(residual, Normalized) else residual
    weights = (None, None) if other is None else (other.weight, other.bias)
    with on_device_of(first.x):
        return _NormalizeAddActivate.apply(  # type: ignore[no-any-return]
            first.x, first.weight, first.bias, x, *weights, first, other, slope
        )


class _NormalizeAddActivate(torch.autograd.Function):
    """See `normalize_add_activate`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        other_weight: Tensor | None,
        other_bias: Tensor | None,
        first: Normalized,
        other: Normalized | None,
        slope: float,
    ) -> Tensor:
        rows, channels = x.shape
        kind = NO_RESIDUAL if residual is None else PLAIN_RESIDUAL if other is None else NORMALIZED_RESIDUAL
        factors = _moments(first)
        other_factors = factors if other is None else _moments(other)
        second = x if residual is None else residual
        out = torch.empty((rows, channels), dtype=x.dtype, device=x.device)
        tiles = _Tiles.of(rows, channels)
        _normalize[tiles.grid](
            x, factors, second, other_factors, out, rows, slope, x.stride(0), second.stride(0), channels,
            tiles.rows, tiles.channels, kind, num_warps=WARPS,
        )  # fmt: skip
        # Only tensors that the gradient needs: a plain residual is not.
        kept = (second, other_factors, other_weight) if kind == NORMALIZED_RESIDUAL else (x, factors, weight)
        ctx.save_for_backward(x, factors, weight, out, *kept)
        ctx.kind, ctx.slope, ctx.training = kind, slope, first.training
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.training:
            raise NotImplementedError("gradients of these kernels require training mode")
        x, factors, weight, out, second, other_factors, other_weight = ctx.saved_tensors
        kind, (rows, channels) = ctx.kind, x.shape
        grad_out = grad_out.contiguous()
        tiles = _Tiles.of(rows, channels)
        partial = x.new_empty((tiles.programs, 3, channels), dtype=torch.float32)
        # Gradient before the leaky ReLU: that of a plain residual, and of the output of the norms.
        grad = torch.empty_like(out)
        _sum_gradients[(tiles.programs, tiles.grid[1])](
            grad_out, out, x, factors, second, other_factors, grad, partial, rows, ctx.slope, x.stride(0),
            second.stride(0), channels, tiles.rows, tiles.channels, kind, num_warps=WARPS,
        )  # fmt: skip
        norms = 2 if kind == NORMALIZED_RESIDUAL else 1
        # Gradients of weight and bias, and four coefficients of the gradient of x, of each norm
        grads = x.new_empty((norms, 6, channels), dtype=torch.float32)
        _finish_gradients[(triton.cdiv(channels, FINISHED_CHANNELS), norms)](
            partial, tiles.programs, rows, weight, factors, other_weight, other_factors, grads, channels,
            MOST_PROGRAMS, FINISHED_CHANNELS,
        )  # fmt: skip
        grad_x = torch.empty_like(out)
        grad_second = torch.empty_like(out) if kind == NORMALIZED_RESIDUAL else grad_x
        _input_gradients[tiles.grid](
            grad, x, second, grads, grad_x, grad_second, rows, x.stride(0), second.stride(0), channels,
            tiles.rows, tiles.channels, kind, num_warps=WARPS,
        )  # fmt: skip
        residual = (None, grad, grad_second)[kind]
        other = (grads[1, 0], grads[1, 1]) if kind == NORMALIZED_RESIDUAL else (None, None)
        return grad_x, grads[0, 0], grads[0, 1], residual, *other, None, None, None


class _Tiles(NamedTuple):
    """How the programs of a kernel share a tensor (R, C).

    Attributes:
        rows: Rows of a tile, a power of 2.
        channels: Channels of a tile, a power of 2.
        grid: Number of tiles along rows and channels.
        programs: Number of programs along rows, if each adds up several tiles.
    """

    rows: int
    channels: int
    grid: tuple[int, int]
    programs: int

    @classmethod
    def of(cls, rows: int, channels: int) -> _Tiles:
        """The tiles of a tensor (R, C)."""
        width = min(TILE_CHANNELS, triton.next_power_of_2(channels))
        height = TILE // width
        grid = (triton.cdiv(rows, height), triton.cdiv(channels, width))
        return cls(height, width, grid, min(triton.cdiv(MOST_PROGRAMS, grid[1]), grid[0]))


def _moments(norm: Normalized) -> Tensor:
    """Mean, inverse standard deviation, scale and bias, (4, C) in float32; updates the running statistics."""
    rows, channels = norm.x.shape
    factors = norm.x.new_empty((4, channels), dtype=torch.float32)
    tiles = _Tiles.of(rows, channels)
    partial = norm.x.new_empty((tiles.programs, 2, channels), dtype=torch.float32)
    if norm.training:
        _sum_rows[(tiles.programs, tiles.grid[1])](
            norm.x, partial, rows, norm.x.stride(0), channels, tiles.rows, tiles.channels, num_warps=WARPS
        )
    _finish_moments[(triton.cdiv(channels, FINISHED_CHANNELS),)](
        norm.x, partial, factors, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.shift,
        rows, tiles.programs, norm.eps, norm.momentum, channels, norm.training, MOST_PROGRAMS,
        FINISHED_CHANNELS,
    )  # fmt: skip
    return factors


@triton.jit
def _channels(C, TILE_C: tl.constexpr):
    """Channels of a program's tile, (TILE_C,), and which of them exist."""
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    return c, c < C


@triton.jit
def _rows_from(first, rows, valid_c, TILE_R: tl.constexpr):
    """Rows of a tile, (TILE_R, 1), and which of its values exist, (TILE_R, TILE_C)."""
    r = first + tl.arange(0, TILE_R)
    return r.to(tl.int64)[:, None], (r < rows)[:, None] & valid_c[None, :]


@triton.jit(do_not_specialize=["rows"])
def _sum_rows(x, partial, rows, stride, C, TILE_R: tl.constexpr, TILE_C: tl.constexpr):
    """Sum and sum of squares of each channel over every n-th tile, minus the first row, (programs, 2, C).

    The difference of a mean square and a squared mean loses precision if the mean is large. A row is close to the mean.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    c, valid_c = _channels(C, TILE_C)
    shift = tl.load(x + c, mask=valid_c, other=0.0).to(tl.float32)
    total = tl.zeros((TILE_R, TILE_C), tl.float32)
    squares = tl.zeros((TILE_R, TILE_C), tl.float32)
    for start in range(program * TILE_R, rows, programs * TILE_R):
        row, valid = _rows_from(start, rows, valid_c, TILE_R)
        value = tl.load(x + row * stride + c[None, :], mask=valid, other=0.0)
        value = tl.where(valid, value.to(tl.float32) - shift[None, :], 0.0)
        total += value
        squares += value * value
    tl.store(partial + program * 2 * C + c, tl.sum(total, 0), mask=valid_c)
    tl.store(partial + program * 2 * C + C + c, tl.sum(squares, 0), mask=valid_c)


@triton.jit(do_not_specialize=["rows", "programs"])
def _finish_moments(
    x, partial, factors, weight, bias, running_mean, running_var, shift, rows, programs, eps, momentum, C,
    TRAINING: tl.constexpr, MOST: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """Add up partial sums, update the running statistics, and write `factors` (4, C); see `_moments`."""
    c = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C)
    valid_c = c < C
    before_mean = tl.load(running_mean + c, mask=valid_c, other=0.0)
    before_var = tl.load(running_var + c, mask=valid_c, other=1.0)
    own_shift = tl.load(shift + c, mask=valid_c, other=0.0)
    if TRAINING:
        p = tl.arange(0, MOST)
        at = p[:, None] * 2 * C + c[None, :]
        valid = (p < programs)[:, None] & valid_c[None, :]
        total = tl.sum(tl.load(partial + at, mask=valid, other=0.0), 0)
        squares = tl.sum(tl.load(partial + at + C, mask=valid, other=0.0), 0)
        distance = total / rows
        mean = tl.load(x + c, mask=valid_c, other=0.0).to(tl.float32) + distance
        var = tl.maximum(squares / rows - distance * distance, 0.0)
        # The running variance is unbiased. The variance that normalizes the batch is not, as in PyTorch.
        unbiased = var * (rows / (rows - 1))
        tl.store(running_mean + c, before_mean + momentum * (mean + own_shift - before_mean), mask=valid_c)
        tl.store(running_var + c, before_var + momentum * (unbiased - before_var), mask=valid_c)
    else:
        mean = before_mean - own_shift
        var = before_var
    inverse = 1.0 / tl.sqrt(var + eps)
    scale = tl.load(weight + c, mask=valid_c, other=0.0) * inverse
    tl.store(factors + c, mean, mask=valid_c)
    tl.store(factors + C + c, inverse, mask=valid_c)
    tl.store(factors + 2 * C + c, scale, mask=valid_c)
    tl.store(factors + 3 * C + c, tl.load(bias + c, mask=valid_c, other=0.0), mask=valid_c)


@triton.jit
def _load(x, at, valid):
    """Values in float32, 0 outside."""
    return tl.load(x + at, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def _scaled(value, factors, C, c, valid_c):
    """Values (rows, channels) normalized by `factors` of `_moments`, as (x - mean) * scale + bias."""
    value = (value - _load(factors, c, valid_c)[None, :]) * _load(factors, 2 * C + c, valid_c)[None, :]
    return value + _load(factors, 3 * C + c, valid_c)[None, :]


@triton.jit(do_not_specialize=["rows"])
def _normalize(
    x, factors, second, other_factors, out, rows, slope, stride, second_stride, C,
    TILE_R: tl.constexpr, TILE_C: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Leaky ReLU of the normalized x plus the residual."""
    c, valid_c = _channels(C, TILE_C)
    row, valid = _rows_from(tl.program_id(0) * TILE_R, rows, valid_c, TILE_R)
    value = _scaled(_load(x, row * stride + c[None, :], valid), factors, C, c, valid_c)
    if KIND > 0:
        residual = _load(second, row * second_stride + c[None, :], valid)
        if KIND == 2:
            residual = _scaled(residual, other_factors, C, c, valid_c)
        value += residual
    value = tl.where(value > 0, value, value * slope)
    tl.store(out + row * C + c[None, :], value.to(out.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["rows"])
def _sum_gradients(
    grad_out, out, x, factors, second, other_factors, grad, partial, rows, slope, stride, second_stride, C,
    TILE_R: tl.constexpr, TILE_C: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Write the gradient g before the leaky ReLU, and sums of g and of g times each norm's centered input.

    Sums are over every n-th tile, (programs, 3, C).
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    c, valid_c = _channels(C, TILE_C)
    mean = _load(factors, c, valid_c)[None, :]
    other_mean = _load(other_factors, c, valid_c)[None, :]
    total = tl.zeros((TILE_R, TILE_C), tl.float32)
    product = tl.zeros((TILE_R, TILE_C), tl.float32)
    other_product = tl.zeros((TILE_R, TILE_C), tl.float32)
    for start in range(program * TILE_R, rows, programs * TILE_R):
        row, valid = _rows_from(start, rows, valid_c, TILE_R)
        value = _load(grad_out, row * C + c[None, :], valid)
        # The slope is positive, so the output has the sign of the input.
        value = tl.where(_load(out, row * C + c[None, :], valid) > 0, value, value * slope)
        rounded = value.to(grad.dtype.element_ty)
        tl.store(grad + row * C + c[None, :], rounded, mask=valid)
        value = rounded.to(tl.float32)
        total += value
        product += value * (_load(x, row * stride + c[None, :], valid) - mean)
        if KIND == 2:
            other_product += value * (_load(second, row * second_stride + c[None, :], valid) - other_mean)
    tl.store(partial + program * 3 * C + c, tl.sum(total, 0), mask=valid_c)
    tl.store(partial + program * 3 * C + C + c, tl.sum(product, 0), mask=valid_c)
    if KIND == 2:
        tl.store(partial + program * 3 * C + 2 * C + c, tl.sum(other_product, 0), mask=valid_c)


@triton.jit(do_not_specialize=["rows", "programs"])
def _finish_gradients(
    partial, programs, rows, weight, factors, other_weight, other_factors, grads, C,
    MOST: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias, and the coefficients of `_input_gradient`, (norms, 6, C)."""
    norm = tl.program_id(1)
    if norm == 1:
        weight, factors = other_weight, other_factors
    c = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C)
    valid_c = c < C
    p = tl.arange(0, MOST)
    at = p[:, None] * 3 * C + c[None, :]
    valid = (p < programs)[:, None] & valid_c[None, :]
    total = tl.sum(tl.load(partial + at, mask=valid, other=0.0), 0)
    product = tl.sum(tl.load(partial + at + (1 + norm) * C, mask=valid, other=0.0), 0)
    mean, inverse = _load(factors, c, valid_c), _load(factors, C + c, valid_c)
    scale = _load(weight, c, valid_c) * inverse
    # With centered x and sums over the rows: scale * (g - sum(g) / R - x * inverse ** 2 * sum(g * x) / R)
    grads += norm * 6 * C
    tl.store(grads + c, product * inverse, mask=valid_c)
    tl.store(grads + C + c, total, mask=valid_c)
    tl.store(grads + 2 * C + c, scale, mask=valid_c)
    tl.store(grads + 3 * C + c, mean, mask=valid_c)
    tl.store(grads + 4 * C + c, -scale * inverse * inverse * product / rows, mask=valid_c)
    tl.store(grads + 5 * C + c, -scale * total / rows, mask=valid_c)


@triton.jit
def _input_gradient(grad, value, grads, C, c, valid_c):
    """Gradient of the input of a norm, linear in g and in the centered input; see `_finish_gradients`."""
    centered = value - _load(grads, 3 * C + c, valid_c)[None, :]
    result = grad * _load(grads, 2 * C + c, valid_c)[None, :]
    return (
        result
        + centered * _load(grads, 4 * C + c, valid_c)[None, :]
        + _load(grads, 5 * C + c, valid_c)[None, :]
    )


@triton.jit(do_not_specialize=["rows"])
def _input_gradients(
    grad, x, second, grads, grad_x, grad_second, rows, stride, second_stride, C,
    TILE_R: tl.constexpr, TILE_C: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Gradients of the inputs of the norms."""
    c, valid_c = _channels(C, TILE_C)
    row, valid = _rows_from(tl.program_id(0) * TILE_R, rows, valid_c, TILE_R)
    own = _load(grad, row * C + c[None, :], valid)
    result = _input_gradient(own, _load(x, row * stride + c[None, :], valid), grads, C, c, valid_c)
    tl.store(grad_x + row * C + c[None, :], result.to(grad_x.dtype.element_ty), mask=valid)
    if KIND == 2:
        other = _load(second, row * second_stride + c[None, :], valid)
        result = _input_gradient(own, other, grads + 6 * C, C, c, valid_c)
        tl.store(grad_second + row * C + c[None, :], result.to(grad_second.dtype.element_ty), mask=valid)


def fill(x: Tensor) -> Tensor:
    """``x`` (n,) filled with ones by a kernel, to test whether kernels work."""
    with on_device_of(x):
        _fill[(1,)](x, len(x))
    return x


@triton.jit
def _fill(x, N: tl.constexpr):
    tl.store(x + tl.arange(0, N), 1.0)
