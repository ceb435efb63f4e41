"""Reading of ``resume.pt``, the checkpoint of an unfinished run.

The file is `MAGIC`, the SHA-256 digest of the rest (32 bytes), and the state as written by `torch.save`.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from psptool.common.errors import PspError

MAGIC = b"psptool checkpoint 3\n"
"""Kind and format version of the file."""
_FIX = "Remove the file to restart the training in this folder, or train in a new folder with --resume off."
_DIGEST_BYTES = hashlib.sha256().digest_size


def seal(state: bytes) -> bytes:
    """The content of ``resume.pt`` for a state as written by `torch.save`."""
    return MAGIC + hashlib.sha256(state).digest() + state


def read_state(data: bytes, source: str) -> dict[str, Any]:
    """Read a checkpoint; tensors are on the CPU.

    Args:
        data: Content of the file. Only tensors and plain values are read; no code is executed.
        source: Path of the file, for errors.

    Raises:
        PspError: The file is empty, damaged, or of another format.
    """
    import torch

    if not data:
        raise PspError(f"{source}: the file is empty", fix=_FIX)
    try:
        state: Any = torch.load(io.BytesIO(_unseal(data)), map_location="cpu", weights_only=True)
        _check_fields(state)
    except Exception as error:  # A damaged file may raise any error.
        raise damaged(source, error) from error
    return dict(state)


def _unseal(data: bytes) -> bytes:
    """The state in a file's content.

    Raises:
        ValueError: Another format, or the digest differs.
    """
    if not data.startswith(MAGIC):
        raise ValueError("not a checkpoint of this version of psptool")
    digest, state = data[len(MAGIC) :][:_DIGEST_BYTES], data[len(MAGIC) + _DIGEST_BYTES :]
    if hashlib.sha256(state).digest() != digest:
        raise ValueError("its SHA-256 digest differs from the one that was written")
    return state


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_real(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _is_window(value: Any) -> bool:
    # Both are below 100 in every training: the number of loss terms, and that of steps between two log entries.
    return _is_small_tensor(value, 2, 100) and bool(value.is_floating_point())


def _is_random_state(value: Any) -> bool:
    import torch

    return _is_small_tensor(value, 1, 2**16) and bool(value.dtype == torch.uint8)


def _is_small_tensor(value: Any, dimensions: int, most: int) -> bool:
    import torch

    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return dense and value.ndim == dimensions and max(value.shape) <= most


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "step": _is_count,
    "seconds": lambda value: _is_real(value) and value >= 0,
    "best": lambda value: _is_real(value) and -1 <= value <= 1,
    "best_step": _is_count,
    "window": _is_window,
    "model": lambda value: isinstance(value, Mapping),
    "optimizer": lambda value: isinstance(value, Mapping),
    "teacher": lambda value: isinstance(value, Mapping),
    "random": lambda value: isinstance(value, list) and all(map(_is_random_state, value)),
}


def _check_fields(state: Any) -> None:
    """Check names and types of the fields. `psptool.training.checkpoint` compares the tensors with the training's.

    Raises:
        ValueError: A field is missing, not expected, or of another type or range.
    """
    if not isinstance(state, dict):
        raise ValueError(f"a {type(state).__name__}, not the fields of a checkpoint")
    if odd := sorted(map(str, state.keys() ^ _FIELDS.keys())):
        raise ValueError(f"field {odd[0]!r:.60} is {'missing' if odd[0] in _FIELDS else 'not expected'}")
    if odd := [name for name, fits in _FIELDS.items() if not fits(state[name])]:
        raise ValueError(f"field {odd[0]} is of another type or range")
    if state["best_step"] > state["step"]:
        raise ValueError("best_step is after step")


def damaged(source: str, error: Exception) -> PspError:
    """The error for a checkpoint that cannot be used."""
    # PyTorch's message about objects other than tensors explains how to load them, which would execute code.
    is_code = isinstance(error, pickle.UnpicklingError)
    reason = (
        "contains other objects than tensors and numbers" if is_code else " ".join(str(error).split())[:200]
    )
    return PspError(f"{source}: damaged, or of another training ({reason})", fix=_FIX)
