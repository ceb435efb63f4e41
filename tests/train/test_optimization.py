"""Learning rates compared with the table of the original implementation, and the settings passed to the optimizer."""

from __future__ import annotations

import math

import pytest
import torch

from psptool.schemas.training import OptimSettings
from psptool.training.optimization import build_optimizer, learning_rate


def test_released_schedule_equals_the_original_table_in_every_epoch() -> None:
    table = [0.002, 0.004, 0.006, 0.008, 0.01] + [0.01] * 55 + [0.001] * 30 + [0.0001] * 30
    settings = OptimSettings(steps=60_000)
    for epoch, expected in enumerate(table):
        first, last = 500 * epoch, 500 * epoch + 499
        assert learning_rate(first, settings) == pytest.approx(expected, rel=1e-12)
        assert learning_rate(last, settings) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.2), (1, 0.4), (4, 1.0), (59, 1.0), (60, 0.1), (89, 0.1), (90, 0.01), (119, 0.01)],
)
def test_released_schedule_keeps_its_shape_at_other_lengths_and_rates(step: int, factor: float) -> None:
    assert learning_rate(step, OptimSettings(steps=120, lr=0.5)) == pytest.approx(0.5 * factor)
    assert learning_rate(10 * step, OptimSettings(steps=1200, lr=0.5)) == pytest.approx(0.5 * factor)


def test_cosine_schedule_warms_up_linearly_and_decays_along_half_a_cosine() -> None:
    settings = OptimSettings(schedule="cosine", steps=100, warmup=0.1, lr=0.2)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * step / 11 for step in range(1, 11)])
    assert rates[10:] == pytest.approx([0.1 * (1 + math.cos(math.pi * n / 90)) for n in range(90)])
    assert max(rates) == rates[10] == pytest.approx(0.2)
    assert 0 < rates[99] < 0.0001


@pytest.mark.parametrize("warmup", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 7])
def test_cosine_schedule_is_positive_without_warmup_and_with_only_warmup(warmup: float, steps: int) -> None:
    settings = OptimSettings(schedule="cosine", steps=steps, warmup=warmup, lr=0.2)
    assert all(0 < learning_rate(step, settings) <= 0.2 for step in range(steps))


def test_settings_of_sgd_are_passed_to_the_optimizer() -> None:
    settings = OptimSettings(lr=0.03, momentum=0.8, nesterov=True, weight_decay=0.05)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    optimizer = build_optimizer(model, settings)
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    expected = {"lr": 0.03, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05, "dampening": 0}
    assert {key: group[key] for key in expected} == expected
    # Weight decay applies to all parameters, including biases and those of batch norms.
    assert {id(p) for p in group["params"]} == {id(p) for p in model.parameters()}


def test_without_momentum_there_is_no_nesterov() -> None:
    (group,) = build_optimizer(torch.nn.Linear(1, 1), OptimSettings(momentum=0)).param_groups
    assert (group["momentum"], group["nesterov"]) == (0, False)


def test_settings_of_adamw_are_passed_to_the_optimizer() -> None:
    model = torch.nn.Linear(2, 3)
    optimizer = build_optimizer(model, OptimSettings(kind="adamw", lr=0.02, weight_decay=0.3))
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
    assert {id(p) for p in group["params"]} == {id(p) for p in model.parameters()}
