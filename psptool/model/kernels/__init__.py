"""Triton kernels for NVIDIA GPUs: what a block computes between its matrix products, in few passes over memory.

PyTorch for NVIDIA GPUs on Linux contains Triton. Everywhere else, and if `usable` says so, the network computes the
same with PyTorch's operations.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from psptool.model.precision import product_dtype

_DTYPES = (torch.float32, torch.bfloat16)
_CAPABILITY = (8, 0)
"""Least compute capability: matrix products in bfloat16."""
_off = False


def usable(x: Tensor) -> bool:
    """Whether the kernels can compute with tensors like ``x``.

    They need Triton, an NVIDIA GPU of compute capability 8.0 or above, and float32 or bfloat16. With the environment
    variable TRITON_INTERPRET=1, they run on a CPU in float32, slowly, for tests.
    """
    dtype = product_dtype(x)
    if _off or x.numel() == 0 or dtype not in _DTYPES:
        return False
    if x.device.type == "cpu":
        # Triton's interpreter has no products in bfloat16.
        return dtype == torch.float32 and os.environ.get("TRITON_INTERPRET") == "1" and _has_triton()
    return x.device.type == "cuda" and _work_on(x.device)


@contextmanager
def off() -> Iterator[None]:
    """Context in which the network uses PyTorch's operations."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _work_on(device: torch.device) -> bool:
    """Whether a kernel can be compiled for ``device`` and run; a warning if it should, but cannot."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < _CAPABILITY:
        return False
    if not _has_triton():
        return False
    try:
        from psptool.model.kernels.norm import fill

        return bool((fill(torch.zeros(16, device=device)) == 1).all())
    except Exception as error:  # such as a missing C compiler
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        warnings.warn(f"Triton kernels are off, so GPU steps are slower: {reason}", stacklevel=2)
        return False
