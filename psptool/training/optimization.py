"""Optimizer and learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from psptool.schemas.training import OptimSettings

RELEASED_EPOCHS = 120
"""Number of epochs of the original implementation's schedule."""
_RELEASED_WARMUP = (0.2, 0.4, 0.6, 0.8, 1.0)
_RELEASED_DROPS = ((90, 0.01), (60, 0.1))


def learning_rate(step: int, settings: OptimSettings) -> float:
    """Learning rate of the 0-based ``step``.

    ``released``: the steps are divided into 120 equal epochs. The learning rate is multiplied by 0.2, 0.4, 0.6, 0.8
    and 1 in the first five epochs, by 0.1 from (0-based) epoch 60 and by 0.01 from epoch 90. ``cosine``: linear
    warm-up, then cosine decay to zero.
    """
    if settings.schedule == "released":
        epoch = step * RELEASED_EPOCHS // settings.steps
        if epoch < len(_RELEASED_WARMUP):
            return settings.lr * _RELEASED_WARMUP[epoch]
        return settings.lr * next((factor for first, factor in _RELEASED_DROPS if epoch >= first), 1.0)
    warmup = settings.warmup * settings.steps
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, settings.steps - warmup)))


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """Build the optimizer of all parameters. Weight decay applies to all of them, as in the original implementation.

    It updates all parameters in a few operations (``fused``), on the CPU too.
    """
    if settings.kind == "adamw":
        return torch.optim.AdamW(
            model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def use_learning_rate(optimizer: torch.optim.Optimizer, lr: Tensor) -> None:
    """Let ``optimizer`` read its learning rate from ``lr``, a scalar on the device of the parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of ``optimizer`` for a checkpoint. Its learning rate is a number, not a tensor of this device."""
    state = optimizer.state_dict()
    state["param_groups"] = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return state


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore a state of `optimizer_state`, also one of another device.

    Only the moving averages are restored. The optimizer keeps its own settings: they follow from the training
    configuration and the device, and learning rates also from the step.

    Raises:
        ValueError: The state is of other parameters.
    """
    own = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in state["param_groups"]] != [group["params"] for group in own]:
        raise ValueError("the optimizer state is of other parameters")
    # `load_state_dict` replaces the settings by copies, and so the tensor of the learning rate.
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict({"state": state["state"], "param_groups": own})
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
        if not group.get("momentum"):
            continue
        for weight in group["params"]:
            # The fused SGD cannot start the momentum of single parameters. Zero equals a first step.
            if "momentum_buffer" not in optimizer.state[weight]:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
