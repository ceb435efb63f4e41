"""The encoder against the literal formulas of `literal`, in float64."""

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
# (inputs, outputs, stride): with and without each of the three shortcuts' own convolutions.
SHAPES = {"as wide": (4, 4, 1), "wider": (4, 6, 1), "strided": (4, 4, 2), "wider and strided": (4, 6, 2)}


def make_block(inputs: int, outputs: int, stride: int, frames: int = 5) -> tuple[Block, torch.Tensor]:
    with translate.doubles(seed=3):
        block = Block(inputs, outputs, qk_channels=3, heads=2, joints=JOINTS, stride=stride, kernel=3)
        translate.shuffle_weights(block)
        return block, torch.randn(3, inputs, frames, JOINTS)


@pytest.mark.parametrize(("channels", "joints"), [(4, 5), (64, 25), (256, 20), (3, 4)])
def test_joint_encoding_is_the_sinusoidal_table(channels: int, joints: int) -> None:
    table = joint_encoding(channels, joints)
    assert table.shape == (joints, 1, channels)
    # The network keeps this table in single precision.
    np.testing.assert_allclose(table[:, 0].T.numpy(), literal.sinusoidal(channels, joints), atol=1e-7)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("frames", [4, 5])  # a stride of 2 ends differently on even and on odd ones
@pytest.mark.parametrize("shape", SHAPES)
def test_block_equals_its_five_steps(shape: str, frames: int, training: bool) -> None:
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


def test_attention_map_has_queries_as_rows_and_no_softmax() -> None:
    block, x = make_block(4, 4, 1)
    weights = translate.block(block)
    encoded = translate.array(x) + translate.encoding(block)[:, None]
    qk = literal.conv(encoded, weights.qk).reshape(3, 2, 2, 3, 5, JOINTS)
    expected = literal.encoder_maps(qk[:, 0], qk[:, 1], weights.alpha, weights.global_map)
    found = block.attention(x.transpose(2, 3))
    assert found.shape == (3, 2, JOINTS, JOINTS)
    translate.close(found, expected)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_encoder_equals_input_map_and_blocks(training: bool) -> None:
    with translate.doubles(seed=4):
        encoder = Encoder(translate.TINY, JOINTS)
        translate.shuffle_weights(encoder)
        x = torch.randn(2, 3, 5, JOINTS)
    entry, blocks = translate.encoder(encoder)
    tables = [translate.encoding(block) for block in encoder.blocks]
    encoder.train(training)
    translate.close(encoder(x), literal.encoder(translate.array(x), entry, blocks, training, tables))


def test_body_map_is_one_product_of_a_frames_coordinates_and_a_batch_norm() -> None:
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
    # Each feature's moments are over persons, joints and frames.
    expected -= expected.mean((0, 1, 2))
    expected /= np.sqrt(expected.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-12)


def test_either_stream_has_a_body_map_where_the_recipe_asks_for_them() -> None:
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
def test_a_stride_over_few_channels_leaves_the_memory_of_the_process_intact() -> None:
    # In its own process, which oneDNN's strided kernel would kill.
    ran = subprocess.run([sys.executable, "-c", FEW_CHANNELS], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradients_of_a_block_are_the_differences(training: bool) -> None:
    block, _ = make_block(2, 4, 2)
    block.train(training)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = training
            module.momentum = 0.0  # gradcheck calls many times; the moments must not move in between
    names, parameters = zip(*block.named_parameters(), strict=True)

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x,))

    with translate.doubles(seed=5):
        x = torch.randn(2, 2, JOINTS, 3, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


def test_permuting_persons_permutes_the_output_and_keeps_the_batch_norm_moments() -> None:
    with translate.doubles(seed=6):
        encoder = Encoder(translate.TINY, JOINTS)
        translate.shuffle_weights(encoder)
        x = torch.randn(5, 3, 6, JOINTS)
    other = copy.deepcopy(encoder)
    order = torch.tensor([3, 0, 4, 1, 2])
    translate.close(other(x[order]), translate.array(encoder(x)[order]))
    for mine, theirs in zip(encoder.buffers(), other.buffers(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_weights_start_as_the_recipe_says() -> None:
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


def test_paper_sizes_have_the_released_number_of_parameters() -> None:
    model = PSPNet(PAPER, NTU25, classes=60)
    encoder = sum(p.numel() for p in model.encoders["joint"].parameters())
    whole = sum(p.numel() for p in model.parameters())
    assert round(encoder / 1e6, 2) == 4.20
    assert round(whole / 1e6, 2) == 5.14
