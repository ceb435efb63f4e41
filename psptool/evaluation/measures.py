"""Measures of a classification, as pure functions over arrays.

Notation for array shapes: N clips, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.floating]
Labels = NDArray[np.integer]


def predicted(logits: Logits) -> NDArray[np.int64]:
    """The class with the largest logit of each clip, (N, K) -> int64 (N,); of equal ones the first."""
    best: NDArray[np.int64] = np.argmax(logits, axis=1)
    return best


def top_k(logits: Logits, labels: Labels, k: int) -> float:
    """Share of clips whose true class stands among the k largest logits.

    Of equal logits the smaller class number ranks first, so that a constant guess earns no more than its due.

    Args:
        logits: (N, K).
        labels: (N,), from 0.
        k: At least 1; more than K counts as K.

    Returns:
        A fraction.

    Raises:
        ValueError: No clips, or a label outside 0 to K - 1.
    """
    _check(logits, labels)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((order == labels[:, None]).any(axis=1).mean())


def confusion_matrix(labels: Labels, guesses: Labels, classes: int) -> NDArray[np.int64]:
    """Counts, (K, K): rows are true classes, columns predicted ones."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, guesses), 1)
    return counts


def per_class(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share of each true class that was predicted right, (K, K) -> (K,); NaN for a class without clips."""
    clips = confusion.sum(axis=1)
    shares = np.full(len(clips), np.nan)
    np.divide(confusion.diagonal(), clips, out=shares, where=clips > 0)
    return shares


def unseen(part: Sequence[bytes], train: Iterable[bytes]) -> NDArray[np.bool_]:
    """Which clips have coordinates that stand nowhere in the train set, by digest of the coordinates.

    Args:
        part: Digest of each clip that is scored.
        train: Digests of the clips that training could look at.

    Returns:
        bool (N,).
    """
    known = frozenset(train)
    return np.array([digest not in known for digest in part], dtype=np.bool_)


def _check(logits: Logits, labels: Labels) -> None:
    if len(labels) == 0:
        raise ValueError("no clips to measure")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, the logits know {logits.shape[1]} classes"
        )
