"""Runs that did not reach their end: where a training asked for stands already, and what keeps it from resuming."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal

from psptool.common.errors import PspError
from psptool.common.paths import newest_first
from psptool.schemas.run import RunConfig
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.state import read_state

Resume = Literal["off", "required", "auto"]


@dataclass(frozen=True)
class RunSlot:
    """Where a training writes, and from where it resumes.

    Attributes:
        folder: The run's folder.
        config: The run's; where it resumes, as the run began, with the checkpoint interval that is asked for now.
        state: What ``resume.pt`` holds; None where the training begins with its first step.
        finished: The training has been there and reached its end.
        passed_by: Newest first, unfinished runs of the same split, method and preset that another identity, or another
            process, keeps from being resumed, and why.
        unreadable: Folders with a ``resume.pt`` whose configuration cannot be read, and why.
        held: Keeps other processes out of the folder while it is open.
    """

    folder: RunFolder
    config: RunConfig
    state: bytes | None = None
    finished: bool = False
    passed_by: tuple[tuple[Path, str], ...] = ()
    unreadable: tuple[tuple[Path, str], ...] = ()
    held: IO[bytes] | None = None


def differences(there: RunConfig, asked: RunConfig, precisions: Collection[str]) -> list[str]:
    """What keeps the run ``there`` from being resumed as ``asked``, a line each: how their identities differ.

    Args:
        there: The run.
        asked: The training asked for. Where its recipe leaves the precision to the device (``auto``), the run's own
            precision holds.
        precisions: Those that the device computes in.
    """
    old, new = there.identity(), asked.identity()
    if asked.training.precision == "auto":
        new["precision"] = there.precision
    found = [
        f"{key.removeprefix('training.')} is {_short(old.get(key))} there, {_short(new.get(key))} here"
        for key in old | new
        if old.get(key) != new.get(key)
    ]
    if not found and there.precision not in precisions:
        found.append(f"precision is {there.precision} there, which {asked.latest.computed_on} cannot compute")
    return found


def resolve_run(
    config: RunConfig,
    out: Path | None,
    runs: Path,
    resume: Resume,
    precisions: Collection[str] = ("float32", "bfloat16"),
) -> RunSlot:
    """Choose the run's folder, and lock it before anything is written.

    ``off`` makes a new one. ``required`` resumes a run: the one in ``out``, or else the newest unfinished run in
    ``runs`` with this very identity. ``auto`` does the same where there is one, and makes a new one otherwise.

    Args:
        config: Of the training asked for.
        out: The folder, where it is given.
        runs: Where runs lie.
        resume: See above.
        precisions: Those that the device computes in.

    Raises:
        PspError: There is nothing to resume (``required``); the run in ``out`` has another identity, whose
            differences the error lists, a damaged configuration, or is in other hands; a folder cannot be made.
    """
    if resume != "off" and out is not None and (resume == "auto" or RunFolder(out).config.exists()):
        return _in_named(RunFolder(out), config, resume, precisions)
    passed_by: list[tuple[Path, str]] = []
    unreadable: list[tuple[Path, str]] = []
    candidates = newest_first(runs.glob("*/resume.pt")) if resume != "off" and out is None else []
    for folder, there in _unfinished(candidates, config, unreadable):
        reasons = differences(there, config, precisions)
        if not reasons:
            try:
                place = _in_named(folder, config, "required", precisions)
                return replace(place, passed_by=tuple(passed_by), unreadable=tuple(unreadable))
            except PspError as error:  # In other hands, or finished since.
                reasons = [error.what.removeprefix(f"{folder.path}: ")]
        passed_by.append((folder.path, "; ".join(reasons)))
    if resume == "required":
        raise PspError(
            f"--resume required: {out or runs} has no unfinished run of this training",
            found="; ".join(f"{path}: {reason}" for path, reason in passed_by[:1] + unreadable) or None,
            fix="Name the run's folder with --out, or begin one without --resume required.",
        )
    folder, held = RunFolder.create(config, out, runs)
    return RunSlot(folder, config, passed_by=tuple(passed_by), unreadable=tuple(unreadable), held=held)


def _in_named(folder: RunFolder, config: RunConfig, resume: Resume, precisions: Collection[str]) -> RunSlot:
    """The run in a folder that was named, or a new one there."""
    # What another training made is refused without a word on who is training there.
    if folder.config.exists():
        _check_same(folder, config, precisions)
    held = folder.claim()
    try:
        # Again, now that no other process can change it.
        if not folder.config.exists():
            config.save(folder.config)
            return RunSlot(folder, config, held=held)
        there = _check_same(folder, config, precisions)
        return _there(folder, there, config, resume, held)
    except BaseException:
        held.close()
        raise


def _check_same(folder: RunFolder, config: RunConfig, precisions: Collection[str]) -> RunConfig:
    there = RunConfig.load(folder.config)
    reasons = differences(there, config, precisions)
    if reasons:
        raise PspError(
            f"{folder.path}: a run of another training",
            "; ".join(reasons),
            fix="Name a new folder with --out, or give the same options as for that run.",
        )
    return there


def _there(
    folder: RunFolder, there: RunConfig, config: RunConfig, resume: Resume, held: IO[bytes]
) -> RunSlot:
    """Where a run stands, that nobody else is training."""
    if folder.finished and resume == "auto":
        return RunSlot(folder, there, finished=True, held=held)
    if folder.resume.exists() and not folder.finished:
        every = {"checkpoint_every": config.training.checkpoint_every}
        resumed = there.model_copy(update={"training": there.training.model_copy(update=every)})
        return RunSlot(folder, resumed, folder.resume.read_bytes(), held=held)
    if resume == "required":
        if folder.finished:
            raise PspError(
                f"{folder.path}: trained to its end already",
                fix=f"Take it as it is: psptool evaluate {folder.path}.",
            )
        raise PspError(
            f"{folder.path}: nothing to resume",
            found=f"no {folder.resume.name}: the run stopped before its first checkpoint",
            fix="Begin again in the same folder without --resume required.",
        )
    folder.restart(config)
    return RunSlot(folder, config, held=held)


def _unfinished(
    states: list[Path], config: RunConfig, unreadable: list[tuple[Path, str]]
) -> Iterator[tuple[RunFolder, RunConfig]]:
    """Unfinished runs of the same split, method and preset; those that cannot be read are put in ``unreadable``."""
    for folder in (RunFolder(path.parent) for path in states):
        try:
            there = RunConfig.load(folder.config)
        except PspError as error:
            # A folder that vanished meanwhile was nobody's.
            if folder.resume.exists() and not folder.finished:
                unreadable.append((folder.path, error.what.removeprefix(f"{folder.path}/")))
            continue
        if not folder.finished and _kind(there) == _kind(config):
            yield folder, there


def find_weights(folder: RunFolder, config: RunConfig, which: Literal["last", "best"]) -> Path:
    """The file of a run's weights.

    Raises:
        PspError: It does not exist; says whether the run is being trained, was interrupted and at which step, or has
            no such weights.
    """
    path = folder.weights(which)
    if path.is_file():
        return path
    if folder.finished:
        raise PspError(
            f"{path}: there is no such file",
            fix="Leave out --weights best: there are best weights only where the split has validation clips.",
        )
    if folder.in_use:
        raise PspError(f"{folder.path}: is being trained", fix="Wait for its end.")
    again = f"psptool train --resume {{}} --out {shlex.quote(str(folder.path))}"
    if not folder.resume.exists():
        raise PspError(
            f"{folder.path}: Interrupted before its first checkpoint",
            fix=f"Begin again: {again.format('auto')}",
        )
    step = read_state(folder.resume.read_bytes(), str(folder.resume))["step"]
    raise PspError(
        f"{folder.path}: Interrupted at step {step} of {config.training.optim.steps}",
        fix=f"Resume: {again.format('required')}",
    )


def _kind(config: RunConfig) -> tuple[str, str, str]:
    return config.split_digest, config.training.method, config.training.preset


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
