"""Floating-point precision of a forward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def computing_in(precision: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Context in which a forward pass computes in bfloat16 if ``precision`` is bfloat16, else in the weights' type."""
    return torch.autocast(device.type, precision) if precision == torch.bfloat16 else nullcontext()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Context without autocast, for computations that need more than the 8 significant bits of bfloat16."""
    # A null context if autocast is off: an autocast context would become part of exported graphs.
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
