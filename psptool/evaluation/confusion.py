"""The confusion matrix as a picture, readable from 10 to 120 classes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WRITTEN_OUT = 20
"""Up to so many classes every cell says its percentage; above, colours must do."""


def confusion_png(confusion: NDArray[np.integer], class_names: tuple[str, ...], title: str) -> bytes:
    """A PNG of ``confusion``, each row as percentages of its true class's clips.

    Classes that no clip shows and none is taken for are left out: a part of a dataset is then as readable as a whole.

    Args:
        confusion: Counts (K, K); rows are true classes, columns predicted ones.
        class_names: K names.
        title: Stands above the picture.
    """
    # The Figure itself instead of pyplot: no display, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    met = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    confusion, class_names = confusion[np.ix_(met, met)], tuple(class_names[label] for label in met)
    clips = confusion.sum(axis=1)
    percent = 100 * confusion / np.maximum(clips, 1)[:, None]
    classes = len(class_names)
    few = classes <= WRITTEN_OUT
    size = 9.0 if few else 7.5
    # Inches that keep the names apart; the names stand outside, and saving makes room for them.
    side = classes * (0.52 if few else 0.17)
    figure = Figure(figsize=(side, side), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    # Among many classes single confusions are small shares; the square root keeps them visible.
    image = axes.imshow(percent, cmap="Blues", norm=PowerNorm(1 if few else 0.5, 0, 100))
    _name_axes(axes, class_names, clips, size)
    axes.set_title(title, fontsize=11 if few else 14, pad=10)
    if few:
        _write_percentages(axes, percent)
    else:
        _draw_grid(axes, classes)
    scale = figure.add_axes((1 + 0.25 / side, 0.2, 0.2 / side, 0.6))
    figure.colorbar(image, cax=scale, label="% of the true class")
    png = io.BytesIO()
    figure.savefig(png, format="png", bbox_inches="tight", pad_inches=0.15)
    return png.getvalue()


def _name_axes(axes: Axes, names: tuple[str, ...], clips: NDArray[np.integer], size: float) -> None:
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    rows = [f"{name}  {count}" for name, count in zip(names, clips, strict=True)]
    axes.set_yticks(range(len(names)), rows, fontsize=size)
    axes.set_xlabel("predicted class", fontsize=size + 2)
    axes.set_ylabel("true class, and its clips", fontsize=size + 2)


def _write_percentages(axes: Axes, percent: NDArray[np.floating]) -> None:
    for row, column in zip(*np.nonzero(percent), strict=True):
        value = percent[row, column]
        # White on the dark end of the colour map.
        colour = "white" if value > 55 else "black"
        text = f"{value:.0f}" if value >= 0.5 else "<1"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)


def _draw_grid(axes: Axes, classes: int) -> None:
    """Fine lines every ten classes, to follow a row or column to its name."""
    for line in np.arange(9.5, classes - 1, 10):
        axes.axhline(line, color="0.8", linewidth=0.5)
        axes.axvline(line, color="0.8", linewidth=0.5)
