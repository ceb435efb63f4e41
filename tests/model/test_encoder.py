"""The encoder compared with the formulas in `literal`, in float64."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from psptool.model.classifier import PSPNet
from psptool.model.encoder import Block, Encoder, WholeBodyProjection, joint_encoding
from psptool.schemas.training import ModelSettings
from tests.builtin import NTU25

from . import literal, translate

JOINTS = 5
PAPER = ModelSettings()
# (inputs, outputs, stride): with and without a convolution in each of the three shortcuts.
SHAPES = {"equal width": (4, 4, 1), "wider": (4, 6, 1), "strided": (4, 4, 2), "wider and strided": (4, 6, 2)}


def make_block(inputs: int, outputs: int, stride: int, frames: int = 5) -> tuple[Block, torch.Tensor]:
    with translate.doubles(seed=3):
        block = Block(inputs, outputs, qk_channels=3, heads=2, joints=JOINTS, stride=stride, kernel=3)
        translate.shuffle_weights(block)
        return block, torch.randn(3, inputs, frames, JOINTS)


@pytest.mark.parametrize(("channels", "joints"), [(4, 5), (64, 25), (256, 20), (3, 4)])
def test_joint_encoding_is_the_sinusoidal_table(channels: int, joints: int) -> None:
    table = joint_encoding(channels, joints)
    assert table.shape == (joints, 1, channels)
    # The network stores this table in single precision.
    np.testing.assert_allclose(table[:, 0].T.numpy(), literal.sinusoidal(channels, joints), atol=1e-7)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("frames", [4, 5])  # stride 2 treats the end of even and odd numbers differently
@pytest.mark.parametrize("shape", SHAPES)
def test_block_equals_its_formulas(shape: str, frames: int, training: bool) -> None:
    block, x = make_block(*SHAPES[shape], frames)
    weights, table = translate.block(block), translate.encoding(block)
    block.train(training)
    translate.close(
        translate.run_block(block, x), literal.encoder_block(translate.array(x), weights, training, table)
    )
    for module, expected in [
        (block.spatial[1], weights.out_norm),
        (block.feed_forward[1], weights.forward_norm),
        (block.temporal[1], weights.temporal_norm),
    ]:
        translate.close(module.running_mean, expected.mean)
        translate.close(module.running_var, expected.var)


def test_rows_of_the_attention_map_are_queries_and_there_is_no_softmax() -> None:
    block, x = make_block(4, 4, 1)
    weights = translate.block(block)
    encoded = translate.array(x) + translate.encoding(block)[:, None]
    qk = literal.conv(encoded, weights.qk).reshape(3, 2, 2, 3, 5, JOINTS)
    expected = literal.encoder_maps(qk[:, 0], qk[:, 1], weights.alpha, weights.global_map)
    found = block.attention(x.transpose(2, 3))
    assert found.shape == (3, 2, JOINTS, JOINTS)
    translate.close(found, expected)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_encoder_equals_input_projection_and_blocks(training: bool) -> None:
    with translate.doubles(seed=4):
        encoder = Encoder(translate.TINY, JOINTS)
        translate.shuffle_weights(encoder)
        x = torch.randn(2, 3, 5, JOINTS)
    entry, blocks = translate.encoder(encoder)
    tables = [translate.encoding(block) for block in encoder.blocks]
    encoder.train(training)
    translate.close(encoder(x), literal.encoder(translate.array(x), entry, blocks, training, tables))


def test_whole_body_projection_is_a_linear_map_of_the_coordinates_of_a_frame_and_a_batch_norm() -> None:
    with translate.doubles(seed=3):
        layer = WholeBodyProjection(4, JOINTS)
        x = torch.randn(3, JOINTS, 6, 3)
        found = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # -> (P, V, T, C)
    weight, bias = (p.detach().numpy() for p in (layer.conv.weight[:, :, 0, 0], layer.conv.bias))
    expected = np.zeros((3, JOINTS, 6, 4))
    for person, frame in np.ndindex(3, 6):
        coordinates = [x[person, joint, frame, axis] for joint in range(JOINTS) for axis in range(3)]
        features = weight @ np.array(coordinates) + bias
        for joint in range(JOINTS):
            expected[person, joint, frame] = features[4 * joint : 4 * joint + 4]
    # Moments of each feature are over persons, joints and frames.
    expected -= expected.mean((0, 1, 2))
    expected /= np.sqrt(expected.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_whole_body_projection_uses_and_updates_the_statistics_of_its_norm(training: bool) -> None:
    layer = WholeBodyProjection(4, JOINTS).train(training)
    norm = layer.norm
    with torch.no_grad():
        for each in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            each.uniform_(0.5, 2)
    plain = nn.BatchNorm2d(4).train(training)
    plain.load_state_dict(norm.state_dict())
    x = torch.randn(2, 3, JOINTS, 6)
    torch.testing.assert_close(layer(x), plain(layer.convolve(x)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)


def test_both_streams_have_a_whole_body_projection_if_configured() -> None:
    model = PSPNet(
        ModelSettings(input_projection="whole_body", separate_input_projection=True), NTU25, classes=3
    )
    assert isinstance(model.encoders["joint"].input_projection, WholeBodyProjection)
    assert isinstance(model.input_projections["motion"], WholeBodyProjection)


@pytest.mark.parametrize(("frames", "after"), [(1, 1), (2, 1), (5, 3), (50, 25)])
def test_a_stride_halves_the_frames_rounding_up(frames: int, after: int) -> None:
    assert Encoder(translate.TINY, JOINTS)(torch.randn(2, 3, frames, JOINTS)).shape == (2, 4, after, JOINTS)


FEW_CHANNELS = """
import torch
from psptool.model.encoder import pointwise

for channels in (1, 2, 3, 4, 5, 6, 7, 9, 17):
    for _ in range(10):
        x = torch.randn(6, channels, 20, 50).contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, channels, 1, 1, requires_grad=True)
        y = pointwise(x, weight, stride=2)
        assert y.is_contiguous(memory_format=torch.channels_last)
        found = torch.autograd.grad(y.square().sum(), (x, weight))
        exact = pointwise(x.double(), weight.double(), stride=2)
        for ours, theirs in zip(found, torch.autograd.grad(exact.square().sum(), (x, weight)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
"""


@pytest.mark.slow
def test_a_stride_with_few_channels_does_not_corrupt_memory() -> None:
    # In a subprocess, because oneDNN's strided kernel would crash it.
    ran = subprocess.run([sys.executable, "-c", FEW_CHANNELS], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradients_of_a_block_equal_finite_differences(training: bool) -> None:
    block, _ = make_block(2, 4, 2)
    block.train(training)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = training
            module.momentum = 0.0  # gradcheck makes many calls, between which the moments must not change
    names, parameters = zip(*block.named_parameters(), strict=True)

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x,))

    with translate.doubles(seed=5):
        x = torch.randn(2, 2, JOINTS, 3, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


def test_permuting_persons_permutes_the_output_and_does_not_change_the_batch_norm_moments() -> None:
    with translate.doubles(seed=6):
        encoder = Encoder(translate.TINY, JOINTS)
        translate.shuffle_weights(encoder)
        x = torch.randn(5, 3, 6, JOINTS)
    other = copy.deepcopy(encoder)
    order = torch.tensor([3, 0, 4, 1, 2])
    translate.close(other(x[order]), translate.array(encoder(x)[order]))
    for expected, found in zip(encoder.buffers(), other.buffers(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_weights_are_initialized_as_documented() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PSPNet(PAPER, NTU25, classes=60)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx((2 / sum(module.weight.shape)) ** 0.5, rel=0.1)
            assert not module.bias.any()
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
        elif isinstance(module, Block):
            assert (module.alpha == 1).all()
            assert torch.allclose(module.global_attention, torch.tensor(1 / 25))


def test_number_of_parameters_is_that_of_the_original_implementation() -> None:
    model = PSPNet(PAPER, NTU25, classes=60)
    encoder = sum(p.numel() for p in model.encoders["joint"].parameters())
    whole = sum(p.numel() for p in model.parameters())
    assert round(encoder / 1e6, 2) == 4.20
    assert round(whole / 1e6, 2) == 5.14
