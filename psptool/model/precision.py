"""Floating-point precision of a forward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def computing_in(precision: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Context in which a forward pass computes in bfloat16 if ``precision`` is bfloat16, else in the weights' type."""
    return torch.autocast(device.type, precision) if precision == torch.bfloat16 else nullcontext()


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
    of 16 bytes.
    """
    return -size % 8 if product_dtype(x) == torch.bfloat16 else 0
