"""Network and loss of the original implementation in training mode, written from their description, no package code.

Weights are a state dictionary with psptool's names. Tensors are (R, C, T, V): R person slots of all clips, two per
clip; empty slots are zero. Source: arXiv 2302.02327 and the behaviour of its released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .translate import BODIES, PARTS

SLOTS, HEADS, TEMPERATURE, CONTRAST_WEIGHT = 2, 4, 0.07, 0.2
Weights = Mapping[str, Tensor]


def conv_norm(x: Tensor, w: Weights, name: str, stride: int = 1) -> Tensor:
    """Convolution over frames (padded by half the kernel size) and batch norm with the moments of the batch."""
    weight = w[f"{name}.0.weight"]
    y = F.conv2d(x, weight, w[f"{name}.0.bias"], (stride, 1), (weight.shape[2] // 2, 0))
    mean = y.mean((0, 2, 3), keepdim=True)
    variance = (y - mean).pow(2).mean((0, 2, 3), keepdim=True)
    gamma, beta = (w[f"{name}.1.{key}"][None, :, None, None] for key in ("weight", "bias"))
    return (y - mean) / (variance + 1e-5).sqrt() * gamma + beta


def leaky_relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.1 * x)


def shortcut(x: Tensor, w: Weights, name: str, differs: bool, stride: int = 1) -> Tensor:
    return conv_norm(x, w, name, stride) if differs else x


def block(x: Tensor, w: Weights, name: str, outputs: int, stride: int) -> Tensor:
    rows, channels, frames, joints = x.shape
    channel, joint = torch.arange(channels).double(), torch.arange(joints).double()
    angle = joint[None, :] / 10000.0 ** ((channel - channel % 2) / channels)[:, None]
    # The network stores the table in single precision.
    table = torch.where(channel[:, None] % 2 == 0, angle.sin(), angle.cos()).float().double()
    qk = F.conv2d(x + table[None, :, None, :], w[f"{name}.query_key.weight"], w[f"{name}.query_key.bias"])
    q, k = qk.view(rows, 2, HEADS, -1, frames, joints).unbind(1)
    product = torch.einsum("rsctu,rsctv->rsuv", q, k) / (q.shape[2] * frames)
    maps = torch.tanh(product) * w[f"{name}.alpha"] + w[f"{name}.global_attention"]
    gathered = torch.einsum("rctu,rsuv->rsctv", x, maps).flatten(1, 2)  # over the query index u
    differs = channels != outputs or stride != 1
    y = leaky_relu(
        conv_norm(gathered, w, f"{name}.spatial") + shortcut(x, w, f"{name}.skip_spatial", differs)
    )
    y = leaky_relu(conv_norm(y, w, f"{name}.feed_forward") + shortcut(x, w, f"{name}.skip_feed", differs))
    convolved = conv_norm(y, w, f"{name}.temporal", stride)
    return leaky_relu(convolved + shortcut(y, w, f"{name}.skip_temporal", differs, stride))


def group_means(x: Tensor, groups: Sequence[tuple[int, ...]]) -> Tensor:
    return torch.stack([x[..., list(group)].mean(-1) for group in groups], dim=-1)


def expand(maps: Tensor, fine: Sequence[tuple[int, ...]], coarse: Sequence[tuple[int, ...]]) -> Tensor:
    """Every pair of fine groups has the value of the pair of coarse groups that contain them."""
    membership = torch.tensor([[float(set(part) <= set(group)) for group in coarse] for part in fine])
    return membership @ maps @ membership.T


def level(x: Tensor, w: Weights, name: str) -> tuple[Tensor, Tensor]:
    """Attention map (R, S, G, G) of a level, before polymerization, and values (R, S, d, T, G)."""
    qkv = F.conv2d(x, w[f"{name}.query_key_value.weight"], w[f"{name}.query_key_value.bias"])
    q, k, v = qkv.view(len(x), 3, HEADS, -1, *x.shape[2:]).unbind(1)
    return torch.tanh(torch.einsum("rsctu,rsctv->rsuv", q, k) / (q.shape[2] * q.shape[3])), v


def pyramid(x: Tensor, w: Weights) -> list[Tensor]:
    """Body, part and joint vectors (clips, C) of one stream's pool."""
    joints = [(joint,) for joint in range(x.shape[-1])]
    bodies, parts = BODIES[x.shape[-1]], PARTS[x.shape[-1]]
    inputs = [group_means(x, bodies), group_means(x, parts), x]
    names = [f"pyramid.attentions.{name}" for name in ("body", "part", "joint")]
    (body, body_v), (part, part_v), (joint, joint_v) = map(level, inputs, [w] * 3, names)
    maps = [
        body,
        part + 0.2 * expand(body, parts, bodies),
        joint + 0.12 * expand(part, joints, parts) + 0.24 * expand(body, joints, bodies),
    ]
    vectors = []
    for y, attention, values, name in zip(inputs, maps, (body_v, part_v, joint_v), names, strict=True):
        gathered = torch.einsum("rsuv,rsctv->rsctu", attention, values).flatten(1, 2)
        done = leaky_relu(conv_norm(gathered, w, f"{name}.out") + y)
        means = done.unflatten(0, (-1, SLOTS)).mean(1).mean((2, 3))
        hidden = F.relu(F.linear(means, w["projection.0.weight"], w["projection.0.bias"]))
        vectors.append(F.linear(hidden, w["projection.2.weight"], w["projection.2.bias"]))
    return vectors


def nt_xent(first: Tensor, second: Tensor) -> Tensor:
    rows = torch.cat((first, second))
    rows = rows / rows.pow(2).sum(1, keepdim=True).sqrt()
    similar = torch.exp(rows @ rows.T / TEMPERATURE)
    positive = torch.cat((similar.diagonal(len(first)), similar.diagonal(-len(first))))
    return -(positive / (similar.sum(1) - similar.diagonal())).log().mean()


def loss(
    joint: Tensor, motion: Tensor, labels: Tensor, w: Weights, blocks: Sequence[tuple[int, int]]
) -> dict[str, Tensor]:
    """The original loss and its terms.

    Args:
        joint: (N, 2, 3, T, V); the labelled clips first, then the pool.
        motion: Same layout.
        labels: int64, one per labelled clip.
        w: The weights.
        blocks: Output channels and stride of each block.
    """
    labelled = len(labels)
    streams = [joint[:labelled], motion[:labelled], joint[labelled:], motion[labelled:]]
    # One batch through the encoder.
    x = torch.cat([stream.flatten(0, 1) for stream in streams])
    x = leaky_relu(conv_norm(x, w, "encoders.joint.input_projection"))
    for number, (outputs, stride) in enumerate(blocks):
        x = block(x, w, f"encoders.joint.blocks.{number}", outputs, stride)
    parts = x.split([SLOTS * len(stream) for stream in streams])
    logits = sum(
        F.linear(part.unflatten(0, (-1, SLOTS)).mean((1, 3, 4)), w["classifier.weight"], w["classifier.bias"])
        for part in parts[:2]
    )
    terms = {"ce": -logits.log_softmax(1)[torch.arange(labelled), labels].mean()}
    for name, a, b in zip(("body", "part", "joint"), pyramid(parts[2], w), pyramid(parts[3], w), strict=True):
        terms[name] = nt_xent(a, b)
    contrast = terms["body"] + terms["part"] + terms["joint"]
    return {"loss": terms["ce"] + CONTRAST_WEIGHT * contrast, **terms}
