"""Floating-point precision of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def computing_in(precision: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Context in which a forward pass computes in bfloat16 if ``precision`` is bfloat16, else in the weights' type."""
    return torch.autocast(device.type, precision) if precision == torch.bfloat16 else nullcontext()


def run_in(
    precision: torch.dtype, device: torch.device, model: nn.Module, *inputs: Any, **options: Any
) -> Any:
    """Forward pass of ``model`` in ``precision``: ``model(*inputs, **options)``.

    Weights of convolutions are converted to bfloat16 in one operation, where autocast has one for each use of a weight.

    Args:
        precision: float32 or bfloat16.
        device: That of the model.
        model: Its weights are float32. Their gradients are float32, too.
        inputs: Positional arguments of the model.
        options: Keyword arguments of the model.
    """
    with computing_in(precision, device):
        if precision != torch.bfloat16:
            return model(*inputs, **options)
        layers = (
            (name, layer)
            for name, layer in model.named_modules()
            if isinstance(layer, (nn.Conv1d, nn.Conv2d))
        )
        weights = {f"{name}.weight": layer.weight for name, layer in layers}
        converted = _Convert.apply(precision, *weights.values())  # type: ignore[no-untyped-call]
        return torch.func.functional_call(model, dict(zip(weights, converted, strict=True)), inputs, options)


class _Convert(torch.autograd.Function):
    """Tensors in another type. Gradients have the type of the originals."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
        return _converted(tensors, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [grad for grad in grads if grad is not None]
        found = iter(_converted(there, ctx.dtype))
        return (None, *(None if grad is None else next(found) for grad in grads))


def _converted(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    out = [torch.empty_like(x, dtype=dtype) for x in tensors]
    torch._foreach_copy_(out, list(tensors))
    return tuple(out)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Context without autocast, for computations that need more than the 8 significant bits of bfloat16."""
    # A null context if autocast is off: an autocast context would become part of exported graphs.
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def product_dtype(x: Tensor) -> torch.dtype:
    """Type in which matrix products and convolutions of ``x`` are computed: that of autocast if it is on."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def padding(size: int, x: Tensor) -> int:
    """Number of zeros that fill the rows of a product of ``x`` from ``size`` up to a multiple of 8 values.

    0 if the product is not in bfloat16. GPUs multiply bfloat16 matrices several times as fast if a row is a multiple
    of 16 bytes. Rows of 25 values at a distance of 32 are as slow as rows of 25.
    """
    return -size % 8 if product_dtype(x) == torch.bfloat16 else 0
