"""Accuracy measures of a classification, as pure functions of arrays.

Notation for array shapes: N clips, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from psptool.common.text import counted

Logits = NDArray[np.floating]
Labels = NDArray[np.integer]


def argmax(logits: Logits) -> NDArray[np.int64]:
    """The predicted class of each clip, (N, K) -> int64 (N,): the largest logit, the smaller class among equal ones."""
    best: NDArray[np.int64] = np.argmax(logits, axis=1)
    return best


def top_k(logits: Logits, labels: Labels, k: int) -> float:
    """Top-k accuracy: share of clips whose true class is among the k largest logits.

    Among equal logits the smaller class ranks first, so that constant logits do not count as correct for every class.

    Args:
        logits: (N, K).
        labels: (N,), 0-based.
        k: At least 1; values above K mean K.

    Returns:
        A fraction.

    Raises:
        ValueError: No clips, or a label outside 0 to K - 1.
    """
    _check(logits, labels)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((order == labels[:, None]).any(axis=1).mean())


def confusion_matrix(labels: Labels, predictions: Labels, classes: int) -> NDArray[np.int64]:
    """Confusion matrix, counts int64 (K, K): rows are true classes, columns predicted classes."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def per_class(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """Accuracy of each class from the confusion matrix, (K, K) -> (K,); NaN for a class without clips."""
    clips = confusion.sum(axis=1)
    accuracies = np.full(len(clips), np.nan)
    np.divide(confusion.diagonal(), clips, out=accuracies, where=clips > 0)
    return accuracies


def has_no_duplicate(clips: Sequence[bytes], training: Iterable[bytes]) -> NDArray[np.bool_]:
    """Whether no training clip has exactly the same coordinates, bool (N,).

    Args:
        clips: Digests of the coordinates of the N evaluated clips.
        training: Digests of the training clips.
    """
    known = frozenset(training)
    return np.array([digest not in known for digest in clips], dtype=np.bool_)


def _check(logits: Logits, labels: Labels) -> None:
    if len(labels) == 0:
        raise ValueError("no clips to evaluate")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels are {labels.min()} to {labels.max()}, but the logits have "
            f"{counted(logits.shape[1], 'class', 'classes')}"
        )
