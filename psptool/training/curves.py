"""A run's log as a picture: the loss and its terms, the learning rate, the accuracy on the validation clips."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psptool.training.runs.folder import NO_TERMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def curves_png(entries: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """A PNG of the log's ``entries``: one panel each for the loss, its terms, the learning rate and the validation.

    Args:
        entries: As in ``log.jsonl``, one or more.
        title: Stands above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    terms = [name for name in entries[-1] if name not in NO_TERMS]
    panels: list[tuple[str, list[str]]] = [("loss and its terms", terms), ("learning rate", ["lr"])]
    if any("validation" in entry for entry in entries):
        panels.insert(1, ("validation top-1, %", ["validation"]))
    figure = Figure(figsize=(8, 1 + 2.2 * len(panels)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    shape = {"height_ratios": [2, *(1 for _ in panels[1:])]}
    for axes, (label, names) in zip(
        figure.subplots(len(panels), sharex=True, squeeze=False, gridspec_kw=shape)[:, 0], panels, strict=True
    ):
        for name in names:
            _draw(axes, entries, name)
        axes.set_ylabel(label)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(frameon=False, ncols=len(names))
        axes.set_xlim(0, entries[-1]["step"])
    axes.set_xlabel("step")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _draw(axes: Axes, entries: Sequence[Mapping[str, Any]], name: str) -> None:
    steps = [entry["step"] for entry in entries if name in entry]
    values = [entry[name] * (100 if name == "validation" else 1) for entry in entries if name in entry]
    # A few looks are points; a line among hundreds of entries needs none.
    axes.plot(
        steps, values, label=name, linewidth=1.2, marker="o" if len(steps) <= 30 else None, markersize=3
    )
