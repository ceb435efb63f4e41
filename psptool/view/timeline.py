"""The timeline of a long recording: the predicted class of each window, as JSON for `timeline.js`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from psptool.common.figures import SERIES
from psptool.schemas.timeline import PredictedWindow

SHADES = (None, ("ink", 50), ("card", 55))
"""Shades of the colours of `SERIES`: the colour mixed in, and its share in %. Further classes repeat the colours."""


def class_colours(timelines: Sequence[Sequence[PredictedWindow]]) -> dict[str, str]:
    """CSS colour of each class that is the most probable one in a window, the most frequent class first."""
    counts = Counter(window.top[0].class_name for windows in timelines for window in windows if window.top)
    return {name: _colour(n) for n, (name, _) in enumerate(counts.most_common())}


def _colour(n: int) -> str:
    colour, shade = _variable(SERIES[n % len(SERIES)]), SHADES[n // len(SERIES) % len(SHADES)]
    return colour if shade is None else f"color-mix(in srgb, {colour}, {_variable(shade[0])} {shade[1]}%)"


def _variable(name: str) -> str:
    return f"var(--{name})"


def timeline_data(
    windows: Sequence[PredictedWindow], frames: int, colours: Mapping[str, str]
) -> dict[str, Any]:
    """The JSON for `timeline.js`: classes with their colours, and for each window its bar and its text.

    Args:
        windows: The windows of a recording in the order of time.
        frames: Frames of the recording.
        colours: CSS colour of each class.
    """
    present = {window.top[0].class_name for window in windows if window.top}
    return {
        "classes": [(name, colour) for name, colour in colours.items() if name in present],
        "windows": [
            {
                "from": begin,
                "to": end,
                "colour": colours[window.top[0].class_name] if window.top else None,
                "share": window.top[0].probability if window.top else 0,
                "text": window_text(window),
            }
            for window, (begin, end) in zip(windows, bars(windows, frames), strict=True)
        ],
    }


def bars(windows: Sequence[PredictedWindow], frames: int) -> list[tuple[int, int]]:
    """First frame, and frame after the last, of the bar of each window: the frames nearest to its centre.

    Bars of overlapping windows meet halfway between their centres.
    """
    centres = [(window.first + window.last + 1) / 2 - windows[0].first for window in windows]
    ends = [int((one + other) / 2 + 0.5) for one, other in pairwise(centres)]
    return list(zip([0, *ends], [*ends, frames], strict=True))


def window_text(window: PredictedWindow) -> str:
    """The times of a window and its most probable classes, or why there is none."""
    found = ", ".join(f"{guess.class_name} {100 * guess.probability:.0f} %" for guess in window.top)
    return f"{window.start:.2f} to {window.end:.2f} s: {found or window.reason}"
