"""Layout of dot charts: values per label split, their mean and a band, on one axis. Templates render them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from psptool.common.figures import SERIES

LEAST_SPAN = {False: 10.0, True: 2.0}
"""Minimum length of the axis in % (False) or percentage points (True), so that a small spread looks small."""


@dataclass(frozen=True)
class Dots:
    """One row of a dot chart: one value per label split, as fractions.

    Attributes:
        name: Text on the left.
        points: Name and value of each point.
        mean: Mean of the points.
        half_width: Half the width of the band around the mean; no band if None.
        text: Text on the right.
        colour_index: Index of the row's colour; colours repeat.
        strong: Name of the point to emphasize; none if None.
    """

    name: str
    points: Sequence[tuple[str, float]]
    mean: float
    half_width: float | None
    text: str
    colour_index: int = 0
    strong: str | None = None

    @property
    def colour(self) -> str:
        """Name of the row's colour."""
        return SERIES[self.colour_index % len(SERIES)]


@dataclass(frozen=True)
class DotChart:
    """Rows of dots on one axis.

    Attributes:
        rows: A string is a heading of the following rows.
        ticks: Axis ticks in % or percentage points, ascending; the axis goes from the first to the last.
        signed: Whether the values are differences; their axis has a line at zero.
    """

    rows: tuple[Dots | str, ...]
    ticks: tuple[float, ...]
    signed: bool = False

    def place(self, value: float) -> str:
        """Position of a fraction on the axis, in % of the length of the axis."""
        low, high = self.ticks[0], self.ticks[-1]
        return f"{100 * (100 * value - low) / (high - low):.2f}%"

    def band(self, row: Dots) -> tuple[float, float]:
        """Ends of the band of a row, as fractions; those of accuracies are clipped to 0 and 1."""
        low, high = row.mean - (row.half_width or 0), row.mean + (row.half_width or 0)
        return (low, high) if self.signed else (max(low, 0.0), min(high, 1.0))

    def width(self, row: Dots) -> str:
        """Width of the band of a row, in % of the length of the axis."""
        low, high = self.band(row)
        return f"{100 * 100 * (high - low) / (self.ticks[-1] - self.ticks[0]):.2f}%"


def dot_chart(rows: Sequence[Dots | str], signed: bool = False) -> DotChart | None:
    """A chart of ``rows``; None without values.

    Args:
        rows: A string is a heading of the following rows.
        signed: Whether the values are differences.
    """
    shown = [row for row in rows if isinstance(row, Dots)]
    if not shown:
        return None
    unscaled = DotChart(tuple(rows), (0, 1), signed)
    ends = [end for row in shown for end in (*unscaled.band(row), *(value for _, value in row.points))]
    return DotChart(tuple(rows), tuple(axis_ticks(100 * min(ends), 100 * max(ends), signed)), signed)


def axis_ticks(low: float, high: float, signed: bool) -> list[float]:
    """About four round values around ``low`` and ``high``, ascending.

    The axis includes zero for differences, and for accuracies if the smallest is below half of the largest. It is at
    least `LEAST_SPAN` long. The axis of accuracies stays within 0 and 100.

    Args:
        low: Smallest value in % or percentage points.
        high: Largest value.
        signed: Whether the values are differences.
    """
    if signed:
        low, high = min(low, 0.0), max(high, 0.0)
    elif low < high / 2:
        low = 0.0
    missing = max(LEAST_SPAN[signed] - (high - low), 0.0)
    low, high = low - missing / 2, high + missing / 2
    if not signed:
        low, high = (low - max(high - 100, 0), min(high, 100.0)) if low > 0 else (0.0, high - low)
        low = max(low, 0.0)
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= span / 4 - 1e-9)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]
