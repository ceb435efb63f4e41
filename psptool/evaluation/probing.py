"""What features tell of actions without the trained classifier: nearest neighbours and a linear probe.

Both are fitted on train clips and scored on others; neither has a setting that was chosen on test clips.
Notation for array shapes: N train clips, Q clips to score, D features, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from psptool.common.errors import PspError

Features = NDArray[np.floating]
Labels = NDArray[np.integer]
QUERIES = 256
"""Maximum number of clips whose similarities to all train clips are in memory at a time."""
PENALTY = 1.0
"""Weight of half the squared norm of the probe's weights, against the cross-entropy summed over clips."""


def nearest_neighbours(
    train: Features, labels: Labels, queries: Features, neighbours: int
) -> NDArray[np.int64]:
    """Labels (Q,) by vote of each query's nearest train clips, each weighing its cosine similarity plus one.

    Args:
        train: (N, D).
        labels: (N,).
        queries: (Q, D).
        neighbours: How many vote.

    Raises:
        PspError: ``neighbours`` is not between 1 and N.
    """
    if not 1 <= neighbours <= len(train):
        raise PspError("--neighbours", str(neighbours), f"1 to {len(train)}, the train clips with labels")
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
    """Labels (Q,) by multinomial logistic regression on features standardized by the train clips' moments.

    Minimizes the summed cross-entropy plus `PENALTY` / 2 times the squared weights; the bias goes free.
    Arguments as for `nearest_neighbours`.
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
    """The probe's loss and its gradient."""
    weights = flat.reshape(x.shape[1] + 1, -1)
    scores = x @ weights[:-1] + weights[-1]
    scores -= scores.max(axis=1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(x))
    loss = -logs[rows, target].sum() + PENALTY / 2 * (weights[:-1] ** 2).sum()
    slope = np.exp(logs)
    slope[rows, target] -= 1
    gradient = np.concatenate((x.T @ slope + PENALTY * weights[:-1], slope.sum(axis=0, keepdims=True)))
    return float(loss), gradient.ravel()


def _unit(x: Features) -> Features:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Features = x / np.where(lengths > 0, lengths, 1)
    return unit
