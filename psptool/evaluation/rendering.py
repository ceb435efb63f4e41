"""Text forms of a table over runs: rows of cells and Markdown (in %), and CSV (as fractions)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from psptool.common.text import counted
from psptool.schemas.table import Difference, Group, ScoreTable, Spread

TITLES = {"top1": "top-1", "top5": "top-5", "top1_unseen": "top-1, no duplicates"}
GAP, SECONDS = "gap to all labels closed", "training time (s)"
TEXT_COLUMNS = ("labels", "method", "against")
"""The other columns are numeric."""


def title(table: ScoreTable) -> str:
    """The common properties of all runs of the table, and the unit of its numbers."""
    parts = [
        table.dataset,
        table.protocol if not table.folds else f"{table.protocol} ({counted(len(table.folds), 'fold')})",
        None if table.test_view is None else f"test view {table.test_view}",
    ]
    clips = counted(table.clips, f"{table.part} clip")
    if 0 < table.clips_unseen < table.clips:
        clips += f" ({table.clips_unseen:,} without a duplicate in the training set)"
    parts += [clips, f"{table.weights} checkpoint"]
    return (
        ", ".join(part for part in parts if part) + f"; in %, mean ± standard deviation over {splits(table)}"
    )


def splits(table: ScoreTable) -> str:
    """What mean and standard deviation are computed over."""
    return f"{_unit_kind(table)}s"


def unit(table: ScoreTable, name: str) -> str:
    """Name of a label split or fold with its kind, such as ``label split 0``."""
    return f"{_unit_kind(table)} {name}"


def _unit_kind(table: ScoreTable) -> str:
    return "fold" if table.folds else "label split"


def measure_title(measure: str) -> str:
    """Column heading of a measure, such as ``top-1`` or ``joint stream``."""
    return TITLES.get(measure) or f"{measure.removeprefix('top1_')} stream"


def group_rows(table: ScoreTable) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the groups."""
    header = [
        "labels",
        "method",
        splits(table),
        *(measure_title(measure) for measure in table.shown),
        SECONDS,
    ]
    rows = [
        [
            group.labels,
            group.name,
            str(len(group.draws)),
            *(cell(group.measures.get(measure)) for measure in table.shown),
            "" if group.seconds is None else f"{group.seconds:.0f}",
        ]
        for group in table.groups
    ]
    return header, rows


def difference_rows(table: ScoreTable) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paired differences, in percentage points, with their standard errors."""
    header = [
        "labels",
        "method",
        "against",
        splits(table),
        *(measure_title(measure) for measure in table.shown),
    ]
    rows = [
        [
            found.labels,
            found.name,
            found.against,
            str(len(found.draws)),
            *(difference_cell(found.measures.get(measure)) for measure in table.shown),
        ]
        for found in table.differences
    ]
    if any(found.closed is not None for found in table.differences):
        header.append(GAP)
        for row, found in zip(rows, table.differences, strict=True):
            row.append("" if found.closed is None else f"{100 * found.closed:.0f} %")
    return header, rows


def difference_title(table: ScoreTable) -> str:
    """How the differences are computed."""
    text = f"Paired by {_unit_kind(table)}: mean difference in percentage points ± standard error"
    if any(found.closed is not None for found in table.differences):
        text += (
            f"; {GAP}: share of the top-1 gap between the method in column 'against' "
            "and the same method with all labels"
        )
    return text


def markdown(table: ScoreTable) -> str:
    """The table as Markdown."""
    parts = [f"{title(table)}.", _grid(*group_rows(table))]
    if table.differences:
        parts += [f"{difference_title(table)}.", _grid(*difference_rows(table))]
    return "\n\n".join(parts) + "\n"


def as_csv(table: ScoreTable) -> str:
    """CSV with one line per group and per difference; accuracies are fractions, absent values are empty."""
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
    """Mean difference in percentage points and its standard error; empty if the measure is absent."""
    if found is None:
        return ""
    return f"{100 * found.mean:+.1f}" + ("" if found.error is None else f" ± {100 * found.error:.1f}")


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---" if name in TEXT_COLUMNS else "---:" for name in header], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
