"""Measures of a classification, compared with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psptool.evaluation.measures import argmax, confusion_matrix, has_no_duplicate, per_class, top_k

# Four clips, three classes; ranks of the true class: 1, 2, 3, 1.
LOGITS = np.array([[5.0, 1, 0], [3, 2, 1], [0, 9, 4], [-1, -2, 7]])
LABELS = np.array([0, 1, 0, 2])


@pytest.mark.parametrize(("k", "share"), [(1, 0.5), (2, 0.75), (3, 1.0), (5, 1.0)])
def test_top_k_counts_clips_whose_class_is_among_the_k_largest(k: int, share: float) -> None:
    assert top_k(LOGITS, LABELS, k) == share


@pytest.mark.parametrize(("k", "correct"), [(1, [1, 0, 0]), (2, [1, 1, 0])])
def test_equal_logits_are_ranked_by_class_index(k: int, correct: list[int]) -> None:
    assert [top_k(np.zeros((1, 3)), np.array([label]), k) for label in range(3)] == correct


@pytest.mark.parametrize("labels", [[], [3], [-1]], ids=["no clips", "too large", "negative"])
def test_top_k_refuses_zero_clips_and_labels_out_of_range(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"no clips|labels are"):
        top_k(LOGITS[: len(labels)], np.array(labels, dtype=int), 1)


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    counts = confusion_matrix(np.array([0, 0, 0, 2]), np.array([1, 1, 0, 2]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_per_class_accuracy_is_the_recall_and_nan_without_clips() -> None:
    shares = per_class(np.array([[1, 3, 0], [0, 0, 0], [0, 0, 2]]))
    np.testing.assert_array_equal(shares, [0.25, np.nan, 1.0])


def test_a_clip_has_no_duplicate_if_its_digest_is_not_in_the_training_set() -> None:
    assert has_no_duplicate([b"a", b"b", b"a", b"c"], [b"b", b"d"]).tolist() == [True, False, True, True]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_top_1_is_the_trace_of_the_confusion_matrix(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    logits = np.eye(5)[predicted]
    assert argmax(logits).tolist() == predicted.tolist()
    counts = confusion_matrix(labels, argmax(logits), 5)
    assert top_k(logits, labels, 1) == pytest.approx(counts.trace() / len(pairs))
