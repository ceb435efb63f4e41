"""Unfinished runs: the choice of the run folder, and whether a run can be resumed."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from psptool.common.errors import PspError
from psptool.common.paths import newest_first
from psptool.schemas.run import RunConfig
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.state import read_state

Resume = Literal["off", "required", "auto"]


@dataclass(frozen=True)
class RunSlot:
    """The run folder of a training, and the checkpoint it resumes from.

    Attributes:
        folder: The run folder.
        config: The run configuration; that of a resumed run has the requested checkpoint interval.
        state: Content of ``resume.pt``; None if the training starts at step 0.
        finished: Whether the run is already finished.
        skipped: Unfinished runs of the same split, method and preset that cannot be resumed, newest first, each with
            the reason, such as another identity.
        unreadable: Folders with a ``resume.pt`` whose configuration cannot be read, each with the reason.
        held: Open file that holds the lock of the folder.
    """

    folder: RunFolder
    config: RunConfig
    state: bytes | None = None
    finished: bool = False
    skipped: tuple[tuple[Path, str], ...] = ()
    unreadable: tuple[tuple[Path, str], ...] = ()
    held: IO[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to other processes: the lock is an open file and stays in its process."""
        return {**vars(self), "held": None}


def differences(run: RunConfig, requested: RunConfig, precisions: Collection[str]) -> list[str]:
    """Differences between the identity of a run and a requested training that prevent resuming it, one per line.

    Args:
        run: The run.
        requested: The requested training. If its precision is ``auto``, the precision of the run is used.
        precisions: Precisions that the device supports.
    """
    old, new = run.identity(), requested.identity()
    if requested.training.precision == "auto":
        new["precision"] = run.precision
    lines = [
        f"{key.removeprefix('training.')} {_short(old.get(key))} in the run, {_short(new.get(key))} requested"
        for key in old | new
        if old.get(key) != new.get(key)
    ]
    if not lines and run.precision not in precisions:
        lines.append(f"precision {run.precision} in the run, not supported by {requested.latest.computed_on}")
    return lines


def resolve_run(
    config: RunConfig,
    out: Path | None,
    runs: Path,
    resume: Resume,
    precisions: Collection[str] = ("float32", "bfloat16"),
) -> RunSlot:
    """Choose the run folder, and lock it before anything is written.

    ``off`` creates a new folder. ``required`` resumes a run: that in ``out``, or the newest unfinished run in ``runs``
    with the same identity. ``auto`` does the same if there is one; else it restarts the newest run with the same
    identity that stopped before its first checkpoint, and else it creates a new folder.

    Args:
        config: Configuration of the requested training.
        out: The folder, if given.
        runs: The folder of all runs.
        resume: See above.
        precisions: Precisions that the device supports.

    Raises:
        PspError: There is nothing to resume (``required``); the run in ``out`` has another identity or a damaged
            configuration, or another process is training in it; the same training is running in ``runs`` (except for
            ``off``); a folder cannot be created.
    """
    if resume != "off" and out is not None and (resume == "auto" or RunFolder(out).config.exists()):
        return _resolve_folder(RunFolder(out), config, resume, precisions)
    skipped: list[tuple[Path, str]] = []
    unreadable: list[tuple[Path, str]] = []
    candidates: list[Path] = []
    if resume != "off" and out is None:
        candidates = newest_first(runs.glob("*/resume.pt"))
    if resume == "auto" and out is None:
        # A training that was killed before its first checkpoint leaves only its configuration.
        started = newest_first(runs.glob("*/config.json"))
        candidates += [path for path in started if not RunFolder(path.parent).resume.exists()]
    for folder, run in _unfinished(candidates, config, unreadable):
        reasons = differences(run, config, precisions)
        if not reasons:
            try:
                how: Resume = "required" if folder.resume.exists() else "auto"
                slot = _resolve_folder(folder, config, how, precisions)
                if not slot.finished:
                    return replace(slot, skipped=tuple(skipped), unreadable=tuple(unreadable))
                if slot.held is not None:
                    slot.held.close()
            except PspError as error:
                if folder.in_use:
                    raise PspError(
                        f"{folder.path}: this training is already running in this folder",
                        fix="Wait until it has finished. For another one, use --out, --seed or --resume off.",
                    ) from error
                # Another process has finished it meanwhile.
                reasons = [error.what.removeprefix(f"{folder.path}: ")]
        if folder.resume.exists():
            skipped.append((folder.path, "; ".join(reasons)))
    if resume == "required":
        raise PspError(
            f"--resume required: {out or runs} has no unfinished run of this training",
            found="; ".join(f"{path}: {reason}" for path, reason in skipped[:1] + unreadable) or None,
            fix="Choose the run folder with --out, or start a new run without --resume required.",
        )
    folder, held = RunFolder.create(config, out, runs)
    return RunSlot(folder, config, skipped=tuple(skipped), unreadable=tuple(unreadable), held=held)


def _resolve_folder(
    folder: RunFolder, config: RunConfig, resume: Resume, precisions: Collection[str]
) -> RunSlot:
    """The run in ``folder``, or a new run there."""
    # Checked before the lock: a run of another training is that error, whether or not a process is training it.
    if folder.config.exists():
        _require_same_training(folder, config, precisions)
    held = folder.create_and_lock()
    try:
        # Checked again under the lock: no other process can change the folder any more.
        if not folder.config.exists():
            config.save(folder.config)
            return RunSlot(folder, config, held=held)
        run = _require_same_training(folder, config, precisions)
        return _resume_locked(folder, run, config, resume, held)
    except BaseException:
        held.close()
        raise


def _require_same_training(folder: RunFolder, config: RunConfig, precisions: Collection[str]) -> RunConfig:
    """The configuration of the run in ``folder``; a `PspError` if its identity differs from that of ``config``."""
    run = RunConfig.load(folder.config)
    reasons = differences(run, config, precisions)
    if reasons:
        raise PspError(
            f"{folder.path}: the run of another training",
            "; ".join(reasons),
            fix="Choose a new folder with --out, or use the options of that run.",
        )
    return run


def _resume_locked(
    folder: RunFolder, run: RunConfig, config: RunConfig, resume: Resume, held: IO[bytes]
) -> RunSlot:
    """Resume or restart the run in ``folder``, which is locked."""
    if folder.finished and resume == "auto":
        return RunSlot(folder, run, finished=True, held=held)
    if folder.resume.exists() and not folder.finished:
        every = {"checkpoint_every": config.training.checkpoint_every}
        resumed = run.model_copy(update={"training": run.training.model_copy(update=every)})
        return RunSlot(folder, resumed, folder.read_resume(), held=held)
    if resume == "required":
        if folder.finished:
            raise PspError(
                f"{folder.path}: already finished, nothing to resume",
                fix=f"Evaluate the run: psptool evaluate {shlex.quote(str(folder.path))}",
            )
        raise PspError(
            f"{folder.path}: nothing to resume",
            found=f"no {folder.resume.name}: the run stopped before its first checkpoint",
            fix="Restart the training in the same folder without --resume required.",
        )
    folder.restart(config)
    return RunSlot(folder, config, held=held)


def _unfinished(
    states: list[Path], config: RunConfig, unreadable: list[tuple[Path, str]]
) -> Iterator[tuple[RunFolder, RunConfig]]:
    """Unfinished runs of the same split, method and preset; those that cannot be read are added to ``unreadable``."""
    for folder in (RunFolder(path.parent) for path in states):
        try:
            run = RunConfig.load(folder.config)
        except PspError as error:
            # Runs that were removed or finished meanwhile are not reported.
            if folder.resume.exists() and not folder.finished:
                unreadable.append((folder.path, error.what.removeprefix(f"{folder.path}/")))
            continue
        if not folder.finished and _kind(run) == _kind(config):
            yield folder, run


def find_weights(folder: RunFolder, config: RunConfig, which: Literal["last", "best"]) -> Path:
    """The weights file of a run.

    Raises:
        PspError: It does not exist: the run is being trained, was interrupted, or has no such weights.
    """
    path = folder.weights(which)
    if path.is_file():
        return path
    if folder.finished:
        raise PspError(
            f"{path}: there is no such file",
            fix="Omit --weights best: best weights exist only if the split has validation clips.",
        )
    if folder.in_use:
        raise PspError(f"{folder.path}: is being trained", fix="Wait until the training is finished.")
    command = f"psptool train --resume {resume_option(folder)} --out {shlex.quote(str(folder.path))}"
    if not folder.resume.exists():
        raise PspError(f"{folder.path}: interrupted before the first checkpoint", fix=f"Restart: {command}")
    step = read_state(folder.read_resume(), str(folder.resume))["step"]
    raise PspError(
        f"{folder.path}: interrupted at step {step} of {config.training.optim.steps}",
        fix=f"Resume: {command}",
    )


def resume_option(folder: RunFolder) -> Resume:
    """The value of ``--resume`` for an interrupted run: only ``auto`` restarts a run without a checkpoint."""
    return "required" if folder.resume.exists() else "auto"


def _kind(config: RunConfig) -> tuple[str, str, str]:
    """Split, method and preset."""
    return config.split_digest, config.training.method, config.training.preset


def _short(value: object) -> str:
    """The value as text; digests are abbreviated."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
