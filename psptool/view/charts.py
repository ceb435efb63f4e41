"""Small charts as HTML and SVG text: bars, dots over draws, curves, matrices as heat maps. All names are escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

WRITTEN_OUT = 20
"""Up to so many classes the cells of a heat map say their percentage."""
DARK = 0.75
"""A cell with a larger share is written in white."""
# Told apart side by side: of the two blues, one.
INKS = ("--person0", "--person1", "--person2", "--person3", "--plus", "--brown")


@dataclass(frozen=True)
class Dots:
    """A row of `dots`: one value a draw, as fractions.

    Attributes:
        name: Stands to the left.
        points: What each is, and its value.
        mean: Of the points.
        reach: How far the pale band goes from the mean to both sides; no band if None.
        said: Stands to the right.
        ink: Number of the row's colour.
        strong: What the point is that is to stand out; none if None.
    """

    name: str
    points: Sequence[tuple[str, float]]
    mean: float
    reach: float | None
    said: str
    ink: int = 0
    strong: str | None = None


def bars(rows: Sequence[tuple[str, float, bool]]) -> str:
    """Horizontal bars of shares from 0 to 1: name, share, and whether to stress it; empty for no rows."""
    if not rows:
        return ""
    cells = "".join(
        f"<span>{escape(name)}</span>"
        f'<span><i{"" if strong else " class=other"} style="width:{100 * share:.1f}%"></i></span>'
        f"<span>{100 * share:.1f} %</span>"
        for name, share, strong in rows
    )
    return f'<div class="bars">{cells}</div>'


def dots(rows: Sequence[Dots | str], zero: bool = False) -> str:
    """Rows of dots over one axis in per cent, the mean as a stroke and a band around it; empty for no rows.

    Args:
        rows: A plain text is a heading over the rows that follow.
        zero: Whether they are differences, in points: their axis has a line at zero.
    """
    shown = [row for row in rows if isinstance(row, Dots)]
    if not shown:
        return ""
    ends = [end for row in shown for end in (*_band(row, zero), *(share for _, share in row.points))]
    ends += [0.0] if zero else []
    ticks = _ticks(100 * min(ends), 100 * max(ends))
    low, high = ticks[0], ticks[-1]

    def place(share: float) -> float:
        return 100 * (100 * share - low) / (high - low)

    lines = "".join(
        f'<u{" class=zero" if zero and not tick else ""} style="left:{place(tick / 100):.2f}%"></u>'
        for tick in ticks
    )
    parts = [
        f"<h3>{escape(row)}</h3>"
        if isinstance(row, str)
        else f'<span>{escape(row.name)}</span><span class="track" style="--row:var({INKS[row.ink % len(INKS)]})">'
        f"{lines}{_dots(row, place, *_band(row, zero))}</span><span>{escape(row.said)}</span>"
        for row in rows
    ]
    unit = f"<span>{'points' if zero else '%'}</span>"
    labels = "".join(f'<em style="left:{place(tick / 100):.2f}%">{tick:g}</em>' for tick in ticks)
    return f'<div class="dots">{"".join(parts)}<span></span><span class="axis">{labels}</span>{unit}</div>'


def _band(row: Dots, signed: bool) -> tuple[float, float]:
    """The band's ends; an accuracy's stay within what an accuracy can be."""
    low, high = row.mean - (row.reach or 0), row.mean + (row.reach or 0)
    return (low, high) if signed else (max(low, 0.0), min(high, 1.0))


def _dots(row: Dots, place: Callable[[float], float], low: float, high: float) -> str:
    """The marks of one row; ``place`` gives the per cent of the track's width at which a value stands."""
    parts = (
        [f'<b style="left:{place(low):.2f}%;width:{place(high) - place(low):.2f}%"></b>'] if row.reach else []
    )
    parts.append(f'<s style="left:{place(row.mean):.2f}%"></s>')
    parts += [
        f'<i{" class=strong" if what == row.strong else ""} style="left:{place(share):.2f}%" '
        f'title="{escape(what)}: {100 * share:.1f}"></i>'
        for what, share in row.points
    ]
    return "".join(parts)


def shares(header: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> str:
    """A table of shares from 0 to 1 in per cent, each cell as dark as its share is large.

    Args:
        header: One name a column; the first is that of the rows' names.
        rows: A name and its shares; a cell without one is empty.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(map(_share_cell, found))}</tr>" for name, found in rows
    )
    whole = f'<table class="shares"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'
    return f'<div class="scroll">{whole}</div>'


def _share_cell(share: float | None) -> str:
    if share is None:
        return "<td></td>"
    ink = ";color:#fff" if share > DARK else ""
    return f'<td class=number style="background:rgba(var(--heat),{0.92 * share:.3f}){ink}">{100 * share:.1f}</td>'


def curves(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], unit: str = "") -> str:
    """Lines over steps, as one SVG with a legend.

    Args:
        title: Stands above.
        lines: By name (step, value) points; values that are not finite are left out.
        unit: Of the values.
    """
    width, height, left, right, top, bottom = 560, 230, 52, 10, 30, 26
    kept = {name: [(x, y) for x, y in line if math.isfinite(y)] for name, line in lines.items()}
    points = [point for line in kept.values() for point in line]
    if not points:
        return ""
    last = max(x for x, _ in points) or 1
    ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    low, high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + x / last * (width - left - right)
        return across, height - bottom - (y - low) / (high - low) * (height - top - bottom)

    parts = [f'<text x="0" y="14">{escape(title)}{f" ({escape(unit)})" if unit else ""}</text>']
    for tick in ticks:
        _, y = place(0, tick)
        parts.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text class="soft" x="{left}" y="{height - 6}">0</text>')
    parts.append(
        f'<text class="soft" x="{width - right}" y="{height - 6}" text-anchor="end">{last:,.0f} steps</text>'
    )
    for number, line in enumerate(kept.values()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        ink = INKS[number % len(INKS)]
        parts.append(f'<polyline points="{path}" fill="none" style="stroke:var({ink})" stroke-width="1.8"/>')
    names = "".join(
        f'<span><i class="bone" style="background:var({INKS[n % len(INKS)]})"></i>{escape(name)}</span>'
        for n, name in enumerate(kept)
    )
    key = f'<p class="legend">{names}</p>' if len(kept) > 1 else ""
    return f'<div><svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>{key}</div>'


def heat_map(counts: NDArray[np.integer], names: Sequence[str]) -> str:
    """A confusion matrix as SVG, each row as percentages of its true class's clips.

    Classes that no clip shows and none is taken for are left out.

    Args:
        counts: (K, K); rows are true classes, columns predicted ones.
        names: K class names.
    """
    met = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    counts, names = counts[np.ix_(met, met)], [names[n] for n in met.tolist()]
    clips = counts.sum(axis=1)
    percent = 100 * counts / np.maximum(clips, 1)[:, None]
    size, few = len(names), len(names) <= WRITTEN_OUT
    side, most = (38, 24) if few else (12, 40)
    letter = 12 if few else 9
    left = int(min(max(map(len, names)), most) * letter * 0.56) + 46
    top = int(min(max(map(len, names)), most) * letter * 0.5) + 30
    parts = []
    for row, name in enumerate(names):
        short = escape(name if len(name) <= most else f"{name[: most - 1]}…")
        y, x = top + (row + 0.5) * side, left + (row + 0.5) * side
        style = f'style="font-size:{letter}px"'
        parts.append(
            f'<text x="{left - 8}" y="{y + letter / 3:.1f}" text-anchor="end" {style}>{short}'
            f' <tspan class="soft" fill-opacity="0.6">{clips[row]}</tspan></text>'
        )
        parts.append(
            f'<text {style} transform="translate({x + letter / 3:.1f} {top - 8}) rotate(-52)">{short}</text>'
        )
    parts += [
        _cell(left + column * side, top + row * side, side, counts[row, column], percent[row, column], few)
        + f"<title>{escape(names[row])} taken for {escape(names[column])}: "
        f"{counts[row, column]} of {clips[row]}</title></g>"
        for row in range(size)
        for column in range(size)
        if counts[row, column] or few
    ]
    width, height = left + size * side + int(top * 0.8), top + size * side + 6
    return (
        f'<div class="scroll"><svg viewBox="0 0 {width} {height}" style="width:{width}px;max-width:100%;'
        f'min-width:{min(width, 620)}px" role="img">{"".join(parts)}</svg></div>'
    )


def _cell(x: float, y: float, side: int, count: int, percent: float, written: bool) -> str:
    """One cell of a heat map, its group left open for a title."""
    # The square root keeps single confusions visible among many classes.
    strength = (percent / 100) ** (0.8 if written else 0.5)
    rect = (
        f'<g><rect x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" rx="{3 if written else 1}" '
        f'style="fill:rgba(var(--heat),{0.04 + 0.92 * strength:.3f})"/>'
    )
    if not written or not count:
        return rect
    ink = ' style="fill:#fff"' if percent > 100 * DARK else ""
    text = f"{percent:.0f}" if percent >= 0.5 else "&lt;1"
    return (
        f'{rect}<text x="{x + side / 2 - 0.5}" y="{y + side / 2 + 4}" text-anchor="middle"{ink}>{text}</text>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """About four round values around ``low`` and ``high``, ascending, at least two."""
    span = max(high - low, abs(high) * 1e-3, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= span / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]
