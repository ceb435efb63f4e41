"""The page of ``psptool table --html``: groups of runs side by side, with the draws that each mean rests on."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from psptool.evaluation.rendering import (
    cell,
    difference_cell,
    difference_rows,
    difference_title,
    group_rows,
    measure_title,
    title,
)
from psptool.evaluation.table import Scored, grouped
from psptool.schemas.scores import Scores
from psptool.schemas.table import Difference, Group, ScoreTable
from psptool.view.charts import INKS, Dots, dots, heat_map, shares
from psptool.view.page import Section, page, table

MATRICES = 8
"""Up to so many groups a page has their confusion matrices."""
FEW_RUNS = 12
"""Up to so many runs their list is open."""
HEADINGS = {
    "top1": "Top-1 of all streams",
    "top5": "Top-5 of all streams",
    "top1_unseen": "Top-1 on unseen clips",
}
_Members = Mapping[tuple[str, str], Sequence[Scored]]


def table_page(found: ScoreTable, runs: Sequence[Scored]) -> str:
    """The page of one table.

    Args:
        found: The table.
        runs: Those that it was built from.
    """
    members = grouped(runs)
    main, *others = found.measures
    sections = [
        Section(_heading(main), _dots(found, main) + _warnings(found.warnings)),
        Section("All measures", _table(*group_rows(found))),
        Section("Differences", _differences(found, main)),
        *(Section(_heading(measure), _dots(found, measure), wide=False) for measure in others),
        Section("Accuracy by class", _by_class(members)),
        Section("Confusion", _confusion(members)),
        Section("Budget", _budget(found)),
        Section("What it rests on", _shared(runs) + _runs(members)),
    ]
    heading = f"{found.dataset}: {_count(len(runs), 'run')} in {_count(len(found.groups), 'group')}"
    return page(heading, [section for section in sections if section.body], lead=title(found))


def _heading(measure: str) -> str:
    return HEADINGS.get(measure) or f"Top-1 of the {measure_title(measure)} stream"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table without the columns that are empty in all rows: older scores leave some out."""
    kept = [number for number in range(len(header)) if any(row[number] != "" for row in rows)]
    return table([header[n] for n in kept], [[row[n] for n in kept] for row in rows])


def _dots(found: ScoreTable, measure: str) -> str:
    return dots([*_dot_rows(found.groups, found, measure)])


def _dot_rows(
    rows: Sequence[Group] | Sequence[Difference], found: ScoreTable, measure: str
) -> Iterator[Dots | str]:
    """One row a group or difference that has the measure, under headings where there are several label counts."""
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
            f"{row.name} over {row.against}" if isinstance(row, Difference) and several_bases else row.name,
            [(f"draw {draw}", value) for draw, value in zip(row.draws, spread.values, strict=True)],
            spread.mean,
            spread.error if is_difference else spread.deviation,
            difference_cell(spread) if is_difference else cell(spread),
            # A colour a method where there are enough of them.
            names.index(row.name) if len(names) <= len(INKS) else 0,
        )


def _warnings(warnings: Sequence[str]) -> str:
    said = (
        "A dot is a draw of the labels, the stroke their mean, the band one standard deviation to each side."
    )
    return "".join(f'<p class="note">{escape(text)}</p>' for text in (said, *warnings))


def _differences(found: ScoreTable, main: str) -> str:
    if not found.differences:
        return ""
    said = (
        f"{difference_title(found)}. The chart is of {measure_title(main)}; "
        "the band is one standard error to each side."
    )
    chart = dots([*_dot_rows(found.differences, found, main)], zero=True)
    return f'<p class="note">{escape(said)}</p>{chart}{_table(*difference_rows(found))}'


def _by_class(members: _Members) -> str:
    """Mean over the runs of a group, a column a group."""
    classes = dict.fromkeys(
        name for runs in members.values() for run in runs for name in run.scores.per_class
    )
    rows = [(name, [_mean_of(name, runs) for runs in members.values()]) for name in classes]
    note = '<p class="note">Per cent, the mean over the runs of a group.</p>'
    return note + shares(["", *(f"{labels}, {name}" for labels, name in members)], rows)


def _mean_of(name: str, runs: Sequence[Scored]) -> float | None:
    found = [run.scores.per_class[name] for run in runs if name in run.scores.per_class]
    return statistics.fmean(found) if found else None


def _confusion(members: _Members) -> str:
    if len(members) > MATRICES:
        return ""
    is_open = " open" if len(members) < 3 else ""
    parts = [
        f"<details{is_open}><summary>{escape(f'{labels}, {name}')}</summary>"
        f"{heat_map(_summed(runs), _class_names(runs[0].scores))}</details>"
        for (labels, name), runs in members.items()
    ]
    note = '<p class="note">Of the clips of all runs of a group, in per cent of the true class.</p>'
    return f'{note}<div class="cards charts">{"".join(parts)}</div>'


def _summed(runs: Sequence[Scored]) -> NDArray[np.integer]:
    """Counts (K, K) over all runs."""
    counts: NDArray[np.integer] = np.sum([run.scores.confusion for run in runs], axis=0)
    return counts


def _class_names(scores: Scores) -> list[str]:
    """A name for each row of the confusion; scores name only the classes that are tested."""
    named = iter(scores.per_class)
    return [
        next(named, f"class {number}") if any(row) else f"class {number}"
        for number, row in enumerate(scores.confusion, 1)
    ]


def _budget(found: ScoreTable) -> str:
    header = ("labels", "method", "runs", "seconds a training", "hours in all", "computed on", "commit")
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


def _shared(runs: Sequence[Scored]) -> str:
    """What all runs of the table have in common; older scores leave some of it out."""
    all_scores = [run.scores for run in runs]
    values: dict[str, set[str | None]] = {
        "content fingerprint": {scores.content_fingerprint for scores in all_scores},
        "clips fingerprint": {scores.clips_fingerprint for scores in all_scores},
        "digest of the scored clips": {scores.scored_digest for scores in all_scores},
        "family of label counts": {scores.family for scores in all_scores},
        "evaluated with": {f"psptool {scores.tool_version}" for scores in all_scores},
    }
    rows = [(what, ", ".join(sorted(filter(None, found)))) for what, found in values.items()]
    return table((), [row for row in rows if row[1]])


def _runs(members: _Members) -> str:
    """Every run with what tells it from the others; digests are cut to 12 digits."""
    header = ("labels", "method", "draw", "seed", "top-1", "split", "split digest", "recipe digest", "scores")
    rows = [
        (
            labels,
            name,
            "" if run.scores.draw is None else run.scores.draw,
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
    is_open = " open" if len(rows) <= FEW_RUNS else ""
    return f"<details{is_open}><summary>{_count(len(rows), 'run')}</summary>{_table(header, rows)}</details>"
