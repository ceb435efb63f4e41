"""Reading of ``resume.pt``, the checkpoint of an unfinished run."""

from __future__ import annotations

import io
import pickle
from typing import Any

from psptool.common.errors import PspError

FORMAT = 2
_FIX = "Remove the file to restart the training in this folder, or train in a new folder with --resume off."


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
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']}")
    except Exception as error:  # A damaged file may raise any error.
        raise damaged(source, error) from error
    return state


def damaged(source: str, error: Exception) -> PspError:
    """The error for a checkpoint that cannot be used."""
    # PyTorch's message about objects other than tensors explains how to load them, which would execute code.
    is_code = isinstance(error, pickle.UnpicklingError)
    reason = (
        "contains other objects than tensors and numbers" if is_code else " ".join(str(error).split())[:200]
    )
    return PspError(f"{source}: damaged, or of another training ({reason})", fix=_FIX)
