"""Rounding errors of the forward pass: batch norm statistics on a CPU, and operations in float32 under autocast."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from psptool.data.batches.streams import Batch, Stream
from psptool.model.batch_norm import BatchNorm, moments
from psptool.model.classifier import PSPNet
from psptool.model.precision import computing_in
from psptool.schemas.training import ModelSettings
from tests.builtin import NTU25

from ..streams import stream_features, two

WIDE = ModelSettings(channels=(16, 32), qk_channels=(4, 8), strides=(2, 1), heads=2)


def channels_last(*shape: int, seed: int = 0) -> torch.Tensor:
    """(B, C, H, W) random numbers, one channel far from zero, in channels-last memory."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x[:, 0] += 30
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(238, 16, 25, 50), (3, 5, 7, 2), (1, 4, 3, 3), (40, 8, 1, 1)])
def test_moments_on_channels_last_memory_are_as_exact_as_in_float64(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = channels_last(*shape).to(dtype)
    mean, variance = moments(x, torch.float32)
    exact = x.double().transpose(0, 1).flatten(1)
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(mean.double(), exact.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance.double(), exact.var(1, unbiased=False), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_batch_norm_has_the_same_results_gradients_and_running_statistics_as_in_torch(training: bool) -> None:
    x = channels_last(6, 5, 4, 3).double()
    own, reference = BatchNorm(5).double(), nn.BatchNorm2d(5).double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.uniform_(0.5, 2)
    own.load_state_dict(reference.state_dict())
    own.train(training), reference.train(training)
    results = []
    for module in (own, reference):
        inputs = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = module(inputs)
        (y * torch.arange(y.numel()).view(y.shape)).sum().backward()
        statistics = (module.running_mean, module.running_var)
        results.append((y, inputs.grad, *(p.grad for p in module.parameters()), *statistics))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-9)


@pytest.mark.slow
def test_the_forward_pass_in_training_is_within_1e_5_of_float64() -> None:
    persons = 2 * 99  # both streams of the batch in the original configuration, 9 + 90 clips
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = PSPNet(
            ModelSettings(channels=(16, 16), qk_channels=(4, 4), strides=(1, 2)), NTU25, 60
        ).train()
        # Similar to prepared coordinates: each joint has its own position and moves little over time.
        x = torch.randn(persons, 3, 1, 25) + 0.05 * torch.randn(persons, 3, 50, 25).cumsum(2)
        exact = copy.deepcopy(model).double()
        with torch.no_grad():
            found, expected = model.encoders["joint"](x), exact.encoders["joint"](x.double())
    error = (found.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 1e-5


def batch(clips: int = 12) -> Batch:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        x = torch.randn(2, 2 * clips, 3, 8, 25)
    counts = torch.full((clips,), 2)
    return two(Stream.of(x[0], counts), Stream.of(x[1], counts))


def test_means_projection_and_classifier_are_float32_under_autocast() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = PSPNet(WIDE.model_copy(update={"pose_width": 8, "pose_dropout": 0.0}), NTU25, 5).train()
    streams, seen = batch(), {}

    def record(name: str):
        def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            seen[name] = (inputs[0].dtype, output.dtype)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(record(name))
    with computing_in(torch.bfloat16, torch.device("cpu")):
        features = stream_features(model, streams)[0]
        logits = model.logits(features, streams["joint"].average)
        means = model.pyramid(features)  # type: ignore[misc]
        vectors = model.embeddings(features, streams["joint"].average)
        model.pose_logits(streams["joint"])
    assert features.dtype == torch.bfloat16, "autocast must be active"
    assert logits.dtype == torch.float32
    assert set(seen) == {"classifier", "pose_classifier", "projection.0", "projection.2"}
    assert set(seen.values()) == {(torch.float32, torch.float32)}
    # From the same features on, the computation is as exact as without autocast.
    exact = model.logits(features.float(), streams["joint"].average)
    torch.testing.assert_close(logits, exact, rtol=1e-5, atol=1e-5)
    assert {x.dtype for x in (*means.values(), *vectors.values())} == {torch.float32}


def test_the_mean_over_persons_is_not_rounded_to_8_bits_under_autocast() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = PSPNet(WIDE, NTU25, 5).eval()
    streams = batch()
    wide = torch.randn(24, 32, 4, 25, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        exact = model.logits(wide, streams["joint"].average)
        with computing_in(torch.bfloat16, torch.device("cpu")):
            found = model.logits(wide, streams["joint"].average)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)
