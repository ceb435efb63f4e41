"""Figures of confusion matrices for 10 to 120 classes, as PNG or SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from psptool.common.figures import LIGHT, new_figure, style, to_png, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW_CLASSES = 20
"""Largest number of classes for which cells show percentages; with more classes only the colour."""
LIGHT_TEXT_ABOVE = 77
"""Percentage above which text is in the background colour; best contrast in light and dark mode together."""
LONGEST_NAME = 28
"""Length in characters to which class names are shortened."""
_CELLS = "cells"


def confusion_png(confusion: NDArray[np.integer], class_names: Sequence[str], title: str) -> bytes:
    """The confusion matrix as PNG; classes without clips and without predictions are omitted.

    Args:
        confusion: Counts (K, K); rows are true classes, columns predicted classes.
        class_names: K names.
        title: Text above the matrix.
    """
    figure, _ = _draw(*_occurring(confusion, class_names), title)
    return to_png(figure)


def confusion_svg(confusion: NDArray[np.integer], class_names: Sequence[str]) -> str:
    """The same figure as an ``<svg>`` element; each cell has a tooltip with its classes and counts.

    Args:
        confusion: Counts (K, K); rows are true classes, columns predicted classes.
        class_names: K names.
    """
    confusion, names = _occurring(confusion, class_names)
    figure, cells = _draw(confusion, names, "")
    clips = confusion.sum(axis=1)
    tooltips = [
        f"{names[row]} predicted as {names[column]}: {confusion[row, column]} of {clips[row]}"
        for row, column in cells
    ]
    return to_svg(figure, "confusion matrix", {_CELLS: tooltips})


def _occurring(
    confusion: NDArray[np.integer], names: Sequence[str]
) -> tuple[NDArray[np.integer], tuple[str, ...]]:
    """The matrix and names of the classes that have clips or predictions."""
    found = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    return confusion[np.ix_(found, found)], tuple(names[label] for label in found.tolist())


def _draw(
    confusion: NDArray[np.integer], names: tuple[str, ...], title: str
) -> tuple[Figure, list[tuple[int, int]]]:
    """The figure, and the (row, column) of each drawn cell in drawing order."""
    classes, clips = len(names), confusion.sum(axis=1)
    percent = 100 * confusion / np.maximum(clips, 1)[:, None]
    few = classes <= FEW_CLASSES
    # Inches for the matrix alone, so that names do not overlap; saving adds the space for the names.
    side = classes * (0.44 if few else 0.15)
    figure = new_figure(side, side)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5))
    cells = [(row, column) for row in range(classes) for column in range(classes)]
    cells = [cell for cell in cells if few or confusion[cell]]
    _fill(axes, cells, percent, few)
    _name_axes(axes, names, clips, few)
    if title:
        axes.set_title(title, pad=10, parse_math=False)
    if few:
        _write_percentages(axes, percent)
    else:
        _draw_grid(axes, classes)
    return figure, cells


def _fill(axes: Axes, cells: Sequence[tuple[int, int]], percent: NDArray[np.floating], few: bool) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    # Among many classes a single confusion is a small share; the square root keeps it visible.
    strength = (percent / 100) ** (0.8 if few else 0.5)
    half = 0.48 if few else 0.46
    corners = half * np.array(((-1, -1), (1, -1), (1, 1), (-1, 1)))
    squares = [corners + np.array((column, row)) for row, column in cells]
    colours = [(*to_rgba(LIGHT["heat"])[:3], 0.05 + 0.91 * strength[cell]) for cell in cells]
    drawn = PolyCollection(squares, facecolors=colours, edgecolors="none", clip_on=False)
    drawn.set_gid(_CELLS)
    axes.add_collection(drawn)


def _name_axes(axes: Axes, names: tuple[str, ...], clips: NDArray[np.integer], few: bool) -> None:
    short = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]
    rows = [f"{name}  {count}" for name, count in zip(short, clips.tolist(), strict=True)]
    axes.set_xticks(range(len(names)), short, parse_math=False, rotation=90)
    axes.set_yticks(range(len(names)), rows, parse_math=False)
    axes.set_xlabel("predicted class", labelpad=8)
    axes.set_ylabel("true class, number of clips", labelpad=8)
    style(axes, 10 if few else 8)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_fontsize(11 if few else 16)
    axes.spines[:].set_visible(False)


def _write_percentages(axes: Axes, percent: NDArray[np.floating]) -> None:
    for row, column in zip(*np.nonzero(percent), strict=True):
        value = percent[row, column]
        colour = LIGHT["card"] if value > LIGHT_TEXT_ABOVE else LIGHT["ink"]
        text = f"{value:.0f}" if value >= 0.5 else "<1"
        axes.text(column, row, text, ha="center", va="center", fontsize=10, color=colour)


def _draw_grid(axes: Axes, classes: int) -> None:
    """Fine lines every ten classes, to follow a row or column to its name."""
    for line in np.arange(9.5, classes - 1, 10):
        axes.axhline(line, color=LIGHT["line"], linewidth=0.6)
        axes.axvline(line, color=LIGHT["line"], linewidth=0.6)
