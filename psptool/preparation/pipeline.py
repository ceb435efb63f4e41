"""The preparation: from raw files to a dataset and its report, in parallel and atomically.

At the end, dataset and report are flushed to disk under temporary names. Then the dataset is renamed, and then the
report, so there is never a report without its dataset. If the process is killed, the old dataset or the complete new
one remains. If it is killed between the last two steps, the old report is missing or its content fingerprint is not
that of the dataset, and the next preparation runs again.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from psptool.common.atomic_write import link_target, write_together
from psptool.common.disk import check_disk
from psptool.common.errors import PspError, system_message
from psptool.common.text import counted
from psptool.data.store.reading import open_store
from psptool.data.store.writing import StoreWriter
from psptool.preparation.compiling import MessageCallback, load_kernels
from psptool.preparation.parallel import run_ordered
from psptool.preparation.raw_input import RawInput, empty_class_warnings, find_raw_input, unlisted_notes
from psptool.preparation.replacement import OTHER_CONTENT, ReplacedDataset, replacement_warnings
from psptool.preparation.report import ReportBuilder, make_manifest, make_report
from psptool.preparation.sampling import check_copies, take_sample
from psptool.preparation.worker import prepare_task, tasks
from psptool.schemas.builtin import Given, find_datasets
from psptool.schemas.dataset import Align, PreparationSettings
from psptool.schemas.description import DatasetDescription
from psptool.schemas.report import LeftOut, PreparationReport
from psptool.skeletons.keys import NO_LABEL

ProgressCallback = Callable[[int, int], None]
"""A function called with the number of clips done and the number of all clips."""

DEFAULT_FOLDER = Path("data")
WORTH_WORKERS = 3.0
"""Estimated seconds on one core below which worker processes take longer to start than they save."""


@dataclass(frozen=True)
class Preparation:
    """The result of a preparation.

    Attributes:
        path: The dataset.
        report_path: The report, in the same folder.
        report: The content of the report.
        current: Whether the dataset was up to date and nothing was written.
        seconds: Duration in seconds, without listing the raw files.
        raw_bytes: Size of the raw files in bytes.
    """

    path: Path
    report_path: Path
    report: PreparationReport
    current: bool
    seconds: float
    raw_bytes: int


@dataclass(frozen=True)
class Estimate:
    """An estimate of a preparation, from a sample of the clips.

    Attributes:
        path: The dataset that would be written.
        raw_input: Clips to prepare and to skip.
        current: Whether the dataset is up to date and nothing would be written.
        file_bytes: Size of the dataset in bytes; None if no clip of the sample is usable.
        seconds: Duration on this machine; None if no clip of the sample is usable.
        quarantined: Number of malformed clips in the sample.
        sample: Number of clips in the sample.
    """

    path: Path
    raw_input: RawInput
    current: bool
    file_bytes: int | None
    seconds: float | None
    quarantined: int
    sample: int


def prepare(
    dataset: Given,
    raw: Sequence[Path],
    out: Path | None = None,
    settings: PreparationSettings | None = None,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    strict: bool = False,
    force: bool = False,
    progress: ProgressCallback | None = None,
    on_message: MessageCallback | None = None,
    on_warning: MessageCallback = lambda warning: None,
) -> Preparation:
    """Prepare raw recordings.

    Args:
        dataset: The name of a built-in dataset or of a group, a YAML file, or a description.
        raw: Folders, archives and files.
        out: The dataset's file; ``data/<dataset>.h5`` if None.
        settings: Settings of the preparation; the defaults if None.
        jobs: Number of processes. One is used if it needs less than about `WORTH_WORKERS` seconds. The file does not
            depend on it.
        scheduler: Address of a Dask scheduler whose workers are used instead of local ones.
        strict: Raise an error for a malformed clip, and write nothing.
        force: Prepare again even if the dataset is up to date.
        progress: Called after every batch of clips.
        on_message: Called with a message before functions are compiled, which happens once per machine, and with one
            for each protocol of which clips are in neither list.
        on_warning: Called with each warning, before the first clip.

    Raises:
        PspError: No clip is usable; two recordings with one clip name differ; a file cannot be read or written; the
            disk is too small; a worker was lost; ``strict`` and a clip is malformed. No file is changed then.
    """
    datasets = find_datasets(dataset)
    settings = settings or settings_for(datasets[-1])
    raw_input = _raw_input(datasets, raw, settings, on_message, on_warning)
    path = _out(out, raw_input)
    report_path = report_beside(path)
    report = None if force else _current_report(path, raw_input)
    began = time.perf_counter()
    if report is not None:
        _check_strict(strict, path, report.quarantined)
        return Preparation(path, report_path, report, True, time.perf_counter() - began, raw_input.raw_bytes)
    replaced = ReplacedDataset.read(path, report_path)
    warnings = replacement_warnings(replaced, raw_input, settings)
    for warning in warnings:
        on_warning(warning)
    make_folder(path)
    load_kernels(raw_input.reader, jobs, on_message)
    sample = take_sample(raw_input, settings)
    for warning in sample.warnings:
        on_warning(warning)
    needed, estimated = sample.scaled_to(raw_input)
    check_disk(path, needed)
    if (estimated or 0.0) < WORTH_WORKERS:
        jobs = 1
    # Reused worker processes keep the working directory in which they were started.
    folder = str(Path.cwd()) if scheduler or jobs > 1 else ""
    function = partial(prepare_task, reader=raw_input.reader, settings=settings, folder=folder)
    outcomes = run_ordered(function, tasks(raw_input.clips), jobs, scheduler)
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
        report = make_report(raw, raw_input, settings, manifest, builder, raw_input.copies)
        writer.close(manifest)
        write_together({report_path: report.dump()}, first=writer.commit)
    if replaced is not None and not warnings and replaced.content != manifest.fingerprints.content:
        on_warning(f"{path}: replaced by other recordings or labels of the same names; {OTHER_CONTENT}")
    return Preparation(path, report_path, report, False, time.perf_counter() - began, raw_input.raw_bytes)


def _raw_input(
    datasets: Sequence[DatasetDescription],
    raw: Sequence[Path],
    settings: PreparationSettings,
    on_message: MessageCallback | None,
    on_warning: MessageCallback,
) -> RawInput:
    """As `find_raw_input`, with a message for each protocol of which clips are in neither list, and warnings."""
    raw_input = find_raw_input(datasets, raw, settings)
    for warning in empty_class_warnings(raw_input):
        on_warning(warning)
    if on_message is not None:
        with_label = [copies[0].name for copies in raw_input.clips if copies[0].key.label != NO_LABEL]
        for text in unlisted_notes(raw_input.dataset, with_label):
            on_message(text)
    return raw_input


def settings_for(dataset: Given, align: Align | None = None) -> PreparationSettings:
    """The settings for an alignment; None for the default: ``none`` for 2D skeletons, otherwise ``body``.

    Raises:
        PspError: The clips of a 2D skeleton cannot be rotated out of the plane.
    """
    dataset = find_datasets(dataset)[-1]
    if dataset.topology.dimensions == 3:
        return PreparationSettings(align=align or "body")
    if align not in (None, "none"):
        raise PspError(
            f"--align of {dataset.name}",
            str(align),
            "none: the skeleton has 2 dimensions",
            "Leave out --align.",
        )
    return PreparationSettings(align="none")


def estimate(
    dataset: Given,
    raw: Sequence[Path],
    out: Path | None = None,
    settings: PreparationSettings | None = None,
    *,
    jobs: int = 1,
    on_message: MessageCallback | None = None,
    on_warning: MessageCallback = lambda warning: None,
) -> Estimate:
    """Estimate size and duration of `prepare` with these arguments, without writing.

    Raises:
        PspError: The raw files contain no clip, a file cannot be read, or two recordings of different size have one
            clip name.
    """
    datasets = find_datasets(dataset)
    settings = settings or settings_for(datasets[-1])
    raw_input = _raw_input(datasets, raw, settings, on_message, on_warning)
    path = _out(out, raw_input)
    load_kernels(raw_input.reader, jobs, on_message)
    sample = take_sample(raw_input, settings)
    check_copies(raw_input.clips)
    for warning in sample.warnings:
        on_warning(warning)
    size, seconds = sample.scaled_to(raw_input)
    current = _current_report(path, raw_input) is not None
    if not current:
        replaced = ReplacedDataset.read(path, report_beside(path))
        for warning in replacement_warnings(replaced, raw_input, settings):
            on_warning(warning)
    return Estimate(
        path, raw_input, current, size, None if seconds is None else seconds / jobs, sample.bad, sample.clips
    )


def report_beside(path: Path) -> Path:
    """The path of the report of the dataset ``path``."""
    return path.with_name(f"{path.stem}.report.json")


def _out(out: Path | None, raw_input: RawInput) -> Path:
    return out if out is not None else DEFAULT_FOLDER / f"{raw_input.dataset.name}.h5"


def _current_report(path: Path, raw_input: RawInput) -> PreparationReport | None:
    """The report of the dataset ``path`` if both are valid and were made from the same input; otherwise None."""
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
            f"--strict: {path} was not written, because {_of(quarantined)} cannot be used",
            quarantined[0].detail,
            fix="Correct or remove these recordings, or omit --strict.",
        )


def _check_any(writer: StoreWriter, builder: ReportBuilder) -> None:
    if writer.clips:
        return
    what = _of(builder.quarantined) if builder.quarantined else "0 clips"
    first = (
        builder.quarantined[0].detail if builder.quarantined else "every clip is on the missing-skeleton list"
    )
    raise PspError(f"--raw: no usable clip: {what}", first, fix="Check the paths after --raw.")


def _of(left_out: Sequence[LeftOut]) -> str:
    """The number of excluded clips, in total and by reason, as text."""
    reasons = Counter(clip.reason for clip in left_out)
    listed = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
    return f"{counted(len(left_out), 'clip')} ({listed})"


def make_folder(path: Path) -> None:
    """Create the folder of the dataset ``path``.

    Raises:
        PspError: The folder cannot be created, or a link is broken.
    """
    link_target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PspError(
            f"{path.parent}: cannot be created ({system_message(error)})",
            fix="Choose another path with --out.",
        ) from error
