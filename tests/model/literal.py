"""Literal formulas of the PSP network: float64 scalars in nested loops, written from the description alone.

No code is shared with the package, so that it is an independent reference. Slow by design; use small sizes.

Notation: N person-clips, C channels, T frames, V joints, G groups (joints, parts or body regions), S heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Groups = list[tuple[int, ...]]  # 0-based joints of each group
BN_EPS = 1e-5
BN_MOMENTUM = 0.1


@dataclass
class Conv:
    """A convolution over (kernel, 1): weight (O, C, K); bias (O,) or None."""

    weight: Array
    bias: Array | None


@dataclass
class Norm:
    """Batch norm of C channels; training updates the running moments in place."""

    gamma: Array
    beta: Array
    mean: Array
    var: Array


@dataclass
class Block:
    """Weights of one encoder block; the three shortcuts are None where they are the identity."""

    qk: Conv  # C -> 2 * S * inter: first all heads of q, then all heads of k
    alpha: Array  # (S,)
    global_map: Array  # (S, V, V)
    out: Conv
    out_norm: Norm
    forward: Conv
    forward_norm: Norm
    temporal: Conv
    temporal_norm: Norm
    stride: int = 1
    attention_shortcut: tuple[Conv, Norm] | None = None
    forward_shortcut: tuple[Conv, Norm] | None = None
    temporal_shortcut: tuple[Conv, Norm] | None = None


@dataclass
class Attention:
    """Weights of one level's attention in the pyramid."""

    qkv: Conv  # C -> 3C: all heads of q, then of k, then of v
    out: Conv
    norm: Norm
    heads: int


def leaky(x: Array) -> Array:
    y = np.empty_like(x)
    for index in np.ndindex(x.shape):
        y[index] = x[index] if x[index] > 0 else 0.1 * x[index]
    return y


def conv(x: Array, layer: Conv, stride: int = 1) -> Array:
    """(N, C, T, V) -> (N, O, ceil(T / stride), V); frames are zero-padded."""
    n_, c_, t_, v_ = x.shape
    o_, _, k_ = layer.weight.shape
    reach = k_ // 2
    y = np.zeros((n_, o_, -(-t_ // stride), v_))
    for n, o, t, v in np.ndindex(y.shape):
        total = 0.0 if layer.bias is None else float(layer.bias[o])
        for c, k in product(range(c_), range(k_)):
            source = t * stride + k - reach
            if 0 <= source < t_:
                total += layer.weight[o, c, k] * x[n, c, source, v]
        y[n, o, t, v] = total
    return y


def batch_norm(x: Array, layer: Norm, training: bool) -> Array:
    """Per channel; training uses the moments of the batch and updates the running ones (with unbiased variance)."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        values = [float(value) for value in x[:, c].ravel()]
        mean, var = float(layer.mean[c]), float(layer.var[c])
        if training:
            count = len(values)
            mean = math.fsum(values) / count
            squares = math.fsum((value - mean) ** 2 for value in values)
            var = squares / count
            layer.mean[c] = (1 - BN_MOMENTUM) * layer.mean[c] + BN_MOMENTUM * mean
            layer.var[c] = (1 - BN_MOMENTUM) * layer.var[c] + BN_MOMENTUM * squares / (count - 1)
        for n, t, v in product(range(x.shape[0]), range(x.shape[2]), range(x.shape[3])):
            y[n, c, t, v] = (x[n, c, t, v] - mean) / math.sqrt(var + BN_EPS) * layer.gamma[c] + layer.beta[c]
    return y


def sinusoidal(channels: int, joints: int) -> Array:
    """(C, V): even channels the sine, odd ones the cosine of the joint index over 10000 ** (2i / C)."""
    table = np.zeros((channels, joints))
    for c, v in product(range(channels), range(joints)):
        angle = v / 10000.0 ** ((c - c % 2) / channels)
        table[c, v] = math.sin(angle) if c % 2 == 0 else math.cos(angle)
    return table


def encoder_maps(q: Array, k: Array, alpha: Array, global_map: Array) -> Array:
    """A[n, s, u, v] = tanh(sum of q_u k_v / (d * T)) * alpha_s + G_s[u, v]; q, k are (N, S, d, T, V)."""
    n_, s_, d_, t_, v_ = q.shape
    maps = np.zeros((n_, s_, v_, v_))
    for n, s, u, v in np.ndindex(maps.shape):
        total = 0.0
        for d, t in product(range(d_), range(t_)):
            total += q[n, s, d, t, u] * k[n, s, d, t, v]
        maps[n, s, u, v] = math.tanh(total / (d_ * t_)) * alpha[s] + global_map[s, u, v]
    return maps


def weighted_sum_over_queries(maps: Array, x: Array) -> Array:
    """Joint v is the sum over the *query* u of A[u, v] x_u; heads concatenated: (N, S * C, T, V)."""
    n_, c_, t_, v_ = x.shape
    s_ = maps.shape[1]
    y = np.zeros((n_, s_ * c_, t_, v_))
    for n, s, c, t, v in product(range(n_), range(s_), range(c_), range(t_), range(v_)):
        for u in range(v_):
            y[n, s * c_ + c, t, v] += maps[n, s, u, v] * x[n, c, t, u]
    return y


def shortcut(x: Array, layers: tuple[Conv, Norm] | None, training: bool, stride: int = 1) -> Array:
    if layers is None:
        return x
    return batch_norm(conv(x, layers[0], stride), layers[1], training)


def encoder_block(x: Array, w: Block, training: bool, table: Array) -> Array:
    """The five steps of a block, (N, C, T, V) -> (N, C_out, ceil(T / stride), V); ``table`` (C, V) encodes v."""
    n_, _, t_, v_ = x.shape
    s_ = len(w.alpha)
    encoded = np.empty_like(x)
    for n, c, t, v in np.ndindex(x.shape):
        encoded[n, c, t, v] = x[n, c, t, v] + table[c, v]
    qk = conv(encoded, w.qk)
    inter = qk.shape[1] // (2 * s_)
    q, k = np.zeros((n_, s_, inter, t_, v_)), np.zeros((n_, s_, inter, t_, v_))
    for s, d in product(range(s_), range(inter)):
        q[:, s, d] = qk[:, s * inter + d]
        k[:, s, d] = qk[:, (s_ + s) * inter + d]
    gathered = weighted_sum_over_queries(encoder_maps(q, k, w.alpha, w.global_map), x)
    attended = leaky(
        batch_norm(conv(gathered, w.out), w.out_norm, training) + shortcut(x, w.attention_shortcut, training)
    )
    fed = leaky(
        batch_norm(conv(attended, w.forward), w.forward_norm, training)
        + shortcut(x, w.forward_shortcut, training)
    )
    convolved = batch_norm(conv(fed, w.temporal, w.stride), w.temporal_norm, training)
    return leaky(convolved + shortcut(fed, w.temporal_shortcut, training, w.stride))


def encoder(
    x: Array, entry: tuple[Conv, Norm], blocks: list[Block], training: bool, tables: list[Array]
) -> Array:
    """(N, 3, T, V) -> (N, C, T', V); ``tables`` are the joint encodings of the blocks."""
    y = leaky(batch_norm(conv(x, entry[0]), entry[1], training))
    for block, table in zip(blocks, tables, strict=True):
        y = encoder_block(y, block, training, table)
    return y


def pool(x: Array, groups: Groups) -> Array:
    """(N, C, T, V) -> (N, C, T, G): the mean over each group's joints."""
    y = np.zeros((*x.shape[:3], len(groups)))
    for n, c, t, g in np.ndindex(y.shape):
        y[n, c, t, g] = sum(float(x[n, c, t, v]) for v in groups[g]) / len(groups[g])
    return y


def split_heads(qkv: Array, heads: int) -> tuple[Array, Array, Array]:
    """(N, 3C, T, G) -> q, k and v of (N, S, d, T, G)."""
    n_, c3, t_, g_ = qkv.shape
    d_ = c3 // 3 // heads
    parts = [np.zeros((n_, heads, d_, t_, g_)) for _ in range(3)]
    for p, s, d in product(range(3), range(heads), range(d_)):
        parts[p][:, s, d] = qkv[:, p * heads * d_ + s * d_ + d]
    return parts[0], parts[1], parts[2]


def level_maps(q: Array, k: Array) -> Array:
    """A[n, s, u, v] = tanh(sum over d and T of q_u k_v / (d * T)): (N, S, G, G)."""
    s_, g_ = q.shape[1], q.shape[4]
    return encoder_maps(q, k, np.ones(s_), np.zeros((s_, g_, g_)))


def attend(x: Array, values: Array, maps: Array, w: Attention, training: bool) -> Array:
    """Group u is the sum over v of A[u, v] value_v; then heads concatenated, conv + BN, plus x, LeakyReLU."""
    n_, s_, d_, t_, g_ = values.shape
    gathered = np.zeros((n_, s_ * d_, t_, g_))
    for n, s, d, t, u in product(range(n_), range(s_), range(d_), range(t_), range(g_)):
        for v in range(g_):
            gathered[n, s * d_ + d, t, u] += maps[n, s, u, v] * values[n, s, d, t, v]
    return leaky(batch_norm(conv(gathered, w.out), w.norm, training) + x)


def expand(maps: Array, owner: list[int]) -> Array:
    """Each pair of fine groups has the value of the pair of coarse groups that contain them."""
    fine = np.zeros((*maps.shape[:2], len(owner), len(owner)))
    for n, s, u, v in np.ndindex(fine.shape):
        fine[n, s, u, v] = maps[n, s, owner[u], owner[v]]
    return fine


def polymerize(
    body: Array, part: Array, joint: Array, bodies: Groups, parts: Groups, mode: str
) -> tuple[Array, Array, Array]:
    """Coarse maps are added to finer ones; ``mode`` is raw, chained or off."""
    if mode == "off":
        return body, part, joint
    joints = joint.shape[-1]
    joint_part = [next(p for p, group in enumerate(parts) if v in group) for v in range(joints)]
    joint_body = [next(b for b, group in enumerate(bodies) if v in group) for v in range(joints)]
    part_body = [next(b for b, group in enumerate(bodies) if set(part_) <= set(group)) for part_ in parts]
    # For 25 joints as in the paper; for 20 by the same rule (largest group size / number): 2 / 10, 3 / 20, 4 / 20.
    part_from_body, joint_from_part, joint_from_body = {25: (0.2, 0.12, 0.24), 20: (0.2, 0.15, 0.2)}[joints]
    part_new = part + part_from_body * expand(body, part_body)
    propagated = {"raw": part, "chained": part_new}[mode]
    from_part, from_body = expand(propagated, joint_part), expand(body, joint_body)
    joint_new = joint + joint_from_part * from_part + joint_from_body * from_body
    return body, part_new, joint_new


def pyramid(
    x: Array,
    levels: tuple[Attention, Attention, Attention],
    bodies: Groups,
    parts: Groups,
    mode: str,
    training: bool,
) -> tuple[Array, Array, Array]:
    """Body, part and joint features, (N, C, T, G) each, from the encoder output (N, C, T, V)."""
    inputs = (pool(x, bodies), pool(x, parts), x)
    heads = [split_heads(conv(y, w.qkv), w.heads) for y, w in zip(inputs, levels, strict=True)]
    body, part, joint = (level_maps(q, k) for q, k, _ in heads)
    maps = polymerize(body, part, joint, bodies, parts, mode)
    done = [
        attend(y, qkv[2], a, w, training) for y, qkv, a, w in zip(inputs, heads, maps, levels, strict=True)
    ]
    return done[0], done[1], done[2]


def clip_means(x: Array, clip_of: list[int], clips: int) -> Array:
    """(R, C, T, G) of persons -> (clips, C): mean over persons, frames and groups; ``clip_of`` is the clip of each."""
    means = np.zeros((clips, x.shape[1]))
    for clip, c in np.ndindex(means.shape):
        values = [
            float(x[r, c, t, g])
            for r in range(x.shape[0])
            if clip_of[r] == clip
            for t in range(x.shape[2])
            for g in range(x.shape[3])
        ]
        means[clip, c] = math.fsum(values) / len(values)
    return means
