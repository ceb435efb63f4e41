"""Weights of the package's modules as weights of the literal formulas, and inputs for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from psptool.model.encoder import Block, Encoder
from psptool.model.pyramid import LevelAttention, Pyramid
from psptool.schemas.training import ModelSettings

from . import literal

LEVELS = ("body", "part", "joint")
TINY = ModelSettings(channels=(4, 6, 4), qk_channels=(2, 3, 2), strides=(1, 2, 1), heads=2, temporal_kernel=3)


def _zero_based(*groups: tuple[int, ...]) -> literal.Groups:
    return [tuple(number - 1 for number in group) for group in groups]


# Groups in the datasets' own 1-based joint numbers, copied by hand instead of read from the package.
BODIES = {
    25: _zero_based(
        (5, 6, 7, 8, 22, 23), (9, 10, 11, 12, 24, 25), (13, 14, 15, 16), (17, 18, 19, 20), (1, 2, 3, 4, 21)
    ),
    20: _zero_based((5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20), (1, 2, 3, 4)),
}
PARTS = {
    25: _zero_based(
        *((1, 2, 21), (3, 4), (5, 6, 7), (8, 22, 23), (9, 10, 11), (12, 24, 25)),
        *((13, 14), (15, 16), (17, 18), (19, 20)),
    ),
    20: _zero_based(
        *((1, 2), (3, 4), (5, 6, 7), (8,), (9, 10, 11), (12,), (13, 14), (15, 16), (17, 18), (19, 20))
    ),
}


@contextmanager
def doubles(seed: int) -> Iterator[None]:
    """Context in which new modules and tensors are float64 and random values depend only on ``seed``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)


def shuffle_weights(module: nn.Module) -> None:
    """Set all weights and batch norm moments to random values, so that no term is hidden by a 0 or a 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)


def array(tensor: torch.Tensor) -> literal.Array:
    return np.array(
        tensor.detach().numpy(), dtype=np.float64
    )  # a copy, because batch norm updates its moments in place


def conv(layer: nn.Conv1d | nn.Conv2d) -> literal.Conv:
    weight = array(layer.weight)
    return literal.Conv(
        weight if weight.ndim == 3 else weight[..., 0], None if layer.bias is None else array(layer.bias)
    )


def norm(layer: nn.BatchNorm2d) -> literal.Norm:
    return literal.Norm(*map(array, (layer.weight, layer.bias, layer.running_mean, layer.running_var)))


def conv_norm(layers: nn.Module) -> tuple[literal.Conv, literal.Norm]:
    return conv(layers[0]), norm(layers[1])


def shortcut(layers: nn.Module) -> tuple[literal.Conv, literal.Norm] | None:
    return None if isinstance(layers, nn.Identity) else conv_norm(layers)


def block(module: Block) -> literal.Block:
    return literal.Block(
        conv(module.query_key),
        array(module.alpha).reshape(-1),
        array(module.global_attention),
        *conv_norm(module.spatial),
        *conv_norm(module.feed_forward),
        *conv_norm(module.temporal),
        stride=module.temporal[0].stride[0],
        attention_shortcut=shortcut(module.skip_spatial),
        forward_shortcut=shortcut(module.skip_feed),
        temporal_shortcut=shortcut(module.skip_temporal),
    )


def run_block(module: Block, x: torch.Tensor) -> torch.Tensor:
    """The block on (N, C, T, V); the encoder's tensors are (N, C, V, T)."""
    return module(x.transpose(2, 3)).transpose(2, 3)


def encoding(module: Block) -> literal.Array:
    """The block's encoding of the joint index, (C, V)."""
    return array(module.encoding)[:, 0].T


def encoder(module: Encoder) -> tuple[tuple[literal.Conv, literal.Norm], list[literal.Block]]:
    return conv_norm(module.input_projection), [block(part) for part in module.blocks]


def attention(module: LevelAttention) -> literal.Attention:
    return literal.Attention(conv(module.query_key_value), *conv_norm(module.out), heads=module.heads)


def pyramid(module: Pyramid) -> tuple[literal.Attention, literal.Attention, literal.Attention]:
    body, part, joint = (attention(module.attentions[level]) for level in LEVELS)
    return body, part, joint


def moments(layer: nn.BatchNorm2d) -> tuple[literal.Array, literal.Array]:
    return array(layer.running_mean), array(layer.running_var)


def close(found: torch.Tensor, expected: literal.Array) -> None:
    """Assert equality up to the rounding errors of float64 sums in another order."""
    np.testing.assert_allclose(array(found), expected, rtol=1e-9, atol=1e-11)
