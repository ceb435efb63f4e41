"""In which floating-point type a forward pass computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def computing_in(precision: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """A forward pass within it computes in bfloat16 where ``precision`` is that, else in the weights' own type."""
    return torch.autocast(device.type, precision) if precision == torch.bfloat16 else nullcontext()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Suspend autocast, for what 8-bit mantissas would spoil; nothing to do where autocast is off.

    A plain context where autocast is off keeps it out of exported graphs.
    """
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
