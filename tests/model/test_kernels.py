"""The Triton kernels compared with the formulas in `literal` and with PyTorch's operations.

On a machine without a GPU, Triton interprets the kernels, in float32.
"""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psptool.common.errors import PspError
from psptool.data.batches.streams import Stream
from psptool.model import kernels
from psptool.model.batch_norm import BatchNorm
from psptool.model.classifier import PSPNet
from psptool.model.encoder import Block, ConvBN, normalize_add_activate
from psptool.model.precision import run_in
from psptool.schemas.training import ModelSettings
from tests.builtin import NTU25

from . import literal, translate

GPU = torch.cuda.is_available()
# Older interpreters fail with NumPy 2.4.
pytest.importorskip(
    "triton", minversion=None if GPU else "3.7", reason="no Triton, or one whose interpreter fails"
)
DEVICE = torch.device("cuda" if GPU else "cpu")
EXACT, ROUNDED = 1e-5, 1e-4
"""Relative tolerance in float32 of one operation, and of a network."""
SHAPES = {"equal width": (4, 4, 1), "wider": (4, 6, 1), "strided": (4, 4, 2), "wider and strided": (4, 6, 2)}


@pytest.fixture(autouse=True)
def interpreter() -> Iterator[None]:
    """Kernels for tensors of any size; by Triton's interpreter on a machine without a GPU."""
    with kernels.from_size(0) if GPU else kernels.interpreted():
        yield


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of which small tensors have several."""
    from psptool.model.kernels import attention, norm

    for name, value in (("TILE", 64), ("TILE_CHANNELS", 4), ("MOST_PROGRAMS", 4)):
        monkeypatch.setattr(norm, name, value)
    for name in ("COLUMNS", "BACKWARD_COLUMNS", "QUERY_COLUMNS"):
        monkeypatch.setattr(attention, name, 64)  # 16 columns in float32


def error(found: Tensor, expected: Tensor) -> float:
    """Relative error, in the Euclidean norm."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def make_block(inputs: int, outputs: int, stride: int, joints: int = 5, qk_channels: int = 3) -> Block:
    with translate.doubles(seed=3):
        block = Block(inputs, outputs, qk_channels, heads=2, joints=joints, stride=stride, kernel=3)
        translate.shuffle_weights(block)
    return block.float().to(DEVICE)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("frames", [1, 4, 5, 40])  # 16 frames of queries are one tile
@pytest.mark.parametrize("shape", SHAPES)
def test_a_block_with_kernels_equals_its_formulas(shape: str, frames: int, training: bool) -> None:
    block = make_block(*SHAPES[shape])
    weights, table = translate.block(block.cpu()), translate.encoding(block)
    block = block.to(DEVICE).train(training)
    x = torch.randn(3, SHAPES[shape][0], frames, 5, generator=torch.Generator().manual_seed(1))
    with torch.set_grad_enabled(training):
        found = translate.run_block(block, x.to(DEVICE)).cpu()
    expected = literal.encoder_block(translate.array(x), weights, training, table)
    assert error(found, torch.from_numpy(expected)) < ROUNDED
    for module, norm in ((block.spatial[1], weights.out_norm), (block.temporal[1], weights.temporal_norm)):
        np.testing.assert_allclose(module.running_mean.cpu(), norm.mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(module.running_var.cpu(), norm.var, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("shape", "joints", "qk_channels"),
    [("equal width", 20, 3), ("wider", 5, 2), ("strided", 17, 16), ("wider and strided", 33, 20)],
)
def test_gradients_of_a_block_equal_those_of_pytorchs_operations_in_float64(
    shape: str, joints: int, qk_channels: int
) -> None:
    block = make_block(*SHAPES[shape], joints, qk_channels)
    exact = copy.deepcopy(block).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, SHAPES[shape][0], joints, 7, generator=generator).to(DEVICE)
    x = x.contiguous(memory_format=torch.channels_last)
    inputs = (x.clone().requires_grad_(), x.double().requires_grad_())
    y, y_exact = block(inputs[0]), exact(inputs[1])
    weights = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(DEVICE)
    (y * weights).sum().backward()
    (y_exact * weights).sum().backward()
    assert error(y, y_exact) < ROUNDED
    assert error(inputs[0].grad, inputs[1].grad) < ROUNDED
    for name, expected in exact.named_parameters():
        found = block.get_parameter(name)
        assert (found.grad is None) == (expected.grad is None), name  # frozen biases have none
        if expected.grad is not None:
            assert error(found.grad, expected.grad) < ROUNDED, name


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", ["no residual", "residual", "normalized residual"])
@pytest.mark.parametrize(("rows", "channels"), [(5, 1), (50, 3), (700, 8), (129, 11)])
def test_normalize_add_activate_equals_pytorchs_operations_in_float64(
    kind: str, rows: int, channels: int
) -> None:
    from psptool.model.kernels.norm import Normalized
    from psptool.model.kernels.norm import normalize_add_activate as fused

    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE)

    def make_norm() -> Normalized:
        # Rows at a distance, as columns of a larger tensor, and a mean of a thousand deviations
        x = (random(rows, channels + 3) + 1000)[:, 2:-1].detach().requires_grad_()
        weight, bias = random(channels).requires_grad_(), random(channels).requires_grad_()
        return Normalized(
            x, weight, bias, random(channels), random(channels).square(), random(channels), 0.1, 1e-5, True
        )

    def normalized(norm: Normalized, mean: Tensor, var: Tensor) -> Tensor:
        x, shift = norm.x.double(), norm.shift.double()
        return F.batch_norm(
            x + shift, mean, var, norm.weight.double(), norm.bias.double(), True, norm.momentum, norm.eps
        )

    first, other = make_norm(), make_norm()
    plain = random(rows, channels).requires_grad_()
    moments = [(n.running_mean.double().clone(), n.running_var.double().clone()) for n in (first, other)]
    residual = {"no residual": None, "residual": plain, "normalized residual": other}[kind]
    found = fused(first, residual, 0.1)
    expected = normalized(first, *moments[0])
    leaves = [first.x, first.weight, first.bias]
    if kind == "residual":
        expected, leaves = expected + plain, [*leaves, plain]
    if kind == "normalized residual":
        expected = expected + normalized(other, *moments[1])
        leaves += [other.x, other.weight, other.bias]
        assert error(other.running_var, moments[1][1]) < ROUNDED
    expected = F.leaky_relu(expected, 0.1)
    # Values near 1000 have 1e-4 of a deviation as their rounding.
    assert error(found, expected) < 1e-3
    assert error(first.running_mean, moments[0][0]) < EXACT
    assert error(first.running_var, moments[0][1]) < ROUNDED
    grad = random(rows, channels)
    computed = torch.autograd.grad(found, leaves, grad)
    exact = torch.autograd.grad(expected, leaves, grad.double())
    for one, two in zip(computed, exact, strict=True):
        assert error(one, two) < 1e-3


def test_gradients_in_evaluation_mode_are_an_error() -> None:
    from psptool.model.kernels.norm import normalize_add_activate as fused

    layer = ConvBN(3, 4).to(DEVICE).eval()
    out = fused(layer.kernel_input(torch.randn(2, 4, 5, 6, device=DEVICE)), None, 0.1)
    with pytest.raises(NotImplementedError, match="training mode"):
        out.sum().backward()


def test_gradients_of_gradients_are_an_error() -> None:
    block, x = make_block(4, 4, 1), torch.randn(2, 4, 5, 6, device=DEVICE, requires_grad=True)
    (grad,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_zeros_have_the_gradient_of_negative_values() -> None:
    layer = ConvBN(3, 4).to(DEVICE).train()
    nn.init.zeros_(layer.norm.weight)  # and its bias: all values are 0
    normalize_add_activate(layer, torch.randn(2, 4, 5, 6, device=DEVICE)).sum().backward()
    assert error(layer.norm.bias.grad, torch.full((4,), 0.1 * 60)) < EXACT


def test_gradients_that_are_one_value_expanded_to_all_rows_and_columns() -> None:
    from psptool.model.kernels.attention import Packing, spatial_attention
    from psptool.model.kernels.norm import Normalized
    from psptool.model.kernels.norm import normalize_add_activate as fused

    def gradients(expanded: bool) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(DEVICE).requires_grad_()

        def total(y: Tensor) -> Tensor:  # the gradient of a sum has no memory of its own
            return y.sum() if expanded else (y * torch.ones_like(y)).sum()

        packing = Packing(heads=2, qk_channels=3, outputs=4, residuals=1)
        inputs = [random(2, 3, 6, 5), random(24, 5), random(3, 12), random(2, 1, 1)]
        attended, residual = spatial_attention(*inputs, random(2, 3, 3), packing)
        x, (weight, bias, *state) = random(9, 4), random(5, 4).unbind()
        state = [each.detach() for each in state]
        normalized = fused(Normalized(x, weight, bias, *state, 0.1, 1e-5, True), None, 0.1)
        return list(
            torch.autograd.grad(total(attended) + total(residual) + total(normalized), [*inputs, x, weight])
        )

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        assert error(found, expected) < EXACT


@pytest.mark.parametrize("persons", [1, 2])  # rows of one person are flattened without a copy
def test_outputs_and_residuals_that_are_not_in_channels_last_memory(persons: int) -> None:
    layer = ConvBN(4, 4).to(DEVICE).train()
    y, residual = torch.randn(2, persons, 4, 5, 6, device=DEVICE)
    with kernels.from_size(math.inf):
        expected = normalize_add_activate(layer, y, residual=residual)
    assert error(normalize_add_activate(layer, y, residual=residual), expected) < EXACT


def test_the_loss_and_gradients_of_a_network_equal_those_without_kernels() -> None:
    settings = ModelSettings(
        channels=(4, 6, 4), qk_channels=(2, 3, 2), strides=(1, 2, 1), heads=2, temporal_kernel=3, pose_width=4,
        input_projection="whole_body", separate_input_projection=True, pose_dropout=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = PSPNet(settings, NTU25, classes=3).to(DEVICE).train()
    other = copy.deepcopy(model)
    counts = torch.tensor([1, 2, 1, 1])
    batch = {name: Stream.of(torch.randn(5, 3, 8, 25).to(DEVICE), counts) for name in ("joint", "motion")}

    def loss(network: PSPNet) -> Tensor:
        out = run_in(torch.float32, DEVICE, network, batch, embed=("joint", "motion"), pool_from=1)
        vectors = [x for levels in out.embeddings.values() for x in levels.values()]
        return sum(x.square().sum() for x in (*out.logits.values(), *out.auxiliary.values(), *vectors))

    found = loss(model)
    found.backward()
    with kernels.from_size(math.inf):
        expected = loss(other)
        expected.backward()
    assert error(found, expected) < EXACT
    for name, parameter in other.named_parameters():
        if parameter.grad is not None and float(parameter.grad.norm()) > 1e-3:
            assert error(model.get_parameter(name).grad, parameter.grad) < 1e-3, name
    for (name, buffer), expected_buffer in zip(model.named_buffers(), other.buffers(), strict=True):
        if "running" in name:
            assert error(buffer, expected_buffer) < ROUNDED, name


@pytest.mark.parametrize(("joints", "qk_channels", "fits"), [(6, 5, True), (7, 5, False), (6, 6, False)])
def test_attention_too_large_for_the_kernels_is_computed_by_pytorch(
    joints: int, qk_channels: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "MOST_JOINTS", 6)
    monkeypatch.setattr(kernels, "MOST_QK_CHANNELS", 5)
    block = make_block(4, 4, 1, joints, qk_channels)
    x = torch.randn(2, 4, joints, 3).to(DEVICE)
    with kernels.from_size(math.inf):
        expected = block(x)
    monkeypatch.setattr(block, "attention" if fits else "_attend_fused", None)  # must not be called
    assert error(block(x), expected) < ROUNDED


def test_attention_of_too_many_persons_joints_or_channels_does_not_fit() -> None:
    assert kernels.attention_fits(65_535, 64, 64)
    for sizes in ((65_536, 64, 64), (65_535, 65, 64), (65_535, 64, 65)):
        assert not kernels.attention_fits(*sizes)


def test_usable_only_in_float32_and_bfloat16_and_for_large_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.zeros(2, device=DEVICE)
    assert kernels.usable(x)
    assert kernels.usable(x.bfloat16()) == GPU  # the interpreter has no products in bfloat16
    assert not kernels.usable(x.double())
    with torch.autocast(DEVICE.type, torch.float16):
        assert not kernels.usable(x)
    assert not kernels.usable(x[:0])
    large = torch.zeros(1, device=DEVICE).expand(2**22)
    with kernels.from_size(kernels.LEAST_VALUES):
        assert kernels.usable(large)
        assert not kernels.usable(large[1:])
    with kernels.from_size(math.inf):
        assert not kernels.usable(x)
    assert kernels.usable(x)
    monkeypatch.setattr(kernels, "_interpreted", False)
    assert kernels.usable(x) == GPU


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_all_kernels_of_a_forward_pass_are_launched_on_the_device_of_their_tensors(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from psptool.model.kernels import attention, norm

    entered: list[torch.device] = []
    launched: list[str] = []

    @contextmanager
    def device_of(x: Tensor) -> Iterator[None]:
        entered.append(x.device)
        yield
        entered.pop()

    class Launcher:
        def __init__(self, name: str, kernel: Any) -> None:
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            assert [device.type for device in entered] == [DEVICE.type], self.name
            launched.append(self.name)
            return self.kernel[grid]

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    for module, name in (
        (attention, "_tanh_maps"), (attention, "_mix_heads"),
        (norm, "_sum_rows"), (norm, "_finish_moments"), (norm, "_normalize"), (norm, "_fill"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, Launcher(name, getattr(module, name)))
    with torch.set_grad_enabled(training):
        make_block(4, 4, 1).train(training)(torch.randn(2, 4, 3, 5).transpose(2, 3).to(DEVICE))
    norm.fill(torch.zeros(16, device=DEVICE))
    found = {"_tanh_maps", "_mix_heads", "_finish_moments", "_normalize", "_fill"}
    assert set(launched) == (found | {"_sum_rows"} if training else found)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="PyTorch finds less than two CUDA devices")
def test_kernels_on_a_gpu_that_is_not_the_current_one() -> None:
    block, device = make_block(4, 6, 2).to("cuda:1"), torch.device("cuda:1")
    x = torch.randn(2, 4, 5, 8, device=device, requires_grad=True)
    assert kernels.usable(x)
    grad, *_ = torch.autograd.grad(block(x).square().sum(), x)
    with kernels.from_size(math.inf):
        expected, *_ = torch.autograd.grad(block(x).square().sum(), x)
    assert error(grad, expected) < 1e-3


def test_gradients_in_evaluation_do_not_use_the_kernels_of_a_norm() -> None:
    norm = BatchNorm(3)
    assert norm.has_kernel
    norm.eval()
    assert not norm.has_kernel
    with torch.no_grad():
        assert norm.has_kernel


@pytest.mark.parametrize("synced", ["layer", "skip"])
def test_a_norm_of_several_processes_computes_the_output_itself(synced: str) -> None:
    class Synced(BatchNorm):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layers = {"layer": ConvBN(3, 4).train(), "skip": ConvBN(3, 4).train()}
    layers[synced][1] = Synced(4)
    (layer, skip), (y, residual) = layers.values(), torch.randn(2, 2, 4, 5, 6, device=DEVICE)
    layer, skip = layer.to(DEVICE), skip.to(DEVICE)
    with kernels.from_size(math.inf):
        expected = normalize_add_activate(layer, y, skip, residual)
    assert error(normalize_add_activate(layer, y, skip, residual), expected) < EXACT


def test_one_value_per_channel_is_an_error_with_kernels_too() -> None:
    layer = ConvBN(3, 4).to(DEVICE).train()
    with pytest.raises(PspError, match="one value per channel"):
        normalize_add_activate(layer, layer.convolve(torch.zeros(1, 3, 1, 1, device=DEVICE)))


def test_a_gpu_on_which_no_kernel_can_be_compiled_has_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from psptool.model.kernels import norm

    device = torch.device("cuda:3")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(norm, "fill", fail)
    monkeypatch.setattr(torch, "zeros", lambda size, device: nn.Parameter(torch.empty(size)))
    for function in (kernels.problem, kernels._made_for):
        function.cache_clear()
    try:
        assert kernels.problem(device) == "no C compiler"
        kernels.problem.cache_clear()
        monkeypatch.setattr(norm, "fill", lambda x: x * 0)
        assert kernels.problem(device) == "a kernel computes a wrong result"
        kernels.problem.cache_clear()
        monkeypatch.setattr(kernels, "_has_triton", lambda: False)
        assert kernels.problem(device) == "the package triton is missing"
        kernels.problem.cache_clear()
        kernels._made_for.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert kernels.problem(device) is None  # the kernels are not made for it
        assert kernels.problem(torch.device("cpu")) is None
    finally:
        for function in (kernels.problem, kernels._made_for):
            function.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "shared"), [(86, 99), (90, 227)], ids=["RTX 3090", "H100"])
def test_all_kernels_compile_for_a_gpu_that_is_not_there_and_fit_into_its_shared_memory(
    capability: int, shared: int, tmp_path: Path
) -> None:
    # In a subprocess without the interpreter, with an empty cache of compiled kernels. An A100 has the instructions of
    # an RTX 3090, and more shared memory.
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(Path(__file__).with_name("compile_kernels.py")), str(capability)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    sizes = [int(line.split()[-1]) for line in ran.stdout.splitlines()]
    assert len(sizes) == 38
    assert max(sizes) <= shared * 1024


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="PyTorch finds no CUDA device")
@pytest.mark.parametrize("channels", [16, 64, 256])
def test_gradients_in_bfloat16_are_as_accurate_as_those_of_pytorchs_operations(
    channels: int,
) -> None:
    torch.manual_seed(0)
    exact = Block(channels, channels, channels // 4, 4, 25, 1, 7).double().to(DEVICE)
    x = torch.randn(20, channels, 25, 13, device=DEVICE).contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(x)

    def gradients(block: Block, inputs: Tensor, precision: torch.dtype) -> list[Tensor]:
        inputs = inputs.clone().requires_grad_()
        y = run_in(precision, DEVICE, block, inputs)
        (y.to(weights.dtype) * weights).sum().backward()
        return [inputs.grad, *(p.grad for p in block.parameters() if p.grad is not None)]

    blocks = [copy.deepcopy(exact).float() for _ in range(2)]
    x = x.bfloat16()
    expected = gradients(exact, x.double(), torch.float64)
    found = gradients(blocks[0], x, torch.bfloat16)
    with kernels.from_size(math.inf):
        plain = gradients(blocks[1], x, torch.bfloat16)

    def total(grads: list[Tensor]) -> float:
        return sum(error(one, two) for one, two in zip(grads, expected, strict=True))

    assert total(found) < 1.1 * total(plain)
