"""Weights as safetensors with a SHA-256 digest in the metadata, so that a damaged file is never computed with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from psptool.common.errors import PspError, cannot_read
from psptool.common.paths import regular_size

if TYPE_CHECKING:
    from torch import Tensor

DIGEST = "psptool.sha256"
"""Metadata key of the digest of all tensors and of the other metadata."""
_HEADER_SIZE = 8


def weights_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Content of a safetensors file with a digest.

    Args:
        tensors: The state dict, on any device.
        metadata: Further metadata, which the digest covers too.
    """
    from safetensors.torch import save

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    further = dict(metadata or {})
    return save(ready, metadata={**further, DIGEST: _digest(ready, further)})


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU, and the metadata.

    A file without a digest, such as one of an earlier version, is accepted.

    Raises:
        PspError: The file cannot be read, is not safetensors, or does not have its digest.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        regular_size(path)
        data = path.read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from error
    try:
        tensors, metadata = load(data), _metadata(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PspError(
            f"{path}: cannot be read as safetensors ({error})",
            expected="a .safetensors file of psptool train or psptool export",
            fix="Copy it again from its source, or train again. Other checkpoint formats can contain code.",
        ) from error
    written = metadata.pop(DIGEST, None)
    if written is not None and written != _digest(tensors, metadata):
        raise PspError(
            f"{path}: damaged or altered: its content does not have the digest in its metadata",
            fix="Copy it again from its source, or train again.",
        )
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 in hexadecimal of the metadata and of the names, dtypes, shapes and bytes of the tensors, by name."""
    import torch

    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name}\t{tensor.dtype}\t{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata in the header of a safetensors file, which `load` has checked."""
    size = int.from_bytes(data[:_HEADER_SIZE], "little")
    found = json.loads(data[_HEADER_SIZE : _HEADER_SIZE + size]).get("__metadata__") or {}
    return {str(key): str(value) for key, value in found.items()}
