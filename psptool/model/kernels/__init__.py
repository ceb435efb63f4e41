"""Triton kernels for NVIDIA GPUs: what a block computes besides its convolutions, in few passes over memory.

PyTorch for NVIDIA GPUs on Linux contains Triton. Where it is missing, the network computes the same with PyTorch's
operations. Kernels are compiled at their first use on a machine, and cached on its disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from psptool.model.precision import product_dtype

DTYPES = (torch.float32, torch.bfloat16)
CAPABILITY = (8, 0)
"""Least compute capability: matrix products in bfloat16."""
_off = _interpreted = False


def usable(x: Tensor) -> bool:
    """Whether the kernels can compute with tensors like ``x``.

    They need float32 or bfloat16, and a GPU on which `problem` finds nothing.
    """
    dtype = product_dtype(x)
    if _off or x.numel() == 0 or dtype not in DTYPES:
        return False
    if x.device.type == "cpu":
        return _interpreted and dtype == torch.float32  # the interpreter has no products in bfloat16
    return _made_for(x.device) and problem(x.device) is None


@contextmanager
def interpreted() -> Iterator[None]:
    """Context in which kernels run on a CPU in float32, slowly, for tests.

    The environment variable TRITON_INTERPRET must have been 1 when Triton was imported.
    """
    global _interpreted
    before, _interpreted = _interpreted, True
    try:
        yield
    finally:
        _interpreted = before


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
def problem(device: torch.device) -> str | None:
    """Why kernels do not work on an NVIDIA GPU, on which they should; None if they work, or for another device."""
    if not _made_for(device):
        return None
    if not _has_triton():
        return "the package triton is missing"
    try:
        from psptool.model.kernels.norm import fill

        works = bool((fill(torch.zeros(16, device=device)) == 1).all())
    except Exception as error:  # such as a missing C compiler
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None if works else "a kernel computes a wrong result"


@cache
def _made_for(device: torch.device) -> bool:
    """Whether ``device`` is an NVIDIA GPU of at least `CAPABILITY`."""
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) >= CAPABILITY


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
