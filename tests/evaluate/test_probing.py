"""Nearest neighbours compared with values computed by hand, and the linear probe."""

from __future__ import annotations

import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.evaluation import probing
from psptool.evaluation.features import ClipFeatures
from psptool.evaluation.probing import _objective, linear_probe, nearest_neighbours, probe_accuracies

TRAIN = np.array([[1.0, 0.0], [2.0, 0.2], [0.0, 1.0], [-1.0, 0.0]])
LABELS = np.array([0, 0, 3, 1])


def test_the_nearest_neighbour_is_the_one_with_the_smallest_angle() -> None:
    queries = np.array([[100.0, 1.0], [0.0, 0.01], [-3.0, 0.1]])
    assert nearest_neighbours(TRAIN, LABELS, queries, 1).tolist() == [0, 3, 1]


def test_several_neighbours_outvote_a_single_nearer_one() -> None:
    query = np.array([[0.6, 0.8]])  # similarities 0.6, 0.68, 0.8, -0.6
    assert nearest_neighbours(TRAIN, LABELS, query, 1).tolist() == [3]
    assert nearest_neighbours(TRAIN, LABELS, query, 3).tolist() == [0]


def test_of_two_neighbours_the_nearer_one_has_more_votes() -> None:
    query = np.array([[0.6, 0.8]])  # similarity 0.8 to class 3, 0.68 to class 0
    assert nearest_neighbours(TRAIN, LABELS, query, 2).tolist() == [3]


def test_nearest_neighbours_do_not_depend_on_the_number_of_queries_per_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(2)
    train, labels, queries = (
        generator.normal(size=(40, 5)),
        generator.integers(0, 6, 40),
        generator.normal(size=(23, 5)),
    )
    whole = nearest_neighbours(train, labels, queries, 7)
    monkeypatch.setattr(probing, "QUERIES", 4)
    np.testing.assert_array_equal(nearest_neighbours(train, labels, queries, 7), whole)


@pytest.mark.parametrize("neighbours", [0, 5])
def test_zero_neighbours_and_more_than_the_clips_are_refused(neighbours: int) -> None:
    with pytest.raises(PspError, match=r"--neighbours: found . *.*expected 1 to 4"):
        nearest_neighbours(TRAIN, LABELS, TRAIN, neighbours)


def test_gradient_of_the_probe_equals_finite_differences() -> None:
    generator = np.random.default_rng(0)
    x, target, flat = (
        generator.normal(size=(7, 3)),
        np.array([0, 1, 2, 0, 1, 2, 0]),
        generator.normal(size=12),
    )
    _, gradient = _objective(flat, x, target)
    for n in range(len(flat)):
        step = np.zeros(len(flat))
        step[n] = 1e-6
        rise = _objective(flat + step, x, target)[0] - _objective(flat - step, x, target)[0]
        assert gradient[n] == pytest.approx(rise / 2e-6, abs=1e-5)


def test_the_probe_separates_linearly_separable_classes_with_non_contiguous_labels() -> None:
    generator = np.random.default_rng(1)
    centres = {2: (0.0, 0.0), 5: (9.0, 0.0), 9: (0.0, 9.0)}
    x = np.concatenate([generator.normal(centre, 1, (20, 2)) for centre in centres.values()])
    y = np.repeat(list(centres), 20)
    # A constant feature must not cause a division by zero.
    x = np.concatenate((1000 * x, np.ones((60, 1))), axis=1)
    np.testing.assert_array_equal(linear_probe(x[::2], y[::2], x[1::2]), y[1::2])


def test_the_probe_is_invariant_to_the_scale_of_a_feature() -> None:
    generator = np.random.default_rng(3)
    train, queries = generator.normal(size=(30, 4)), generator.normal(size=(200, 4))
    labels, scales = generator.integers(0, 3, 30), np.array([1e-3, 1.0, 1e3, 50.0])
    plain = linear_probe(train, labels, queries)
    np.testing.assert_array_equal(linear_probe(train * scales, labels, queries * scales), plain)


def test_training_clips_without_a_label_are_not_neighbours() -> None:
    labels, parts = np.array([0, 1, -1, -1, 0, 1]), ("labelled", *["unlabelled"] * 3, "test", "test")
    # The clips without a label have the features of the test clips.
    x = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8], [0.8, 0.6], [0.6, 0.8]], np.float32)
    few, every = probe_accuracies(ClipFeatures(tuple("abcdef"), labels, parts, {"joint": x}), neighbours=1)
    assert (few["clips"], few["nearest"]) == (1, 0.5)
    assert (every["clips"], every["nearest"], every["linear"]) == (2, 1.0, 1.0)
