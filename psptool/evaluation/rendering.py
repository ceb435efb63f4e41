"""A table over runs as rows of cells, Markdown and CSV: in % for people, as fractions for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from psptool.schemas.table import Difference, Group, ScoreTable, Spread

TITLES = {"top1": "top-1", "top5": "top-5", "top1_unseen": "unseen"}
WORDS = ("labels", "method", "against")
"""Columns of text; all others hold numbers."""


def title(table: ScoreTable) -> str:
    """What all runs of the table have in common, and the unit of its numbers."""
    parts = [
        table.dataset,
        table.protocol,
        None if table.test_view is None else f"test view {table.test_view}",
    ]
    unseen = f" ({table.clips_unseen} without a duplicate in the training set)" if table.clips_unseen else ""
    parts += [f"{table.clips} {table.part} clips{unseen}", f"{table.weights} checkpoint"]
    return ", ".join(part for part in parts if part) + "; in %, mean ± standard deviation over label splits"


def measure_title(measure: str) -> str:
    """Column heading of a measure; for one stream the stream's name."""
    return TITLES.get(measure) or measure.removeprefix("top1_")


def group_rows(table: ScoreTable) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the groups."""
    header = ["labels", "method", "draws", *(measure_title(measure) for measure in table.measures), "seconds"]
    rows = [
        [
            group.labels,
            group.name,
            str(len(group.draws)),
            *(cell(group.measures.get(measure)) for measure in table.measures),
            "" if group.seconds is None else f"{group.seconds:.0f}",
        ]
        for group in table.groups
    ]
    return header, rows


def difference_rows(table: ScoreTable) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paired differences, in points, with their standard errors."""
    header = ["labels", "method", "against", "draws", *(measure_title(measure) for measure in table.measures)]
    rows = [
        [
            found.labels,
            found.name,
            found.against,
            str(len(found.draws)),
            *(difference_cell(found.measures.get(measure)) for measure in table.measures),
        ]
        for found in table.differences
    ]
    if any(found.closed is not None for found in table.differences):
        header.append("gap closed")
        for row, found in zip(rows, table.differences, strict=True):
            row.append("" if found.closed is None else f"{100 * found.closed:.0f} %")
    return header, rows


def difference_title(table: ScoreTable) -> str:
    """How the differences are computed."""
    said = "Paired by label split: mean difference in points ± standard error"
    if any(found.closed is not None for found in table.differences):
        said += "; gap closed: share of the gap to full supervision in top-1"
    return said


def markdown(table: ScoreTable) -> str:
    """The table as Markdown."""
    parts = [f"{title(table)}.", _grid(*group_rows(table))]
    if table.differences:
        parts += [f"{difference_title(table)}.", _grid(*difference_rows(table))]
    return "\n\n".join(parts) + "\n"


def as_csv(table: ScoreTable) -> str:
    """One line per group and difference; accuracies as fractions; cells that do not apply are empty."""
    kinds = ("mean", "deviation", "error")
    columns = [f"{measure}_{kind}" for measure in table.measures for kind in kinds]
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    shared = ("dataset", "protocol", "test_view", "part", "weights", "clips")
    lines.writerow([*shared, "labels", "method", "against", "draws", *columns, "seconds", "closed"])
    values = [getattr(table, key) for key in shared]
    rows: list[Group | Difference] = [*table.groups, *table.differences]
    for row in rows:
        spreads = [row.measures.get(measure) for measure in table.measures]
        cells = [None if found is None else getattr(found, kind) for found in spreads for kind in kinds]
        against, seconds, closed = (getattr(row, key, None) for key in ("against", "seconds", "closed"))
        lines.writerow([*values, row.labels, row.name, against, len(row.draws), *cells, seconds, closed])
    return file.getvalue()


def cell(found: Spread | None) -> str:
    """Mean and standard deviation in %; empty if the measure is absent."""
    if found is None:
        return ""
    return f"{100 * found.mean:.1f}" + ("" if found.deviation is None else f" ± {100 * found.deviation:.1f}")


def difference_cell(found: Spread | None) -> str:
    """Mean difference in points and its standard error; empty if the measure is absent."""
    if found is None:
        return ""
    return f"{100 * found.mean:+.1f}" + ("" if found.error is None else f" ± {100 * found.error:.1f}")


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---" if name in WORDS else "---:" for name in header], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
