"""``psptool prepare``: raw recordings to one HDF5 file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from psptool.cli.console import (
    choice,
    examples,
    next_step,
    note,
    say_json,
    table,
    warn,
    warn_of_lost,
)
from psptool.cli.progress import ProgressReport
from psptool.common.errors import PspError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psptool.preparation.gathering import Kind
    from psptool.preparation.pipeline import Estimate, Preparation
    from psptool.schemas.dataset import PreparationSettings
    from psptool.schemas.report import LeftOut, PreparationReport

EXAMPLES = examples(
    "psptool prepare ntu --raw nturgbd_skeletons_s001_to_s017.zip",
    "psptool prepare ucla --raw all_sqe --align released --out data/released.h5",
    "psptool prepare ntu --raw nturgb+d_skeletons --dry-run",
)


def prepare(
    kind: Annotated[str, typer.Argument(metavar="ntu|ucla", help="What the recordings are.")],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Further paths, as after --raw.")
    ] = None,
    raw: Annotated[
        list[Path] | None, typer.Option(help="A folder, zip or tar archive or file to read; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default named in data/.")] = None,
    align: Annotated[
        str,
        typer.Option(help="Axes: body (default), released (as its code) or none.", show_default=False),
    ] = "body",
    jobs: Annotated[int | None, typer.Option(help="Workers; by default one for each core.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to work on.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A clip that cannot be used is an error.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Prepare again what is current.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and estimate; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn raw recordings into one file of joints and motion."""
    from psptool.preparation import gathering, pipeline

    chosen = cast("Kind", choice(kind, get_args(gathering.Kind), "dataset"))
    sources = [*(raw or ()), *(more or ())]
    if not sources:
        raise PspError("--raw", "no path", "a folder, zip or tar archive of recordings", "Say --raw PATH.")
    settings, workers = _settings(align), _workers(jobs)
    if dry_run:
        _tell_estimate(pipeline.estimate(chosen, sources, out, settings, jobs=workers), as_json)
        return
    done = run_preparation(
        chosen, sources, out, settings, jobs=workers, scheduler=scheduler, strict=strict, force=force
    )
    _tell(done, as_json, default=out is None)


def run_preparation(
    kind: Kind,
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
            kind,
            sources,
            out,
            settings,
            jobs=_workers(jobs),
            scheduler=scheduler,
            strict=strict,
            force=force,
            progress=report,
        )


def _settings(align: str) -> PreparationSettings:
    from psptool.schemas.dataset import Align, PreparationSettings

    return PreparationSettings(align=cast(Align, choice(align, get_args(Align), "--align")))


def _workers(jobs: int | None) -> int:
    import joblib

    if jobs is not None and jobs < 1:
        raise PspError("--jobs", str(jobs), "at least 1 worker")
    return jobs or int(joblib.cpu_count())


def _reasons(left_out: Sequence[LeftOut]) -> dict[str, int]:
    return dict(Counter(clip.reason for clip in left_out).most_common())


def _rules(report: PreparationReport) -> dict[str, int]:
    """How many body tracks each rule joined or dropped."""
    return dict(Counter(note.rule for note in report.notes if note.rule is not None).most_common())


def _tell(done: Preparation, as_json: bool, default: bool) -> None:
    report, counts = done.report, done.report.counts
    if done.current:
        note(f"{done.path}: already current; --force prepares it again")
    if counts.quarantined:
        what = "1 clip was" if counts.quarantined == 1 else f"{counts.quarantined} clips were"
        warn(f"{what} quarantined; {done.report_path} names each with its reason")
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
    rows += [("skipped", counts.skipped), *_indented(report.skipped)]
    rows += [("quarantined", counts.quarantined), *_indented(report.quarantined)]
    rows += [("further copies", report.repeated)] if report.repeated else []
    rows += [("tracks joined", counts.joined_tracks), ("tracks dropped", counts.dropped_tracks)]
    rows += [(f"  {rule}", number) for rule, number in _rules(report).items() if rule != "joined"]
    rows += [("missing joints filled", counts.interpolated_joints)] if counts.interpolated_joints else []
    rows += [("duplicate pairs", counts.duplicates), ("frames", counts.frames)]
    rows += [("clips a second", rate)] if rate is not None else []
    table(str(done.path), rows)
    next_step("psptool split --ratio 0.05" + ("" if default else f" --data {done.path}"))


def _lost(skipped: Sequence[LeftOut]) -> list[str]:
    from psptool.formats.readers.sources import LOST

    return [one.source for one in skipped if one.reason in LOST]


def _indented(left_out: Sequence[LeftOut]) -> list[tuple[str, object]]:
    return [(f"  {reason}", number) for reason, number in _reasons(left_out).items()]


def _tell_estimate(found: Estimate, as_json: bool) -> None:
    gathered = found.gathered
    warn_of_lost(_lost(gathered.skipped))
    if as_json:
        say_json(
            {
                "file": str(found.path),
                "current": found.current,
                "dataset": gathered.dataset.name,
                "read": gathered.found,
                "clips": len(gathered.clips),
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
    rows += [("skipped", len(gathered.skipped)), *_indented(gathered.skipped)]
    rows += [(f"of {found.sample} tried unusable", found.quarantined)]
    rows += [("raw files, MB", round(gathered.raw_bytes / 1e6, 1))]
    if found.file_bytes is not None and found.seconds is not None:
        rows += [("dataset, about MB", round(found.file_bytes / 1e6, 1))]
        rows += [("time, about seconds", round(found.seconds, 1))]
    table(f"{found.path} (not written: --dry-run)", rows)
    note(f"{found.path}: already current" if found.current else "Next: the same without --dry-run")
