"""The learning curves of a run's log: a PNG file with all panels, or one SVG per panel in a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psptool.common.figures import LIGHT, SERIES, new_figure, style, to_png, to_svg
from psptool.training.runs.folder import NO_TERMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TERMS = {
    "ce": "cross-entropy",
    "body": "body contrast",
    "part": "part contrast",
    "joint": "joint contrast",
    "teacher": "teacher loss",
}
"""Names of the loss terms in figures; other terms keep their name in the log."""
_WIDTH, _HEIGHT = 7.6, 3.0  # inches


@dataclass(frozen=True)
class Panel:
    """One chart over training steps: by name (step, value) points, all finite."""

    title: str
    lines: Mapping[str, Sequence[tuple[int, float]]]
    last: int


def curves_png(entries: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """A PNG of the log's ``entries`` with panels for the loss and its terms, the learning rate and the validation.

    Args:
        entries: As in ``log.jsonl``, one or more.
        title: Text above the panels.
    """
    panels = _panels(entries)
    figure = new_figure(_WIDTH * max(len(panels), 1), _HEIGHT + 0.4)
    figure.suptitle(title, fontsize=11, color=LIGHT["ink"], parse_math=False)
    for axes, panel in zip(figure.subplots(1, max(len(panels), 1), squeeze=False)[0], panels, strict=False):
        _draw(axes, panel)
    return to_png(figure)


def curves_svgs(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The panels of the same figure as one ``<svg>`` element each; none for a log without values."""
    figures = []
    for panel in _panels(entries):
        figure = new_figure(_WIDTH, _HEIGHT)
        _draw(figure.subplots(), panel)
        figures.append(to_svg(figure, panel.title))
    return figures


def _panels(entries: Sequence[Mapping[str, Any]]) -> list[Panel]:
    terms = dict.fromkeys(name for entry in entries for name in entry if name not in NO_TERMS)
    groups = (
        ("loss and its terms", {name: TERMS.get(name, name) for name in terms}, 1),
        ("learning rate", {"lr": "learning rate"}, 1),
        ("validation top-1 (%)", {"validation": "top-1"}, 100),
    )
    found = []
    for title, names, factor in groups:
        lines = {shown: _points(entries, name, factor) for name, shown in names.items()}
        lines = {name: points for name, points in lines.items() if points}
        if lines:
            found.append(Panel(title, lines, entries[-1]["step"]))
    return found


def _points(entries: Sequence[Mapping[str, Any]], name: str, factor: int) -> list[tuple[int, float]]:
    """(step, value) of the entries in which ``name`` is a finite number."""
    return [
        (entry["step"], entry[name] * factor)
        for entry in entries
        if isinstance(entry.get(name), (int, float)) and math.isfinite(entry[name])
    ]


def _draw(axes: Axes, panel: Panel) -> None:
    for number, (name, points) in enumerate(panel.lines.items()):
        # A few validations are points; a line of many entries needs no markers.
        marker = "o" if len(points) <= 30 else None
        colour = LIGHT[SERIES[number % len(SERIES)]]
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=name, color=colour, linewidth=1.6, marker=marker, markersize=3)
    axes.set_xlabel("step")
    axes.set_xlim(0, max(panel.last, 1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(color=LIGHT["line"], linewidth=0.8)
    style(axes, 9)
    axes.set_title(panel.title, loc="left", pad=8, fontsize=11, color=LIGHT["ink"])
    axes.spines[["top", "right", "left"]].set_visible(False)
    if len(panel.lines) > 1:
        legend = axes.legend(frameon=False, labelcolor=LIGHT["ink"], fontsize=9, ncols=2)
        for text in legend.get_texts():
            text.set_parse_math(False)
