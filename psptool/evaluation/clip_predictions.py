"""The predicted class of each evaluated clip as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from psptool.evaluation.measures import argmax
from psptool.evaluation.scoring import StreamLogits


def predictions_csv(
    names: Sequence[str],
    labels: NDArray[np.integer],
    logits: StreamLogits,
    class_names: Sequence[str],
) -> str:
    """One row per clip: name, true class, predicted class, and the probability of each class.

    Args:
        names: N clip names.
        labels: int (N,), true classes, 0-based.
        logits: Of the N clips.
        class_names: K names.
    """
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(["clip", "true class", "predicted class", *class_names])
    guesses = argmax(logits.fused)
    for name, label, guess, shares in zip(names, labels, guesses, logits.probabilities, strict=True):
        lines.writerow([name, class_names[label], class_names[guess], *(f"{share:.6g}" for share in shares)])
    return file.getvalue()
