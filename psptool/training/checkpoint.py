"""Comparison of a checkpoint's tensors with those of the training that resumes from it, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from psptool.schemas.training import TrainingConfig

_NOT_RESTORED = ("lr", "foreach", "fused", "capturable", "differentiable")
"""Settings of an optimizer that are not restored: every step sets the learning rate, and the device the others."""

_ENTRIES: Mapping[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
}
"""State of one parameter, by optimizer. A parameter without gradients has none."""


def checkpoint_bytes(
    model: nn.Module, optimizer: torch.optim.Optimizer, has_teacher: bool
) -> tuple[int, int]:
    """Sizes of the weights and of a checkpoint to resume from, in bytes, without names and settings.

    Args:
        model: The trained network.
        optimizer: Its optimizer; its state may still be empty.
        has_teacher: Whether the training has a teacher, which is a second network.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(one.nbytes for group in optimizer.param_groups for one in group["params"])
    moments = len(_ENTRIES[type(optimizer)] - {"step"})
    return weights, (2 if has_teacher else 1) * weights + moments * trained


def check_tensors(name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that a saved state dict has the names, shapes and dtypes of the module's.

    Args:
        name: The field of the checkpoint, for the error.
        found: The saved state dict.
        expected: The module's.

    Raises:
        ValueError: They differ; says where.
    """
    if odd := sorted(map(str, found.keys() ^ expected.keys())):
        raise ValueError(f"{name}: {odd[0]!r:.80} is {'missing' if odd[0] in expected else 'not expected'}")
    for key, own in expected.items():
        _check_tensor(f"{name}.{key}", found[key], own.shape, own.dtype)


def check_optimizer(found: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check that a saved state has the optimizer's settings and one entry per parameter, of the parameter's shape.

    Settings that only one of the two has are ignored: versions of PyTorch differ in them.

    Raises:
        ValueError: They differ; says where.
    """
    expected = optimizer.state_dict()
    groups, saved = expected["param_groups"], found.get("param_groups")
    if found.keys() != expected.keys() or not isinstance(saved, list) or len(saved) != len(groups):
        raise ValueError("optimizer: other fields or parameter groups")
    for group, own in zip(saved, groups, strict=True):
        if not isinstance(group, Mapping):
            raise ValueError("optimizer: a parameter group without settings")
        for key, value in own.items():
            if key in group and key not in _NOT_RESTORED and group[key] != value:
                raise ValueError(f"optimizer: {key} differs from the training's")
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    entries = found["state"]
    if not isinstance(entries, Mapping) or not entries.keys() <= set(range(len(parameters))):
        raise ValueError("optimizer: state of other parameters")
    for number, entry in entries.items():
        if not isinstance(entry, Mapping) or entry.keys() != _ENTRIES.get(type(optimizer), entry.keys()):
            raise ValueError(f"optimizer: state of parameter {number} has other entries")
        for key, value in entry.items():
            if value is None and not optimizer.defaults.get("momentum", True):  # SGD without momentum
                continue
            where, like = f"optimizer.{number}.{key}", parameters[number]
            scalar = key == "step"
            _check_tensor(
                where, value, like.shape[:0] if scalar else like.shape, None if scalar else like.dtype
            )


def check_window(window: Tensor, config: TrainingConfig) -> None:
    """Check the loss terms since the last log entry, (steps, terms).

    Raises:
        ValueError: Their number is not that of the training's terms.
    """
    terms = 2 + len(config.contrast_levels) + config.has_teacher  # the loss and its cross-entropy too
    if len(window) and window.shape[1] != terms:
        raise ValueError(f"window: found {window.shape[1]} loss terms, expected {terms}")


def _check_tensor(where: str, value: Any, shape: torch.Size, dtype: torch.dtype | None) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{where:.100}: found a {type(value).__name__}, expected a tensor")
    if value.shape != shape or value.layout != torch.strided or dtype not in (None, value.dtype):
        raise ValueError(
            f"{where:.100}: found {tuple(value.shape)} {value.dtype}, expected {tuple(shape)} {dtype or ''}"
        )
