"""From raw files to a prepared dataset and its report, clip by clip, in parallel, whole or not at all.

Order of events at the end: the dataset's bytes are put on the disk under a temporary name, the report takes
its name, then the dataset takes its own. A kill leaves the old dataset or the whole new one; a report whose
content fingerprint is not its dataset's shows that the run must be done again, and the next one does it.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from psptool.common.atomic_write import link_target
from psptool.common.errors import PspError
from psptool.data.store.reading import open_store
from psptool.data.store.writing import StoreWriter
from psptool.preparation.parallel import Workers, run_ordered
from psptool.preparation.raw_input import Kind, RawInput, find_raw_input
from psptool.preparation.report import ReportBuilder, make_manifest, make_report
from psptool.preparation.sampling import check_disk, take_sample
from psptool.preparation.worker import prepare_task, tasks
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.report import LeftOut, PreparationReport

ProgressCallback = Callable[[int, int], None]
"""Called with clips done and clips in all."""

DEFAULT_FOLDER = Path("data")
WORTH_WORKERS = 3.0
"""Seconds of one core's work below which starting worker processes takes longer than they save."""


@dataclass(frozen=True)
class Preparation:
    """What a preparation came to.

    Attributes:
        path: The dataset.
        report_path: Its report, which stands beside it.
        report: The report.
        current: The dataset was current already, and nothing was done.
        seconds: The preparation's time; of all work but the listing of the raw files.
        raw_bytes: Bytes of the raw files.
    """

    path: Path
    report_path: Path
    report: PreparationReport
    current: bool
    seconds: float
    raw_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What a preparation would do, from a sample of the clips.

    Attributes:
        path: The dataset it would write.
        raw_input: Clips to prepare and to skip.
        current: It would do nothing, as the dataset is current.
        file_bytes: Bytes of the dataset; None where no clip of the sample could be used.
        seconds: On this machine; None likewise.
        quarantined: Clips of the sample that could not be used.
        sample: Clips in the sample.
    """

    path: Path
    raw_input: RawInput
    current: bool
    file_bytes: int | None
    seconds: float | None
    quarantined: int
    sample: int


def prepare(
    kind: Kind,
    raw: Sequence[Path],
    out: Path | None = None,
    settings: PreparationSettings | None = None,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    workers: Workers | None = None,
    strict: bool = False,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> Preparation:
    """Prepare raw recordings.

    Args:
        kind: ``ntu`` or ``ucla``.
        raw: Folders, zip archives and files.
        out: The dataset's file; ``data/<dataset>.h5`` where None.
        settings: How clips are treated; the defaults where None.
        jobs: Workers on this machine. The file is the same for any number.
        scheduler: Address of a Dask scheduler whose workers are taken in their place.
        workers: Threads or processes; where None, processes, and none where one core takes less than
            `WORTH_WORKERS` seconds.
        strict: Take a clip that cannot be used for an error, and write nothing.
        force: Prepare again though the dataset is current.
        progress: Is told after every few clips.

    Raises:
        PspError: There is nothing usable; two recordings of one name differ; a file cannot be read or
        written, or
            the disk is too small; a worker was lost; ``strict`` and a clip cannot be used. No file is then
            changed.
    """
    settings = settings or PreparationSettings()
    raw_input = find_raw_input(kind, raw, settings)
    path = _out(out, raw_input)
    report_path = report_beside(path)
    report = None if force else _current_report(path, raw_input)
    began = time.perf_counter()
    if report is not None:
        _check_strict(strict, path, report.quarantined)
        return Preparation(path, report_path, report, True, time.perf_counter() - began, raw_input.raw_bytes)
    make_folder(path)
    needed, estimated = take_sample(raw_input, settings).scaled_to(raw_input)
    check_disk(path, needed)
    if workers is None and (estimated or 0.0) < WORTH_WORKERS:
        jobs = 1
    # Processes that outlive a preparation keep the working directory that they were started in.
    folder = str(Path.cwd()) if scheduler or (jobs > 1 and workers != "threads") else ""
    function = partial(prepare_task, reader=raw_input.reader, settings=settings, folder=folder)
    outcomes = run_ordered(function, tasks(raw_input.clips), jobs, workers or "processes", scheduler)
    with StoreWriter(path, raw_input.dataset.topology.size) as writer, contextlib.closing(outcomes):
        builder = ReportBuilder()
        for outcome in (outcome for task in outcomes for outcome in task):
            builder.add(outcome)
            writer.add(outcome.packed)
            if progress is not None:
                progress(builder.done, len(raw_input.clips))
        _check_strict(strict, path, builder.quarantined)
        _check_any(writer, builder)
        manifest = make_manifest(raw_input, settings, writer, builder)
        report = make_report(raw, raw_input, settings, manifest, builder)
        writer.close(manifest)
        report.save(report_path)
        writer.commit()
    return Preparation(path, report_path, report, False, time.perf_counter() - began, raw_input.raw_bytes)


def estimate(
    kind: Kind,
    raw: Sequence[Path],
    out: Path | None = None,
    settings: PreparationSettings | None = None,
    *,
    jobs: int = 1,
) -> Estimate:
    """What `prepare` with these arguments would do; writes nothing.

    Raises:
        PspError: There is no clip in the raw files, or one cannot be read.
    """
    settings = settings or PreparationSettings()
    raw_input = find_raw_input(kind, raw, settings)
    path = _out(out, raw_input)
    sample = take_sample(raw_input, settings)
    size, seconds = sample.scaled_to(raw_input)
    current = _current_report(path, raw_input) is not None
    return Estimate(
        path, raw_input, current, size, None if seconds is None else seconds / jobs, sample.bad, sample.clips
    )


def report_beside(path: Path) -> Path:
    """Where the report of the dataset ``path`` stands."""
    return path.with_name(f"{path.stem}.report.json")


def _out(out: Path | None, raw_input: RawInput) -> Path:
    return out if out is not None else DEFAULT_FOLDER / f"{raw_input.dataset.name}.h5"


def _current_report(path: Path, raw_input: RawInput) -> PreparationReport | None:
    """The report of the dataset at ``path`` where both are whole and come from the same input; else None."""
    try:
        report = PreparationReport.load(report_beside(path))
        if report.input_digest != raw_input.digest:
            return None
        with open_store(path) as store:
            same = store.manifest.fingerprints.content == report.content_fingerprint
    except PspError:
        return None
    return report if same else None


def _check_strict(strict: bool, path: Path, quarantined: Sequence[LeftOut]) -> None:
    if strict and quarantined:
        raise PspError(
            f"{path}: not written, as --strict was given and {_of(quarantined)} cannot be used",
            quarantined[0].detail,
            fix="Mend or remove these recordings, or leave out --strict.",
        )


def _check_any(writer: StoreWriter, builder: ReportBuilder) -> None:
    if writer.clips:
        return
    what = _of(builder.quarantined) if builder.quarantined else "0 clips"
    first = (
        builder.quarantined[0].detail if builder.quarantined else "every clip is on the missing-skeleton list"
    )
    raise PspError(f"nothing usable in the raw files: {what}", first, fix="Check --raw.")


def _of(left_out: Sequence[LeftOut]) -> str:
    reasons = Counter(clip.reason for clip in left_out)
    return f"{len(left_out)} clips ({', '.join(f'{n} {reason}' for reason, n in reasons.most_common())})"


def make_folder(path: Path) -> None:
    """Make the folder of the dataset ``path``.

    Raises:
        PspError: It cannot be made, or a link leads nowhere.
    """
    link_target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PspError(
            f"{path.parent}: cannot be made ({error.strerror or error})",
            fix="Choose another place with --out.",
        ) from error
