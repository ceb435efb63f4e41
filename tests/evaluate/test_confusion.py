"""The figure of a confusion matrix."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest

from psptool.evaluation.confusion import confusion_png, confusion_svg
from tests.builtin import NTU120, UCLA


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")


@pytest.mark.parametrize(
    "names",
    [UCLA.class_names, pytest.param(NTU120.class_names, marks=pytest.mark.slow)],
    ids=len,
)
def test_figure_size_increases_with_the_classes_and_nothing_is_cut_off(names: tuple[str, ...]) -> None:
    image = pixels(confusion_png(np.eye(len(names), dtype=int), tuple(names), "a run"))
    assert min(image.shape[:2]) >= 15 * len(names)  # space for one line of text per class
    # All margins are white: no class name, title or axis label is cut off.
    for edge in (image[:3], image[-3:], image[:, :3], image[:, -3:]):
        assert (edge == 1).all()


def test_figures_of_correct_and_wrong_predictions_differ() -> None:
    correct = np.array([[3, 1], [0, 0]])
    wrong = np.array([[0, 4], [0, 0]])
    one, other = (pixels(confusion_png(counts, ("sit", "stand"), "a run")) for counts in (correct, wrong))
    assert one.shape == other.shape
    assert (one != other).any()


def test_classes_without_clips_are_omitted() -> None:
    alone = confusion_png(np.array([[3, 1], [0, 2]]), ("walk", "sit"), "t")
    counts_of_60 = np.zeros((60, 60), dtype=int)
    counts_of_60[np.ix_((7, 40), (7, 40))] = [[3, 1], [0, 2]]
    names = tuple({7: "walk", 40: "sit"}.get(label, f"class {label}") for label in range(60))
    assert confusion_png(counts_of_60, names, "t") == alone


def test_page_and_file_show_the_same_figure() -> None:
    shown = confusion_svg(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]), ("sit", "stand", "absent"))
    assert "absent" not in shown
    assert ">75</text>" in shown
    assert "sit predicted as stand: 1 of 4" in shown
    assert "predicted class" in shown


def test_dollar_signs_in_names_are_not_parsed_as_a_formula() -> None:
    assert confusion_png(np.eye(2, dtype=int), ("$x^{$", "b"), "$y^{$")
