"""Evaluation of features without the trained classifier: nearest neighbours and a linear probe.

Both are fitted on training clips and evaluated on other clips. No setting was selected on test clips.
Notation for array shapes: N training clips, Q evaluated clips, D features, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from psptool.common.errors import PspError
from psptool.evaluation.features import ClipFeatures
from psptool.skeletons.keys import NO_LABEL

Features = NDArray[np.floating]
Labels = NDArray[np.integer]
QUERIES = 256
"""Maximum number of clips whose similarities to all train clips are in memory at a time."""
PENALTY = 1.0
"""L2 penalty of the linear probe: factor of half the squared weights, added to the summed cross-entropy."""
NEIGHBOURS = 5
"""Default k of the k-NN classifier, or the number of training clips if that is smaller."""


def probe_accuracies(found: ClipFeatures, neighbours: int | None = None) -> list[dict[str, Any]]:
    """Top-1 accuracies on the test clips, with the labels of the split and with those of all training clips.

    Args:
        found: Features, labels and split parts of the clips.
        neighbours: k of the k-NN classifier; `NEIGHBOURS` if None.

    Raises:
        PspError: There are fewer than ``neighbours`` training clips.
    """
    test, x, y = found.within("test"), found.concatenated, found.labels
    measured = []
    for labels, parts in (("labelled", ("labelled",)), ("all", ("labelled", "unlabelled"))):
        train = found.within(*parts)
        train = train[y[train] != NO_LABEL]
        voting = min(NEIGHBOURS, len(train)) if neighbours is None else neighbours
        near = nearest_neighbours(x[train], y[train], x[test], voting)
        linear = linear_probe(x[train], y[train], x[test])
        measured.append(
            {
                "labels": labels,
                "clips": len(train),
                "neighbours": voting,
                "nearest": float((near == y[test]).mean()),
                "linear": float((linear == y[test]).mean()),
            }
        )
    return measured


def check_neighbours(neighbours: int, clips: int) -> None:
    """Raise a `PspError` unless ``neighbours`` is between 1 and ``clips``, the number of labelled training clips."""
    if not 1 <= neighbours <= clips:
        raise PspError(
            "--neighbours", str(neighbours), f"1 to {clips}, the number of labelled training clips"
        )


def nearest_neighbours(
    train: Features, labels: Labels, queries: Features, neighbours: int
) -> NDArray[np.int64]:
    """Predicted labels (Q,) of a nearest-neighbour classifier; votes are weighted by cosine similarity plus 1.

    Args:
        train: Features (N, D).
        labels: Labels (N,) of ``train``.
        queries: Features (Q, D).
        neighbours: Number of neighbours.

    Raises:
        PspError: ``neighbours`` is not between 1 and N.
    """
    check_neighbours(neighbours, len(train))
    unit, parts = _unit(train), [np.zeros(0, np.int64)]
    for first in range(0, len(queries), QUERIES):
        similarity = _unit(queries[first : first + QUERIES]) @ unit.T  # (at most `QUERIES`, N)
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
        votes = np.zeros((len(nearest), int(labels.max()) + 1))
        weights = np.take_along_axis(similarity, nearest, axis=1) + 1
        np.add.at(votes, (np.arange(len(nearest))[:, None], labels[nearest]), weights)
        parts.append(votes.argmax(axis=1).astype(np.int64))
    return np.concatenate(parts)


def linear_probe(train: Features, labels: Labels, queries: Features) -> NDArray[np.int64]:
    """Predicted labels (Q,) of multinomial logistic regression on standardized features.

    Features are standardized by mean and standard deviation of the training clips. The loss is the summed cross-entropy
    plus `PENALTY` / 2 times the squared weights, without the bias. Arguments as for `nearest_neighbours`.
    """
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1)
    x, q = (train - mean) / scale, (queries - mean) / scale
    classes, target = np.unique(labels, return_inverse=True)
    found = minimize(_objective, np.zeros((x.shape[1] + 1) * len(classes)), (x, target), "L-BFGS-B", jac=True)
    weights = found.x.reshape(x.shape[1] + 1, len(classes))
    chosen: NDArray[np.int64] = classes[(q @ weights[:-1] + weights[-1]).argmax(axis=1)].astype(np.int64)
    return chosen


def _objective(flat: Features, x: Features, target: Labels) -> tuple[float, Features]:
    """Loss of the probe and its gradient."""
    weights = flat.reshape(x.shape[1] + 1, -1)
    scores = x @ weights[:-1] + weights[-1]  # (N, K)
    scores -= scores.max(axis=1, keepdims=True)
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))  # (N, K)
    rows = np.arange(len(x))
    loss = -log_probabilities[rows, target].sum() + PENALTY / 2 * (weights[:-1] ** 2).sum()
    error = np.exp(log_probabilities)
    error[rows, target] -= 1
    gradient = np.concatenate((x.T @ error + PENALTY * weights[:-1], error.sum(axis=0, keepdims=True)))
    return float(loss), gradient.ravel()


def _unit(x: Features) -> Features:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Features = x / np.where(lengths > 0, lengths, 1)
    return unit
