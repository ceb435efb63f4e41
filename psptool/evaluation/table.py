"""Tables over evaluated runs: mean and standard deviation over label splits, and paired differences.

Several runs of one label split count once, with their mean. Standard deviations are sample standard deviations (n - 1).
With leave-one-out, a fold takes the place of a label split: its value is the mean of its runs.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from psptool.common.errors import PspError, suggest
from psptool.common.paths import MAX_JSON, read_text
from psptool.common.text import counted
from psptool.schemas.scores import Part, Scores, Weights, file_name, measure_names
from psptool.schemas.table import Difference, Group, ScoreTable, Spread

Value = TypeVar("Value")
ALL_LABELS = "100 %"
"""`RunScores.labels` of runs that are trained with all labels."""


@dataclass(frozen=True)
class RunScores:
    """The scores of one run.

    Attributes:
        path: The JSON file.
        scores: Its content.
    """

    path: Path
    scores: Scores

    @property
    def location(self) -> str:
        """The run folder, or the file if it is a collected one, outside a run folder."""
        return str(self.path.parent if self.path.stem.startswith("scores") else self.path)

    @property
    def split_key(self) -> str:
        """Identifier of the label split: digest and seed, or the file name in older scores without a digest.

        Splits with all labels have the same digest. Their seeds keep repeated trainings apart.
        """
        scores = self.scores
        return scores.split if scores.split_digest is None else f"{scores.split_digest} {scores.draw}"

    @property
    def split_name(self) -> str:
        """The displayed name of the label split: its seed, after the fold if there is one, or its file name."""
        scores = self.scores
        if scores.draw is None:
            return scores.split
        return str(scores.draw) if scores.leave_one_out is None else f"{scores.protocol} seed {scores.draw}"

    @property
    def unit_kind(self) -> str:
        """What counts once in means, as a word."""
        return "label split" if self.scores.leave_one_out is None else "fold"

    @property
    def unit_key(self) -> str:
        """Identifier of what counts once in means: the label split, or the fold of leave-one-out."""
        return self.split_key if self.scores.leave_one_out is None else str(self.scores.protocol)

    @property
    def unit_name(self) -> str:
        """The displayed name of `unit_key`."""
        return self.split_name if self.scores.leave_one_out is None else str(self.scores.protocol)

    @property
    def labels(self) -> str:
        """Amount of labels, such as ``5 %`` or ``5 per class``; the split's name without its seed in older scores.

        For test scores, clips that were held out for validation are mentioned, because they reduce the training set.
        """
        scores = self.scores
        held_out = scores.validation_rule if scores.part == "test" else None
        suffix = "" if held_out is None else f", trained without {held_out}"
        if scores.ratio is not None:
            return f"{100 * scores.ratio:g} %{suffix}"
        if scores.count is not None:
            return f"{scores.count} per class{suffix}"
        return re.sub(r"-s\d+(?=-|$)", "", Path(scores.split).stem)

    @property
    def name(self) -> str:
        """Method and preset, then the settings that differ from the preset."""
        return method_name(self.scores.method, self.scores.preset, self.scores.changes)


def method_name(method: str, preset: str, changes: Sequence[str] | None) -> str:
    """Method and preset, then the settings that differ from the preset, such as ``psp/fast optim.steps=60``.

    The method only for predictions of another program, which have no preset.
    """
    return " ".join((f"{method}/{preset}" if preset else method, *(changes or ())))


# Values that all runs of a table must share. None (in scores of earlier versions) is compatible with any value.
_SHARED: Mapping[str, Callable[[Scores], object]] = {
    "dataset": lambda scores: scores.dataset,
    "content fingerprint": lambda scores: scores.content_fingerprint[:12],
    "clips fingerprint": lambda scores: scores.clips_fingerprint[:12],
    "protocol": lambda scores: scores.leave_one_out or scores.protocol,
    "test view": lambda scores: scores.test_view,
    "part": lambda scores: scores.part,
    "weights": lambda scores: scores.weights,
    "label family": lambda scores: scores.family,
}
# Values that all runs of a fold must share; without leave-one-out, all runs.
_SHARED_IN_FOLD: Mapping[str, Callable[[Scores], object]] = {
    "evaluated clips per class": lambda scores: tuple(map(sum, scores.confusion)),
    "evaluated clips": lambda scores: scores.scored_digest and scores.scored_digest[:12],
    "clips without a duplicate": lambda scores: scores.clips_unseen,
}


def collect_scores(paths: Sequence[Path], part: Part = "test", weights: Weights = "last") -> list[RunScores]:
    """Load the scores at ``paths``, each file once, in the given order.

    Args:
        paths: Scores files, run folders, or folders that contain them.
        part: The evaluated clips.
        weights: The evaluated checkpoint.

    Raises:
        PspError: A path has no scores; or a file is not a scores file, is damaged, or is of another part or checkpoint.
    """
    name, found = file_name("scores", ".json", part, weights), dict[Path, Path]()
    for path in paths:
        files = _files(path, name)
        if not files:
            raise PspError(
                f"{path}: "
                + (
                    f"no {name} in it or one folder below"
                    if path.is_dir()
                    else "there is no such file or folder"
                ),
                fix="Evaluate runs with psptool evaluate RUN, or give a folder that has scores.",
            )
        if path.is_file() and _is_other(path):
            raise PspError(
                f"{path}: has no scores", fix="Give scores.json of an evaluated run, or a folder of runs."
            )
        found.update({file.resolve(): file for file in files if file.resolve() not in found})
    runs = [RunScores(file, Scores.load_consistent(file)) for file in found.values()]
    for run in runs:
        _check_kind(run, part, weights)
    return runs


def _check_kind(run: RunScores, part: Part, weights: Weights) -> None:
    """Raise a `PspError` unless the scores are of this part and checkpoint."""
    own = run.scores
    if (own.part, own.weights) != (part, weights):
        options = table_options(own.part, own.weights)
        raise PspError(
            f"{run.path}: other scores than those asked for",
            f"{own.weights} checkpoint on {own.part} clips",
            f"{weights} checkpoint on {part} clips",
            f"Use psptool table{options} for these scores."
            if options
            else "Leave out --validation and --weights for these scores.",
        )


def table_options(part: Part, weights: Weights) -> str:
    """Options of ``psptool table`` for scores of this part and checkpoint; empty for the defaults."""
    return " --validation" * (part == "validation") + " --weights best" * (weights == "best")


def _files(path: Path, name: str) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / name).is_file():
        return [path / name]
    below = sorted(path.glob(f"*/{name}"))
    return below or [file for file in sorted(path.glob("*.json")) if not _is_other(file)]


def _is_other(path: Path) -> bool:
    """Whether a file is JSON of another kind, such as a preparation report. Damaged files are not."""
    try:
        values = json.loads(read_text(path, MAX_JSON))
    except (OSError, ValueError, RecursionError):
        return False
    return not isinstance(values, dict) or not {"top1", "confusion"} & values.keys()


def build_table(runs: Sequence[RunScores], *against: str) -> ScoreTable:
    """The table of ``runs``.

    Args:
        runs: At least one.
        against: Names or methods of reference groups. Every other group is compared with the reference that has the
            same amount of labels. Two references are compared with each other once.

    Raises:
        PspError: The runs are not comparable, or a name in ``against`` matches no group or several.
    """
    _check_comparable(runs)
    members = grouped(runs)
    groups = {key: _group(*key, group_runs) for key, group_runs in members.items()}
    by_fold = _by_fold(runs)
    warnings = [text for group_runs in members.values() for text in _group_warnings(group_runs, by_fold)]
    differences: list[Difference] = []
    bases = list(dict.fromkeys(_find_group(name, [name for _, name in groups]) for name in against))
    for number, base in enumerate(bases):
        found, more = _differences(members, base, skip=bases[:number])
        differences += found
        warnings += more
    firsts = [fold_runs[0].scores for fold_runs in by_fold.values()]
    first = runs[0].scores
    known = next((run.scores for run in runs if run.scores.protocol is not None), first)
    return ScoreTable(
        dataset=first.dataset,
        protocol=known.leave_one_out or known.protocol,
        folds=tuple(fold for fold in by_fold if fold is not None),
        test_view=known.test_view,
        part=first.part,
        weights=first.weights,
        clips=sum(scores.clips for scores in firsts),
        clips_unseen=sum(scores.clips_unseen for scores in firsts),
        streams=_streams(runs),
        groups=tuple(groups.values()),
        differences=tuple(differences),
        redundant=tuple(sorted(set.intersection(*(run.scores.redundant for run in runs)))),
        warnings=tuple(warnings),
    )


def grouped(runs: Sequence[RunScores]) -> dict[tuple[str, str], list[RunScores]]:
    """Runs by labels and name, fewest labels first; the runs of a group differ only in label split and seed."""
    members: dict[tuple[str, str], list[RunScores]] = {}
    for run in sorted(runs, key=_amount_of_labels):
        members.setdefault((run.labels, run.name), []).append(run)
    return members


def sibling_runs(own: RunScores) -> list[RunScores]:
    """``own`` and the runs of its group in sibling folders.

    Folders without scores of this kind, and scores that cannot be read, are skipped.
    """
    folder, found = own.path.resolve().parent, [own]
    for path in sorted(folder.parent.glob(f"*/{own.path.name}")):
        try:
            other = RunScores(path, Scores.load(path))
        except PspError:
            continue
        if path.parent != folder and not _mismatches([own, other]) and len(grouped([own, other])) == 1:
            found.append(other)
    return found


def spread(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation and standard error of ``values``, one per label split.

    Deviation and error are None for a single value.
    """
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(
        mean=statistics.fmean(values),
        deviation=deviation,
        error=None if deviation is None else deviation / len(values) ** 0.5,
        values=tuple(values),
    )


def _check_comparable(runs: Sequence[RunScores]) -> None:
    problems = _mismatches(runs)
    if problems:
        raise PspError(
            "these runs are not comparable: " + ". ".join(problems),
            fix="Make one table per group of comparable runs.",
        )


def _mismatches(runs: Sequence[RunScores]) -> list[str]:
    """One text per shared value that differs between ``runs``, with the runs of each value."""
    problems = _unequal(runs, _SHARED)
    for fold_runs in _by_fold(runs).values():
        problems += _unequal(fold_runs, _SHARED_IN_FOLD)
    return problems


def _by_fold(runs: Sequence[RunScores]) -> dict[str | None, list[RunScores]]:
    """Runs by the protocol of their fold, sorted; all under None without leave-one-out."""
    found: dict[str | None, list[RunScores]] = defaultdict(list)
    for run in sorted(runs, key=_fold):
        found[_fold(run) or None].append(run)
    return found


def _fold(run: RunScores) -> str:
    return (run.scores.protocol or "") if run.scores.leave_one_out else ""


def _unequal(runs: Sequence[RunScores], shared: Mapping[str, Callable[[Scores], object]]) -> list[str]:
    problems = []
    for what, value_of in shared.items():
        by_value: dict[object, list[str]] = defaultdict(list)
        for run in runs:
            value = value_of(run.scores)
            if value is not None:
                by_value[value].append(run.location)
        if len(by_value) > 1:
            problems.append(
                f"{what}: " + "; ".join(f"{v} in {_first_of(names)}" for v, names in by_value.items())
            )
    return problems


def _first_of(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _amount_of_labels(run: RunScores) -> tuple[float, float]:
    return (run.scores.ratio or 0.0, run.scores.count or 0)


def _streams(runs: Sequence[RunScores]) -> tuple[str, ...]:
    """The streams of any run, each once."""
    return tuple(dict.fromkeys(name for run in runs for name in run.scores.streams))


def _group(labels: str, name: str, group_runs: Sequence[RunScores]) -> Group:
    measures = {
        measure: spread(list(values.values()))
        for measure in measure_names(_streams(group_runs))
        if (values := _by_unit(group_runs, measure)) is not None
    }
    seconds = [run.scores.seconds for run in group_runs]
    known = [value for value in seconds if value is not None]
    return Group(
        labels=labels,
        name=name,
        draws=tuple(_unit_names(group_runs).values()),
        runs=tuple(run.location for run in group_runs),
        measures=measures,
        seconds=statistics.fmean(known) if len(known) == len(seconds) else None,
        computed_on=_distinct([_computed_on(run.scores) for run in group_runs]),
        # A run that was resumed at another commit has both.
        commits=_distinct(
            [one for run in group_runs for one in (run.scores.commit or "").split("; ") if one]
        ),
    )


def _computed_on(scores: Scores) -> str | None:
    if scores.device is None:
        return None
    return f"{scores.hardware or scores.device}, {scores.precision}"


def _distinct(values: Sequence[Value | None]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))


def _unit_names(group_runs: Sequence[RunScores]) -> dict[str, str]:
    """The displayed name of each label split or fold, ordered by seed and file name."""
    ordered = sorted(group_runs, key=lambda run: (run.scores.draw or 0, run.scores.split))
    return {run.unit_key: run.unit_name for run in ordered}


def _by_unit(group_runs: Sequence[RunScores], measure: str) -> dict[str, float] | None:
    """The measure by label split or fold; None if a run does not have it."""
    values: dict[str, list[float]] = {unit: [] for unit in _unit_names(group_runs)}
    for run in group_runs:
        value = run.scores.measure(measure)
        if value is None:
            return None
        values[run.unit_key].append(value)
    return {unit: statistics.fmean(found) for unit, found in values.items()}


def _group_warnings(group_runs: Sequence[RunScores], folds: Collection[str | None]) -> list[str]:
    """Warnings about one group: missing ``folds``, repeated label splits, different configurations or devices."""
    title, warnings, by_split = f"{group_runs[0].labels}, {group_runs[0].name}", [], defaultdict(list)
    missing = [fold for fold in folds if fold is not None and fold not in _by_fold(group_runs)]
    if missing:
        warnings.append(f"{title}: no run of {_first_of(missing)}, which other groups have")
    for run in group_runs:
        by_split[run.split_key, run.split_name].append(run.location)
    for (_, name), locations in by_split.items():
        if len(locations) > 1:
            warnings.append(
                f"{title}: label split {name} has {len(locations)} runs, whose mean counts once: {_first_of(locations)}"
            )
    if len({len(fold_runs) for fold_runs in _by_fold(group_runs).values()}) > 1:
        warnings.append(f"{title}: the folds have different numbers of runs, whose means count once")
    if len({run.scores.recipe_digest for run in group_runs}) > 1:
        warnings.append(
            f"{title}: the training configurations differ, or are unknown because scores are from an older version"
        )
    devices = _distinct([_computed_on(run.scores) for run in group_runs])
    if len(devices) > 1:
        warnings.append(f"{title}: trained on different devices: {'; '.join(devices)}")
    return warnings


def _find_group(against: str, names: Sequence[str]) -> str:
    """The name of the group ``against``: a full name, or a method or other prefix that only one group has."""
    known = list(dict.fromkeys(names))
    found = [name for name in known if name == against]
    found = found or [name for name in known if re.split("[/ ]", name)[0] == against]
    found = found or [name for name in known if name.startswith(f"{against} ")]
    if len(found) != 1:
        near = suggest(against, [*known, *(name.split("/")[0] for name in known)])
        raise PspError(
            "--against", repr(against), f"one group of {'; '.join(found or known)}",
            near if not found else "Give its full name.",
        )  # fmt: skip
    return found[0]


def _differences(
    members: Mapping[tuple[str, str], Sequence[RunScores]], base: str, skip: Sequence[str]
) -> tuple[list[Difference], list[str]]:
    differences, warnings = [], []
    for (labels, name), group_runs in members.items():
        if name in (base, *skip):
            continue
        title = f"{labels}, {name} against {base}"
        other = members.get((labels, base), ())
        own_units, other_units = _unit_names(group_runs), _unit_names(other)
        noun = group_runs[0].unit_kind
        common = [unit for unit in own_units if unit in other_units]
        if not common:
            warnings.append(f"{title}: no common {noun}, so no difference")
            continue
        unpaired = own_units.keys() ^ other_units.keys()
        if unpaired:
            names = {**own_units, **other_units}
            warnings.append(
                f"{title}: over the {counted(len(common), f'common {noun}')}, without "
                + ", ".join(sorted(names[unit] for unit in unpaired))
            )
        warnings += _seed_warnings(title, group_runs, other)
        all_labels = members.get((re.sub("^[^,]*", ALL_LABELS, labels), base), ())
        differences.append(_difference(labels, name, base, group_runs, other, common, all_labels))
    return differences, warnings


def _seed_warnings(title: str, group_runs: Sequence[RunScores], other: Sequence[RunScores]) -> list[str]:
    """A warning if the training seeds of a pair differ, because then more than the configuration differs."""
    names, other_names = _unit_names(group_runs), _unit_names(other)
    noun = group_runs[0].unit_kind

    def seeds(runs: Sequence[RunScores], unit: str) -> set[int]:
        return {run.scores.seed for run in runs if run.unit_key == unit}

    unequal = [
        name
        for unit, name in names.items()
        if unit in other_names and seeds(group_runs, unit) != seeds(other, unit)
    ]
    return [f"{title}: training seeds differ for {noun} {', '.join(unequal)}"] if unequal else []


def _difference(
    labels: str,
    name: str,
    base: str,
    group_runs: Sequence[RunScores],
    other: Sequence[RunScores],
    common: Sequence[str],
    all_labels: Sequence[RunScores],
) -> Difference:
    measures = {}
    for measure in measure_names(_streams(group_runs)):
        own, theirs = _by_unit(group_runs, measure), _by_unit(other, measure)
        if own is not None and theirs is not None:
            measures[measure] = spread([own[unit] - theirs[unit] for unit in common])
    names = _unit_names(group_runs)
    return Difference(
        labels=labels,
        name=name,
        against=base,
        draws=tuple(names[unit] for unit in common),
        measures=measures,
        closed=_gap_closed(group_runs, other, common, all_labels),
    )


def _gap_closed(
    group_runs: Sequence[RunScores],
    other: Sequence[RunScores],
    common: Sequence[str],
    all_labels: Sequence[RunScores],
) -> float | None:
    """Share of the gap from ``other`` to ``all_labels`` (mean top-1) that ``group_runs`` closes, as a fraction.

    None if there are no runs with all labels, or if the gap is at most twice its standard error. With leave-one-out, it
    is that of the folds that all three have.
    """
    own, theirs, full = (_by_unit(runs, "top1") or {} for runs in (group_runs, other, all_labels))
    if group_runs[0].scores.leave_one_out is not None:
        common = [unit for unit in common if unit in full]
        full = {unit: full[unit] for unit in common}
    if not full or all_labels is other:
        return None
    base, top = spread([theirs[unit] for unit in common]), spread(list(full.values()))
    gap = top.mean - base.mean
    if gap <= 2 * math.hypot(base.error or 0, top.error or 0):
        return None
    return (statistics.fmean(own[unit] for unit in common) - base.mean) / gap
