"""``resume.pt``, the state of an unfinished training, read as tensors and numbers."""

from __future__ import annotations

import io
import pickle
from typing import Any

from psptool.common.errors import PspError

FORMAT = 2
_WAY_OUT = "Remove the file to train again from the first step in this folder, or train in a new one with --resume off."


def read_state(data: bytes, source: str) -> dict[str, Any]:
    """What ``resume.pt`` holds; tensors are on the CPU.

    Args:
        data: The file's bytes. They are read as tensors and numbers, never as code.
        source: The file's path, for the error.

    Raises:
        PspError: The bytes are none, damaged, or of another format.
    """
    import torch

    if not data:
        raise PspError(f"{source}: the file is empty", fix=_WAY_OUT)
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']}")
    except Exception as error:  # Damaged bytes end in errors of any kind.
        raise damaged(source, error) from error
    return state


def damaged(source: str, error: Exception) -> PspError:
    """The error for a state that cannot be used."""
    # Of code in a file PyTorch says at length how to run it.
    is_code = isinstance(error, pickle.UnpicklingError)
    why = "more than tensors and numbers" if is_code else " ".join(str(error).split())[:200]
    return PspError(f"{source}: damaged, or not of this training ({why})", fix=_WAY_OUT)
