"""Choice of device and precision for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from psptool.common.errors import PspError, suggest
from psptool.common.text import counted

DEVICES = ("auto", "cpu", "cuda")
SYNONYMS = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda"}
"""Other names of devices, for suggestions."""
PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Precisions of the forward pass by name."""
STORAGES: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
"""Types of the clips in device memory by name."""


def choose_device(name: str) -> torch.device:
    """The device ``name``: ``auto`` is a GPU if there is one, else the CPU; ``cuda:1`` is the second GPU.

    Raises:
        PspError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in DEVICES or kind == "auto" or (number and not number.isdecimal()):
        raise PspError(
            f"--device: unknown device {name!r}",
            expected=f"one of {', '.join(DEVICES)}, or cuda:0, cuda:1, …",
            fix=f"Did you mean {SYNONYMS[kind.lower()]}?"
            if kind.lower() in SYNONYMS
            else suggest(name, DEVICES),
        )
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise PspError(
                "--device cuda: PyTorch finds no CUDA device",
                found=f"torch {torch.__version__}",
                fix="Use --device cpu, or install a driver and a CUDA build of PyTorch.",
            )
        if number and int(number) >= torch.cuda.device_count():
            raise PspError(
                f"--device {name}: there is no such GPU",
                found=counted(torch.cuda.device_count(), "GPU"),
                fix="GPU indices start at 0.",
            )
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision of the forward pass: ``auto`` is bfloat16 if `has_bfloat16`, else float32."""
    if name == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    return "bfloat16" if name == "bfloat16" else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 matrices in hardware; otherwise PyTorch emulates it.

    GPUs do since compute capability 8.0 (Ampere).
    """
    if device.type == "cuda":
        # PyTorch answers for the current GPU, and by default counts emulation as support.
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _cpu_has_bfloat16()


def precision_warnings(name: str, device: torch.device) -> Iterator[str]:
    """A warning if the precision is emulated on ``device``; ``auto`` never is.

    Args:
        name: ``auto``, ``float32`` or ``bfloat16``, as in the training configuration.
        device: The device of the training.
    """
    if name == "bfloat16" and not has_bfloat16(device):
        yield (
            f"precision=bfloat16: no hardware support on {device}, so it is emulated and slow; "
            "float32 is faster, and auto chooses it"
        )


def _cpu_has_bfloat16() -> bool:
    """Whether the processor has AVX512-BF16 instructions, which every processor with AMX-BF16 has too.

    On a processor with AVX2 only, a step of preset ``best`` is 7 times slower in bfloat16 than in float32.
    """
    is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(is_supported and is_supported())
