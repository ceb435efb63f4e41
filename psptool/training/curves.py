"""Learning curves from the log of a run: one PNG with all panels, or one SVG per panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psptool.common.figures import LIGHT, SERIES, new_figure, style, to_png, to_svg
from psptool.training.runs.folder import NOT_TERMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TERMS = {
    "ce": "cross-entropy",
    "body": "body contrastive loss",
    "part": "part contrastive loss",
    "joint": "joint contrastive loss",
    "teacher": "teacher loss",
}
"""Names of the loss terms in figures and summaries; other terms keep their name in the log."""
_WIDTH, _HEIGHT = 7.6, 3.0  # inches


@dataclass(frozen=True)
class Panel:
    """One chart over training steps.

    Attributes:
        title: Title of the chart.
        lines: Points (step, value) by name of the curve; all values are finite.
        last: Last step of the x axis.
    """

    title: str
    lines: Mapping[str, Sequence[tuple[int, float]]]
    last: int


def curves_png(entries: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Learning curves as a PNG: loss and its terms, learning rate, validation accuracy.

    Args:
        entries: One or more entries of ``log.jsonl``.
        title: Text above the panels.
    """
    panels = _panels(entries)
    figure = new_figure(_WIDTH * max(len(panels), 1), _HEIGHT + 0.4)
    figure.suptitle(title, fontsize=11, color=LIGHT["ink"], parse_math=False)
    for axes, panel in zip(figure.subplots(1, max(len(panels), 1), squeeze=False)[0], panels, strict=False):
        _draw(axes, panel)
    return to_png(figure)


def curves_svgs(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Learning curves as one ``<svg>`` element per panel; empty if the log has no values."""
    figures = []
    for panel in _panels(entries):
        figure = new_figure(_WIDTH, _HEIGHT)
        _draw(figure.subplots(), panel)
        figures.append(to_svg(figure, panel.title))
    return figures


def _panels(entries: Sequence[Mapping[str, Any]]) -> list[Panel]:
    terms = dict.fromkeys(name for entry in entries for name in entry if name not in NOT_TERMS)
    groups = (
        ("loss and its terms", {name: TERMS.get(name, name) for name in terms}, 1),
        ("learning rate", {"lr": "learning rate"}, 1),
        ("validation top-1 (%)", {"validation": "top-1"}, 100),
    )
    panels = []
    for title, names, factor in groups:
        lines = {label: _points(entries, name, factor) for name, label in names.items()}
        lines = {label: points for label, points in lines.items() if points}
        if lines:
            panels.append(Panel(title, lines, entries[-1]["step"]))
    return panels


def _points(entries: Sequence[Mapping[str, Any]], name: str, factor: int) -> list[tuple[int, float]]:
    """Points (step, value) of the entries in which ``name`` is a finite number."""
    return [
        (entry["step"], entry[name] * factor)
        for entry in entries
        if isinstance(entry.get(name), (int, float)) and math.isfinite(entry[name])
    ]


def _draw(axes: Axes, panel: Panel) -> None:
    for number, (name, points) in enumerate(panel.lines.items()):
        # Markers show single points of short curves.
        marker = "o" if len(points) <= 30 else None
        colour = LIGHT[SERIES[number % len(SERIES)]]
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=name, color=colour, linewidth=1.6, marker=marker, markersize=3)
    axes.set_xlabel("step")
    axes.set_xlim(0, max(panel.last, 1))
    axes.locator_params(axis="x", integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(color=LIGHT["line"], linewidth=0.8)
    style(axes, 9)
    axes.set_title(panel.title, loc="left", pad=8, fontsize=11, color=LIGHT["ink"])
    axes.spines[["top", "right", "left"]].set_visible(False)
    if len(panel.lines) > 1:
        legend = axes.legend(frameon=False, labelcolor=LIGHT["ink"], fontsize=9, ncols=2)
        for text in legend.get_texts():
            text.set_parse_math(False)
