"""``psptool prepare``: raw recordings to one HDF5 file."""

from __future__ import annotations

import shlex
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from psptool.cli.console import (
    choice,
    examples,
    note,
    say_json,
    table,
    warn,
    warn_of_lost,
)
from psptool.cli.newest import DATASET, make_newest
from psptool.cli.progress import ProgressReport
from psptool.cli.split import suggest_split
from psptool.common.errors import PspError
from psptool.common.text import counted
from psptool.skeletons.keys import NO_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psptool.preparation.pipeline import Estimate, Preparation
    from psptool.schemas.builtin import Given
    from psptool.schemas.dataset import PreparationSettings
    from psptool.schemas.description import DatasetDescription
    from psptool.schemas.report import LeftOut, PreparationReport

EXAMPLES = examples(
    "psptool prepare ntu --raw nturgbd_skeletons_s001_to_s017.zip",
    "psptool prepare ucla --raw all_sqe --align released --out released/ucla.h5",
    "psptool prepare mine.yaml --raw recordings --dry-run",
)

MOST_REASONS = 10
"""The number of reasons that the table lists."""


def prepare(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="ntu, ucla or a YAML description."),
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", help="More raw data, as with --raw.")
    ] = None,
    raw: Annotated[
        list[Path] | None, typer.Option(help="Folder, zip or tar archive, or file; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default in data/.")] = None,
    align: Annotated[
        str | None,
        typer.Option(help="Axes: body (default), robust, released (original) or none."),
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; by default one per core.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to use.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on a malformed clip.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Prepare again even if nothing changed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and estimate; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert raw recordings into one HDF5 dataset."""
    from psptool.preparation import pipeline
    from psptool.schemas import builtin

    sources = [*(raw or ()), *(more or ())]
    if not sources:
        raise PspError("--raw", "no path", "a folder, zip or tar archive of recordings", "Give --raw PATH.")
    settings, workers = _settings(dataset, align), _workers(jobs)
    try:
        if dry_run:
            estimate = pipeline.estimate(
                dataset, sources, out, settings, jobs=workers, on_message=note, on_warning=warn
            )
            _tell_estimate(estimate, as_json)
            return
        done = run_preparation(
            dataset, sources, out, settings, jobs=workers, scheduler=scheduler, strict=strict, force=force
        )
    except PspError as error:
        raise _other_dataset(builtin.find_datasets(dataset), sources, settings) or error from None
    if done.current:
        note(f"{done.path}: already current; --force prepares it again")
        make_newest(DATASET, done.path)
    _tell(done, as_json)


def _other_dataset(
    datasets: Sequence[DatasetDescription], sources: Sequence[Path], settings: PreparationSettings
) -> PspError | None:
    """The error for recordings of another dataset than the one named; None where that is not what is wrong."""
    from psptool.preparation import raw_input
    from psptool.schemas import builtin

    def clips_of(some: Sequence[DatasetDescription]) -> int:
        with suppress(PspError):
            return len(raw_input.find_raw_input(some, sources, settings).clips)
        return 0

    if clips_of(datasets):
        return None
    paths = shlex.join(map(str, sources))
    names = {one.name for one in datasets}
    for other in builtin.choices():
        found = builtin.datasets_named(other)
        clips = 0 if names & {one.name for one in found} else clips_of(found)
        if clips:
            return PspError(
                f"{paths}: not recordings of {datasets[0].title or datasets[0].name}",
                f"{counted(clips, 'clip')} of {found[0].title}",
                fix=f"Run psptool prepare {other} --raw {paths}",
            )
    return None


def run_preparation(
    dataset: Given,
    sources: Sequence[Path],
    out: Path | None = None,
    settings: PreparationSettings | None = None,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    strict: bool = False,
    force: bool = False,
) -> Preparation:
    """Prepare with progress on stderr; as `pipeline.prepare`, but jobs None means all cores."""
    from psptool.preparation import pipeline

    with ProgressReport("preparing", "clips") as report:
        return pipeline.prepare(
            dataset,
            sources,
            out,
            settings,
            jobs=_workers(jobs),
            scheduler=scheduler,
            strict=strict,
            force=force,
            progress=report,
            on_message=note,
            on_warning=warn,
        )


def _settings(dataset: Given, align: str | None) -> PreparationSettings:
    from psptool.preparation.pipeline import settings_for
    from psptool.schemas.dataset import Align

    chosen = None if align is None else choice(align, get_args(Align), "--align")
    return settings_for(dataset, cast("Align | None", chosen))


def _workers(jobs: int | None) -> int:
    import joblib

    if jobs is not None and jobs < 1:
        raise PspError("--jobs", str(jobs), "at least 1 worker")
    return jobs or int(joblib.cpu_count())


def _reasons(left_out: Sequence[LeftOut]) -> dict[str, int]:
    return dict(Counter(clip.reason for clip in left_out).most_common())


def _rules(report: PreparationReport) -> dict[str, int]:
    """The number of body tracks that each rule joined or dropped."""
    return dict(Counter(note.rule for note in report.notes if note.rule is not None).most_common())


def _tell(done: Preparation, as_json: bool) -> None:
    report, counts = done.report, done.report.counts
    if counts.quarantined:
        clips = counted(counts.quarantined, "clip")
        warn(f"{clips} excluded (malformed); {done.report_path} gives the reason for each")
    warn_of_lost(_lost(report.skipped), str(done.report_path))
    rate = None if done.current else round(report.found / max(done.seconds, 1e-9), 1)
    if as_json:
        say_json(
            {
                "file": str(done.path),
                "report": str(done.report_path),
                "current": done.current,
                "dataset": report.dataset,
                "read": report.found,
                **counts.model_dump(),
                "tracks_by_rule": _rules(report),
                "repeated": report.repeated,
                "skipped_by_reason": _reasons(report.skipped),
                "quarantined_by_reason": _reasons(report.quarantined),
                "clips_per_second": rate,
            }
        )
        return
    rows: list[tuple[str, object]] = [("read", report.found), ("kept", counts.clips)]
    rows += [("  without a label", counts.unlabelled)] if counts.unlabelled else []
    rows += [("skipped", counts.skipped), *_indented(report.skipped)]
    rows += [("excluded (malformed)", counts.quarantined), *_indented(report.quarantined)]
    rows += [("identical copies", report.repeated)] if report.repeated else []
    rows += [("tracks joined", counts.joined_tracks), ("tracks dropped", counts.dropped_tracks)]
    rows += [(f"  {rule}", number) for rule, number in _rules(report).items() if rule != "joined"]
    rows += [("interpolated joints", counts.interpolated_joints)] if counts.interpolated_joints else []
    rows += [("duplicate pairs", counts.duplicates), ("frames", counts.frames)]
    rows += [("clips/s", rate)] if rate is not None else []
    table(str(done.path), rows)
    suggest_split(done.path)


def _lost(skipped: Sequence[LeftOut]) -> list[str]:
    from psptool.formats.readers.sources import LOST

    return [one.source for one in skipped if one.reason in LOST]


def _indented(left_out: Sequence[LeftOut]) -> list[tuple[str, object]]:
    reasons = list(_reasons(left_out).items())
    shown, others = reasons[:MOST_REASONS], reasons[MOST_REASONS:]
    if others:
        shown.append((counted(len(others), "other reason"), sum(number for _, number in others)))
    return [(f"  {reason}", number) for reason, number in shown]


def _tell_estimate(found: Estimate, as_json: bool) -> None:
    gathered = found.raw_input
    unlabelled = sum(copies[0].key.label == NO_LABEL for copies in gathered.clips)
    warn_of_lost(_lost(gathered.skipped))
    if as_json:
        say_json(
            {
                "file": str(found.path),
                "current": found.current,
                "dataset": gathered.dataset.name,
                "read": gathered.found,
                "clips": len(gathered.clips),
                "unlabelled": unlabelled,
                "skipped_by_reason": _reasons(gathered.skipped),
                "raw_bytes": gathered.raw_bytes,
                "file_bytes": found.file_bytes,
                "seconds": found.seconds,
                "sample": found.sample,
                "sample_quarantined": found.quarantined,
            }
        )
        return
    rows: list[tuple[str, object]] = [("read", gathered.found), ("to prepare", len(gathered.clips))]
    rows += [("  without a label", unlabelled)] if unlabelled else []
    rows += [("skipped", len(gathered.skipped)), *_indented(gathered.skipped)]
    rows += [(f"malformed, of {found.sample} tried", found.quarantined)]
    rows += [("raw files, MB", round(gathered.raw_bytes / 1e6, 1))]
    if found.file_bytes is not None and found.seconds is not None:
        rows += [("dataset, MB (estimate)", round(found.file_bytes / 1e6, 1))]
        rows += [("time, s (estimate)", round(found.seconds, 1))]
    table(f"{found.path} (not written: --dry-run)", rows)
    note(f"{found.path}: already current" if found.current else "Next: the same without --dry-run")
