"""The picture of a confusion matrix."""

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
def test_picture_grows_with_the_classes_and_nothing_is_cut_off(names: tuple[str, ...]) -> None:
    image = pixels(confusion_png(np.eye(len(names), dtype=int), tuple(names), "a run"))
    assert min(image.shape[:2]) >= 15 * len(names)  # room for a line of text a class
    # A white frame all round: no name, title or axis label runs out of the picture.
    for edge in (image[:3], image[-3:], image[:, :3], image[:, -3:]):
        assert (edge == 1).all()


def test_a_class_without_clips_and_a_wrong_guess_are_drawn() -> None:
    right = np.array([[3, 1], [0, 0]])
    wrong = np.array([[0, 4], [0, 0]])
    one, other = (pixels(confusion_png(counts, ("sit", "stand"), "a run")) for counts in (right, wrong))
    assert one.shape == other.shape
    assert (one != other).any()


def test_classes_that_do_not_occur_take_no_place() -> None:
    alone = confusion_png(np.array([[3, 1], [0, 2]]), ("walk", "sit"), "t")
    among = np.zeros((60, 60), dtype=int)
    among[np.ix_((7, 40), (7, 40))] = [[3, 1], [0, 2]]
    names = tuple({7: "walk", 40: "sit"}.get(label, f"class {label}") for label in range(60))
    assert confusion_png(among, names, "t") == alone


def test_page_and_file_show_the_same_figure() -> None:
    shown = confusion_svg(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]), ("sit", "stand", "absent"))
    assert "absent" not in shown
    assert ">75</text>" in shown
    assert "sit predicted as stand: 1 of 4" in shown
    assert "predicted class" in shown


def test_a_class_name_with_dollar_signs_is_no_formula() -> None:
    assert confusion_png(np.eye(2, dtype=int), ("$x^{$", "b"), "$y^{$")
