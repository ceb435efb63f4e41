"""Literal formulas of NT-Xent and the coarse-to-fine contrast: scalars in loops, from the description alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cosine(a: Array, b: Array) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def nt_xent(joint: Array, motion: Array, temperature: float) -> float:
    """Mean over the 2N rows of -log(e(positive) / (e(positive) + sum of e(2N - 2 negatives)))."""
    rows = [*joint, *motion]
    clips = len(joint)
    losses = []
    for i, row in enumerate(rows):
        partner = i + clips if i < clips else i - clips
        positive = math.exp(cosine(row, rows[partner]) / temperature)
        others = [j for j in range(2 * clips) if j not in (i, partner)]
        negatives = sum(math.exp(cosine(row, rows[j]) / temperature) for j in others)
        losses.append(-math.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


def project(x: Array, w1: Array, b1: Array, w2: Array, b2: Array) -> Array:
    """Linear layer, ReLU and linear layer on each row of (N, C); weights are (out, in)."""
    done = np.zeros((len(x), len(b2)))
    for n, row in enumerate(x):
        hidden = [
            max(0.0, sum(float(w) * float(value) for w, value in zip(weights, row, strict=True)) + float(b))
            for weights, b in zip(w1, b1, strict=True)
        ]
        for o, (weights, b) in enumerate(zip(w2, b2, strict=True)):
            done[n, o] = sum(float(w) * value for w, value in zip(weights, hidden, strict=True)) + float(b)
    return done


def contrast(levels: Sequence[tuple[Array, Array]], temperature: float) -> float:
    """L_con: the levels' NT-Xent losses, summed with weight 1 each."""
    return sum(nt_xent(joint, motion, temperature) for joint, motion in levels)


def cross_entropy(logits: Array, labels: Sequence[int]) -> float:
    """Mean over the clips of -log softmax(logits)[label]."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        total = sum(math.exp(float(value)) for value in row)
        losses.append(-math.log(math.exp(float(row[label])) / total))
    return sum(losses) / len(losses)
