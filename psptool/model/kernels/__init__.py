"""Triton kernels for NVIDIA GPUs: what a block computes besides its convolutions, in few passes over memory.

PyTorch for NVIDIA GPUs on Linux contains Triton. Where it is missing, the network computes the same with PyTorch's
operations. Kernels are compiled at their first use on a machine, and cached on its disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from psptool.model.precision import product_dtype

DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
CAPABILITY = (8, 0)
"""Least compute capability: matrix products in bfloat16."""
MOST_JOINTS, MOST_QK_CHANNELS, MOST_PERSONS = 64, 64, 65_535
"""Largest attention of the kernels. Tiles of more joints or channels exceed the shared memory of some GPUs (99 KB), and
persons are the second axis of a grid.
"""
LEAST_VALUES = 2**22
"""Number of values of a tensor from which on kernels are used. With the 1.6 million of preset `best` on NW-UCLA, steps
are not faster, and a short training would not repay the seconds of compilation.
"""
_least_values: float = LEAST_VALUES
_interpreted = False


def usable(x: Tensor) -> bool:
    """Whether the network should compute with kernels on tensors like ``x``.

    They need float32 or bfloat16, and a GPU on which `problem` finds nothing.
    """
    on_cpu = x.device.type == "cpu"
    if on_cpu and not _interpreted:
        return False  # before the number of values, which may be symbolic while a model is exported on a CPU
    if x.numel() < max(1, _least_values):
        return False  # before `problem`, which compiles a kernel
    if on_cpu:
        return product_dtype(x) == torch.float32  # the interpreter has no products in bfloat16
    return product_dtype(x) in DTYPES and _made_for(x.device) and problem(x.device) is None


def attention_fits(persons: int, joints: int, qk_channels: int) -> bool:
    """Whether the attention of a block is not too large for the kernels."""
    return persons <= MOST_PERSONS and joints <= MOST_JOINTS and qk_channels <= MOST_QK_CHANNELS


def on_device_of(x: Tensor) -> AbstractContextManager[None]:
    """Context in which the GPU of ``x`` is the current one; no change on a CPU.

    Triton launches kernels on the current GPU, whatever that of the tensors. Autograd selects the right one itself.
    """
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]


@contextmanager
def from_size(values: float) -> Iterator[None]:
    """Context in which kernels are used for tensors of at least ``values`` values; `math.inf` turns them off."""
    global _least_values
    before, _least_values = _least_values, values
    try:
        yield
    finally:
        _least_values = before


@contextmanager
def interpreted() -> Iterator[None]:
    """Context in which kernels run on a CPU in float32 for tensors of any size, slowly, for tests.

    The environment variable TRITON_INTERPRET must have been 1 when Triton was imported.
    """
    global _interpreted
    before, _interpreted = _interpreted, True
    try:
        with from_size(0):
            yield
    finally:
        _interpreted = before


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
