"""Tables over scored runs: what may be compared, mean and deviation over draws, and paired differences.

A draw is the unit: of several runs of one draw the mean counts once. Standard deviations are those of a sample.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from psptool.common.errors import PspError, suggest
from psptool.schemas.scores import Part, Scores, Weights, file_name, measure_names
from psptool.schemas.table import Difference, Group, ScoreTable, Spread

Value = TypeVar("Value")
ALL_LABELS = "100 %"
"""What a table calls the rows that keep all labels."""


@dataclass(frozen=True)
class Scored:
    """One run's scores.

    Attributes:
        path: The JSON file.
        scores: What stands in it.
    """

    path: Path
    scores: Scores

    @property
    def shown(self) -> str:
        """The run's folder, or the file where it stands alone."""
        return str(self.path.parent if self.path.stem.startswith("scores") else self.path)

    @property
    def draw(self) -> str:
        """Which draw: what the split holds and its seed, or its file name in scores that do not say.

        Splits that keep all labels hold the same; their seeds still tell trainings apart.
        """
        scores = self.scores
        return scores.split if scores.split_digest is None else f"{scores.split_digest} {scores.draw}"

    @property
    def labels(self) -> str:
        """How many labels were kept; in scores that do not say, the split's name without its seed.

        Where clips were kept from training for validation, test scores say so: they are other trainings.
        """
        scores = self.scores
        held_out = scores.validation_rule if scores.part == "test" else None
        kept = "" if held_out is None else f", without {held_out}"
        if scores.ratio is not None:
            return f"{100 * scores.ratio:g} %{kept}"
        if scores.count is not None:
            return f"{scores.count} a class{kept}"
        return re.sub(r"-s\d+(?=-|$)", "", Path(scores.split).stem)

    @property
    def name(self) -> str:
        """Method and preset, and what the recipe changes of the preset."""
        scores = self.scores
        return " ".join((f"{scores.method}/{scores.preset}", *(scores.changes or ())))


# What runs of one table share. Scores of earlier versions leave some of it out (None): that is no difference.
_SHARED: Mapping[str, Callable[[Scores], object]] = {
    "dataset": lambda scores: scores.dataset,
    "content fingerprint": lambda scores: scores.content_fingerprint[:12],
    "clips fingerprint": lambda scores: scores.clips_fingerprint[:12],
    "protocol": lambda scores: scores.protocol,
    "test view": lambda scores: scores.test_view,
    "scored clips a class": lambda scores: tuple(map(sum, scores.confusion)),
    "scored clips": lambda scores: scores.scored_digest and scores.scored_digest[:12],
    "unseen clips": lambda scores: scores.clips_unseen,
    "part": lambda scores: scores.part,
    "weights": lambda scores: scores.weights,
    "family of label counts": lambda scores: scores.family,
}


def gather(paths: Sequence[Path], part: Part = "test", weights: Weights = "last") -> list[Scored]:
    """The scores that ``paths`` name, each file once, in the order given.

    Args:
        paths: Scores files; run folders; folders of either.
        part: Which scores of a run's folder to take.
        weights: The same.

    Raises:
        PspError: A path holds no scores, or a file is none.
    """
    name, found = file_name("scores", ".json", part, weights), dict[Path, Path]()
    for path in paths:
        files = _files(path, name)
        if not files:
            raise PspError(
                f"{path}: "
                + (f"no {name} here or one folder below" if path.is_dir() else "there is no such folder"),
                fix="Score runs with psptool evaluate RUN, or name a folder that has scores.",
            )
        found.update({file.resolve(): file for file in files if file.resolve() not in found})
    return [Scored(file, Scores.load(file)) for file in found.values()]


def _files(path: Path, name: str) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / name).is_file():
        return [path / name]
    below = sorted(path.glob(f"*/{name}"))
    return below or [file for file in sorted(path.glob("*.json")) if file.name != "config.json"]


def build_table(runs: Sequence[Scored], *against: str) -> ScoreTable:
    """The table of ``runs``.

    Args:
        runs: At least one.
        against: Names of groups that all others of the same labels are compared with, or their methods. Two of them
            are compared once.

    Raises:
        PspError: Runs that may not be compared; or no group, or more than one, is called as one of ``against``.
    """
    _check_comparable(runs)
    members = grouped(runs)
    groups = {key: _group(*key, inside) for key, inside in members.items()}
    warnings = [word for inside in members.values() for word in _odd_within(inside)]
    differences: list[Difference] = []
    bases = list(dict.fromkeys(_named(name, [name for _, name in groups]) for name in against))
    for number, base in enumerate(bases):
        found, more = _differences(members, base, leave_out=bases[:number])
        differences += found
        warnings += more
    first = runs[0].scores
    known = next((run.scores for run in runs if run.scores.protocol is not None), first)
    return ScoreTable(
        dataset=first.dataset,
        protocol=known.protocol,
        test_view=known.test_view,
        part=first.part,
        weights=first.weights,
        clips=first.clips,
        clips_unseen=first.clips_unseen,
        streams=_streams(runs),
        groups=tuple(groups.values()),
        differences=tuple(differences),
        warnings=tuple(warnings),
    )


def grouped(runs: Sequence[Scored]) -> dict[tuple[str, str], list[Scored]]:
    """``runs`` by their labels and name, fewest labels first: those of one group differ in their draw alone."""
    members: dict[tuple[str, str], list[Scored]] = {}
    for run in sorted(runs, key=_labels_first):
        members.setdefault((run.labels, run.name), []).append(run)
    return members


def beside(own: Scored) -> list[Scored]:
    """``own`` and the runs in folders beside its own that stand in its group of a table with it.

    Folders without such scores, or with scores that cannot be read, are left out.
    """
    folder, found = own.path.resolve().parent, [own]
    for path in sorted(folder.parent.glob(f"*/{own.path.name}")):
        try:
            other = Scored(path, Scores.load(path))
        except PspError:
            continue
        if path.parent != folder and not _unlike([own, other]) and len(grouped([own, other])) == 1:
            found.append(other)
    return found


def spread(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation and standard error of one value a draw; the latter two need two draws."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(
        mean=statistics.fmean(values),
        deviation=deviation,
        error=None if deviation is None else deviation / len(values) ** 0.5,
        values=tuple(values),
    )


def _check_comparable(runs: Sequence[Scored]) -> None:
    problems = _unlike(runs)
    if problems:
        raise PspError(
            "these runs cannot stand in one table, they differ in " + ". In ".join(problems),
            fix="Name the runs of one kind, and make a table for each.",
        )


def _unlike(runs: Sequence[Scored]) -> list[str]:
    """In what ``runs`` differ that a table's runs share; every such thing is named with its runs."""
    problems = []
    for what, value_of in _SHARED.items():
        by_value: dict[object, list[str]] = defaultdict(list)
        for run in runs:
            value = value_of(run.scores)
            if value is not None:
                by_value[value].append(run.shown)
        if len(by_value) > 1:
            problems.append(
                f"{what}: " + "; ".join(f"{v} in {_some(names)}" for v, names in by_value.items())
            )
    return problems


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _labels_first(run: Scored) -> tuple[float, float]:
    return (run.scores.ratio or 0.0, run.scores.count or 0)


def _streams(runs: Sequence[Scored]) -> tuple[str, ...]:
    """The streams of all runs, each once."""
    return tuple(dict.fromkeys(name for run in runs for name in run.scores.streams))


def _group(labels: str, name: str, inside: Sequence[Scored]) -> Group:
    measures = {
        measure: spread(list(values.values()))
        for measure in measure_names(_streams(inside))
        if (values := _by_draw(inside, measure)) is not None
    }
    seconds = [run.scores.seconds for run in inside]
    known = [value for value in seconds if value is not None]
    return Group(
        labels=labels,
        name=name,
        draws=tuple(_draws(inside).values()),
        runs=tuple(run.shown for run in inside),
        measures=measures,
        seconds=statistics.fmean(known) if len(known) == len(seconds) else None,
        computed_on=_distinct([_computed_on(run.scores) for run in inside]),
        # A run that was resumed from another commit names both.
        commits=_distinct([one for run in inside for one in (run.scores.commit or "").split("; ") if one]),
    )


def _computed_on(scores: Scores) -> str | None:
    if scores.device is None:
        return None
    return f"{scores.hardware or scores.device}, {scores.precision}"


def _distinct(values: Sequence[Value | None]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))


def _draws(inside: Sequence[Scored]) -> dict[str, str]:
    """How to call each draw, in the order of their seeds and names."""
    ordered = sorted(inside, key=lambda run: (run.scores.draw or 0, run.scores.split))
    return {
        run.draw: run.scores.split if run.scores.draw is None else str(run.scores.draw) for run in ordered
    }


def _by_draw(inside: Sequence[Scored], measure: str) -> dict[str, float] | None:
    """A measure by draw; None where a run lacks it."""
    values: dict[str, list[float]] = {draw: [] for draw in _draws(inside)}
    for run in inside:
        value = run.scores.measure(measure)
        if value is None:
            return None
        values[run.draw].append(value)
    return {draw: statistics.fmean(found) for draw, found in values.items()}


def _odd_within(inside: Sequence[Scored]) -> list[str]:
    """What a reader should know of one group: draws that repeat, recipes that differ unseen."""
    title, warnings, by_draw = f"{inside[0].labels}, {inside[0].name}", [], defaultdict(list)
    for run in inside:
        by_draw[run.draw].append(run.shown)
    for draw, shown in _draws(inside).items():
        if len(by_draw[draw]) > 1:
            warnings.append(f"{title}: draw {shown} stands {len(by_draw[draw])} times, its mean counts once: "
                            f"{_some(by_draw[draw])}")  # fmt: skip
    if len({run.scores.recipe_digest for run in inside}) > 1:
        warnings.append(f"{title}: recipes differ, or some scores are older and do not say the recipe")
    places = _distinct([_computed_on(run.scores) for run in inside])
    if len(places) > 1:
        warnings.append(f"{title}: computed on different devices: {'; '.join(places)}")
    return warnings


def _named(against: str, names: Sequence[str]) -> str:
    """The group called ``against``, by its whole name, or by the start of it where only one starts so."""
    known = list(dict.fromkeys(names))
    found = [name for name in known if name == against]
    found = found or [name for name in known if re.split("[/ ]", name)[0] == against]
    found = found or [name for name in known if name.startswith(f"{against} ")]
    if len(found) != 1:
        near = suggest(against, [*known, *(name.split("/")[0] for name in known)])
        raise PspError(
            "--against", repr(against), f"one group of {'; '.join(found or known)}",
            near if not found else "Name it whole.",
        )  # fmt: skip
    return found[0]


def _differences(
    members: Mapping[tuple[str, str], Sequence[Scored]], base: str, leave_out: Sequence[str]
) -> tuple[list[Difference], list[str]]:
    differences, warnings = [], []
    for (labels, name), inside in members.items():
        if name in (base, *leave_out):
            continue
        title = f"{labels}, {name} against {base}"
        other = members.get((labels, base), ())
        common = [draw for draw in _draws(inside) if draw in _draws(other)]
        if not common:
            warnings.append(f"{title}: no draw in common, so no difference")
            continue
        alone = [*(set(_draws(inside)) ^ set(_draws(other)))]
        if alone:
            called = {**_draws(inside), **_draws(other)}
            names = ", ".join(sorted(called[draw] for draw in alone))
            warnings.append(f"{title}: over {len(common)} draws that both have, without {names}")
        warnings += _odd_between(title, inside, other)
        ceiling = members.get((re.sub("^[^,]*", ALL_LABELS, labels), base), ())
        differences.append(_difference(labels, name, base, inside, other, common, ceiling))
    return differences, warnings


def _odd_between(title: str, inside: Sequence[Scored], other: Sequence[Scored]) -> list[str]:
    """Training seeds that differ for one draw: then more than the recipe differs in a pair."""
    called = _draws(inside)

    def seeds(runs: Sequence[Scored], draw: str) -> set[int]:
        return {run.scores.seed for run in runs if run.draw == draw}

    odd = [
        called[draw] for draw in called if draw in _draws(other) and seeds(inside, draw) != seeds(other, draw)
    ]
    return [f"{title}: training seeds differ in draws {', '.join(odd)}"] if odd else []


def _difference(
    labels: str,
    name: str,
    base: str,
    inside: Sequence[Scored],
    other: Sequence[Scored],
    common: Sequence[str],
    ceiling: Sequence[Scored],
) -> Difference:
    measures = {}
    for measure in measure_names(_streams(inside)):
        own, theirs = _by_draw(inside, measure), _by_draw(other, measure)
        if own is not None and theirs is not None:
            measures[measure] = spread([own[draw] - theirs[draw] for draw in common])
    called = _draws(inside)
    return Difference(
        labels=labels,
        name=name,
        against=base,
        draws=tuple(called[draw] for draw in common),
        measures=measures,
        closed=_closed(inside, other, common, ceiling),
    )


def _closed(
    inside: Sequence[Scored], other: Sequence[Scored], common: Sequence[str], ceiling: Sequence[Scored]
) -> float | None:
    """The share of the gap from ``other`` to ``ceiling`` that ``inside`` closes, of mean top-1.

    None where there is no ceiling, or no gap that can be told from none: twice its standard error or less.
    """
    own, theirs, most = (_by_draw(runs, "top1") or {} for runs in (inside, other, ceiling))
    if not most or ceiling is other:
        return None
    base, top = spread([theirs[draw] for draw in common]), spread(list(most.values()))
    gap = top.mean - base.mean
    if gap <= 2 * math.hypot(base.error or 0, top.error or 0):
        return None
    return (statistics.fmean(own[draw] for draw in common) - base.mean) / gap
