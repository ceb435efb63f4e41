"""The page of ``psptool table --html``: accuracies and differences of groups of runs, by label split."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from psptool.common.figures import SERIES
from psptool.common.text import counted
from psptool.evaluation.confusion import FEW_CLASSES, confusion_svg
from psptool.evaluation.rendering import (
    cell,
    difference_cell,
    difference_rows,
    difference_title,
    group_rows,
    measure_title,
    title,
    unit,
)
from psptool.evaluation.table import RunScores, grouped
from psptool.schemas.table import Difference, Group, ScoreTable
from psptool.view.charts import DotChart, Dots, dot_chart
from psptool.view.page import Table, render, table
from psptool.view.report import CONFUSION_NOTE

MATRICES = 8
"""Largest number of groups for which a page has confusion matrices."""
FEW_RUNS = 12
"""Largest number of runs whose list is expanded at first."""
DOTS_NOTE = "Each dot is one label split or fold. The vertical line is the mean, the band is mean ± standard deviation."
HEADINGS = {
    "top1": "Top-1, fusion of all streams",
    "top5": "Top-5, fusion of all streams",
    "top1_unseen": "Top-1 on clips without a duplicate in the training set, fusion of all streams",
}
_Members = Mapping[tuple[str, str], Sequence[RunScores]]


def table_page(found: ScoreTable, runs: Sequence[RunScores]) -> str:
    """The page of one table.

    Args:
        found: The table.
        runs: The runs from which it was built.
    """
    members = grouped(runs)
    main, *others = found.shown
    matrices = _matrices(members)
    charts = [(_heading(measure), _dots(found, measure)) for measure in others]
    return render(
        "table.html",
        f"{found.dataset}: {counted(len(runs), 'run')} in {counted(len(found.groups), 'group')}",
        lead=title(found),
        main_heading=_heading(main),
        main_chart=_dots(found, main),
        main_notes=(DOTS_NOTE, *found.warnings),
        groups=_table(*group_rows(found)),
        differences=_differences(found, main),
        charts=[(heading, chart) for heading, chart in charts if chart],
        by_class=_by_class(members),
        matrices=matrices,
        many_classes=any(len(run.scores.per_class) > FEW_CLASSES for run in runs),
        confusion_note=CONFUSION_NOTE,
        budget=_budget(found),
        shared=_shared(runs),
        runs=_runs(members),
        runs_open=len(runs) <= FEW_RUNS,
    )


def _heading(measure: str) -> str:
    return HEADINGS.get(measure) or f"Top-1, {measure_title(measure)}"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table without columns that are empty in all rows, because older scores lack some values."""
    kept = [number for number in range(len(header)) if any(row[number] != "" for row in rows)]
    return table([header[n] for n in kept], [[row[n] for n in kept] for row in rows])


def _dots(found: ScoreTable, measure: str) -> DotChart | None:
    return dot_chart([*_dot_rows(found.groups, found, measure)])


def _dot_rows(
    rows: Sequence[Group] | Sequence[Difference], found: ScoreTable, measure: str
) -> Iterator[Dots | str]:
    """One row per group or difference with this measure, under a heading per amount of labels if there are several."""
    names = list(dict.fromkeys(group.name for group in found.groups))
    several = len({group.labels for group in found.groups}) > 1
    several_bases = len({difference.against for difference in found.differences}) > 1
    above = None
    for row in rows:
        spread = row.measures.get(measure)
        if spread is None:
            continue
        if several and row.labels != above:
            above = row.labels
            yield row.labels
        is_difference = isinstance(row, Difference)
        yield Dots(
            f"{row.name} against {row.against}"
            if isinstance(row, Difference) and several_bases
            else row.name,
            [(unit(found, draw), value) for draw, value in zip(row.draws, spread.values, strict=True)],
            spread.mean,
            spread.error if is_difference else spread.deviation,
            difference_cell(spread) if is_difference else cell(spread),
            # One colour per method where there are enough colours.
            names.index(row.name) if len(names) <= len(SERIES) else 0,
        )


def _differences(found: ScoreTable, main: str) -> Mapping[str, Any] | None:
    if not found.differences:
        return None
    text = f"{difference_title(found)}. The chart shows {measure_title(main)}; the band is mean ± standard error."
    chart = dot_chart([*_dot_rows(found.differences, found, main)], signed=True)
    return {"text": text, "chart": chart, "table": _table(*difference_rows(found))}


def _by_class(members: _Members) -> Mapping[str, Any]:
    """Accuracy by class: mean over the runs of a group, one column per group."""
    classes = dict.fromkeys(
        name for runs in members.values() for run in runs for name in run.scores.per_class
    )
    rows = [(name, [_mean_of(name, runs) for runs in members.values()]) for name in classes]
    return {"header": ["", *(f"{labels}, {name}" for labels, name in members)], "rows": rows}


def _mean_of(name: str, runs: Sequence[RunScores]) -> float | None:
    found = [run.scores.per_class[name] for run in runs if name in run.scores.per_class]
    return statistics.fmean(found) if found else None


def _matrices(members: _Members) -> list[tuple[str, Markup]]:
    """Name and confusion matrix of each group; empty if there are more than `MATRICES` groups."""
    if len(members) > MATRICES:
        return []
    return [
        (f"{labels}, {name}", Markup(confusion_svg(_summed_confusion(runs), _class_names(runs))))
        for (labels, name), runs in members.items()
    ]


def _summed_confusion(runs: Sequence[RunScores]) -> NDArray[np.integer]:
    """Confusion matrices of all runs added, counts (K, K)."""
    counts: NDArray[np.integer] = np.sum([run.scores.confusion for run in runs], axis=0)
    return counts


def _class_names(runs: Sequence[RunScores]) -> list[str]:
    """A name for each row of the summed confusion matrix.

    Scores have names only of classes with test clips, and the test clips of some runs may lack a class.
    """
    names = [f"class {number}" for number in range(1, len(runs[0].scores.confusion) + 1)]
    for run in reversed(runs):  # the first run with a name decides
        named = iter(run.scores.per_class)
        for label, row in enumerate(run.scores.confusion):
            if any(row):
                names[label] = next(named, names[label])
    return names


def _budget(found: ScoreTable) -> Table:
    header = ("labels", "method", "runs", "seconds per training", "total hours", "trained on", "commit")
    rows = [
        (
            group.labels,
            group.name,
            len(group.runs),
            "" if group.seconds is None else f"{group.seconds:.0f}",
            "" if group.seconds is None else f"{group.seconds * len(group.runs) / 3600:.1f}",
            "; ".join(group.computed_on),
            ", ".join(commit[:12] for commit in group.commits),
        )
        for group in found.groups
    ]
    return _table(header, rows)


def _shared(runs: Sequence[RunScores]) -> Table:
    """Versions and digests that all runs share; older scores lack some of them."""
    all_scores = [run.scores for run in runs]
    values: dict[str, set[str | None]] = {
        "content fingerprint": {scores.content_fingerprint for scores in all_scores},
        "clips fingerprint": {scores.clips_fingerprint for scores in all_scores},
        "digest of the evaluated clips": {scores.scored_digest for scores in all_scores},
        "label family": {scores.family for scores in all_scores},
        "evaluated with": {f"psptool {scores.tool_version}" for scores in all_scores},
    }
    rows = [(what, ", ".join(sorted(filter(None, found)))) for what, found in values.items()]
    return table((), [row for row in rows if row[1]])


def _runs(members: _Members) -> Table:
    """All runs with their split, seed, score and digests; digests are shortened to 12 digits."""
    header = (
        "labels",
        "method",
        "label split",
        "seed",
        "top-1",
        "split file",
        "split digest",
        "configuration digest",
        "scores file",
    )
    rows = [
        (
            labels,
            name,
            "" if run.scores.draw is None else run.split_name,
            run.scores.seed,
            f"{100 * run.scores.top1:.1f}",
            run.scores.split,
            (run.scores.split_digest or "")[:12],
            (run.scores.recipe_digest or "")[:12],
            str(run.path),
        )
        for (labels, name), runs in members.items()
        for run in runs
    ]
    return _table(header, rows)
