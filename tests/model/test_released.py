"""Preset `paper` with `absent_persons=zeros` equals the original network and loss, in training mode and float64."""

from __future__ import annotations

import pytest
import torch

from psptool.data.batches.streams import Stream
from psptool.losses.total import total_loss
from psptool.model.classifier import PSPNet
from psptool.schemas.recipes import resolve
from tests.builtin import NTU25

from ..streams import two
from . import released, translate

CLASSES, FRAMES = 6, 4
# Channels, attention head dimension and stride of each block; some blocks only change the width, or only the stride.
NETWORKS = {
    "quarter width": ((16, 32, 64), (4, 8, 16), (2, 2, 1)),
    "wider and strided separately": ((8, 8, 16), (2, 3, 4), (1, 2, 1)),
    "strided first, then wider": ((8, 16, 16), (2, 4, 4), (2, 1, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labelled", "pool"),
    [
        ("quarter width", 9, 90),
        ("quarter width", 32, 48),
        ("wider and strided separately", 3, 6),
        ("strided first, then wider", 3, 6),
    ],
)
def test_paper_with_empty_slots_has_the_original_loss_and_gradients(
    name: str, labelled: int, pool: int
) -> None:
    channels, qk_channels, strides = NETWORKS[name]
    changes = ["model.absent_persons=zeros", "optim.steps=1"]
    sizes = (("channels", channels), ("qk_channels", qk_channels), ("strides", strides))
    changes += [f"model.{key}={list(value)}" for key, value in sizes]
    config = resolve(preset="paper", changes=changes)
    clips = labelled + pool
    with translate.doubles(seed=5):
        model = PSPNet(config.model, NTU25, CLASSES).train()
        joint, motion = torch.randn(2, clips, released.SLOTS, 3, FRAMES, NTU25.size)
        labels = torch.randint(CLASSES, (labelled,))
        joint[::3, 1] = motion[::3, 1] = 0  # every third clip has one person
        counts = torch.full((clips,), released.SLOTS)
        streams = two(*(Stream.of(x.flatten(0, 1), counts) for x in (joint, motion)))
        found = total_loss(model, streams, labels, config, torch.float32)
        weights = {key: value.detach().clone().requires_grad_() for key, value in model.named_parameters()}
        expected = released.loss(joint, motion, labels, weights, list(zip(channels, strides, strict=True)))
    assert found.keys() == expected.keys()
    for term, value in expected.items():
        assert abs(found[term].item() - value.item()) < 1e-10 * value.item(), term
    found["loss"].backward()
    expected["loss"].backward()
    # Relative to the largest gradient, because those of biases before a batch norm are zero except for rounding errors.
    largest = max(weight.grad.abs().max().item() for weight in weights.values())  # type: ignore[union-attr]
    for key, parameter in model.named_parameters():
        # Biases before a batch norm are not trained.
        gradient = parameter.grad if parameter.requires_grad else torch.zeros_like(parameter)
        difference = (gradient - weights[key].grad).abs().max().item()  # type: ignore[operator]
        assert difference < 1e-10 * largest, key


def test_biases_of_convolutions_have_torch_default_initialization_and_linear_ones_are_zero() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PSPNet(resolve(preset="paper").model, NTU25, CLASSES)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            bound = (module.in_channels * module.kernel_size[0]) ** -0.5
            # Uniform within the bound, so the maximum of many values is close to it.
            assert 0.8 * bound < module.bias.abs().max() <= bound, name  # type: ignore[union-attr]
        elif isinstance(module, torch.nn.Linear):
            assert not module.bias.any(), name
