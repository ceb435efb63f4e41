"""Runs that did not reach their end: where a training asked for stands already, and what keeps it from going on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal

from psptool.errors import PspError
from psptool.runs.folder import RunFolder
from psptool.schemas.base import flat
from psptool.schemas.run import RunConfig

Resume = Literal["off", "required", "auto"]

_FREE = (
    *("data_path", "split_path", "split_name", "clips_on"),
    *("training.checkpoint_every", "training.precision", "training.seed"),
)
"""What may differ: where files lie, which fingerprints and the digest know by content, and whether
the device has room for the clips; how often is saved; what the
recipe left open and the run's own ``precision`` and ``seed`` decide."""


@dataclass(frozen=True)
class Place:
    """Where a training writes, and from where it goes on.

    Attributes:
        folder: The run's folder.
        state: What ``resume.pt`` holds; None where the training begins with its first step.
        finished: The training has been there and reached its end.
        passed_by: Newest first, unfinished runs of the same split, method and preset that another recipe, or another
            process, keeps from being gone on with, and why.
        held: Keeps other processes out of the folder while it is open.
    """

    folder: RunFolder
    state: bytes | None = None
    finished: bool = False
    passed_by: tuple[tuple[Path, str], ...] = ()
    held: IO[bytes] | None = None


def differences(there: RunConfig, asked: RunConfig) -> list[str]:
    """What keeps the run ``there`` from being gone on with as ``asked``, a line each."""
    old, new = (dict(flat(config.model_dump(mode="json"))) for config in (there, asked))
    for values in (old, new):
        values["device"] = values["device"].partition(":")[0]  # cuda:0 draws what cuda:1 draws
    return [
        f"{key.removeprefix('training.')} is {_short(old.get(key))} there, {_short(new.get(key))} here"
        for key in old | new
        if key not in _FREE and old.get(key) != new.get(key)
    ]


def find_place(config: RunConfig, out: Path | None, runs: Path, resume: Resume) -> Place:
    """Choose the run's folder.

    ``off`` makes a new one. ``required`` goes on with a run: the one in ``out``, or else the newest unfinished run in
    ``runs`` with this very configuration. ``auto`` does the same where there is one, and makes a new one otherwise.

    Args:
        config: Of the training asked for.
        out: The folder, where it is given.
        runs: Where runs lie.
        resume: See above.

    Raises:
        PspError: There is nothing to go on with (``required``); the run in ``out`` has another configuration, which
            the error lists, or is in other hands; a folder cannot be made.
    """
    if resume != "off" and out is not None and RunFolder(out).config.exists():
        return _there(RunFolder(out), config, resume)
    passed_by: list[tuple[Path, str]] = []
    for folder, there in _unfinished(runs, config) if resume != "off" and out is None else ():
        reasons = differences(there, config)
        if not reasons:
            try:
                return replace(_there(folder, config, "required"), passed_by=tuple(passed_by))
            except PspError as error:  # In other hands, or finished since.
                reasons = [error.what.removeprefix(f"{folder.path}: ")]
        passed_by.append((folder.path, "; ".join(reasons)))
    if resume == "required":
        raise PspError(
            f"--resume required: {out or runs} has no unfinished run of this training",
            found="; ".join(f"{path}: {reason}" for path, reason in passed_by[:1]) or None,
            way_out="Name the run's folder with --out, or begin one without --resume required.",
        )
    folder = RunFolder.create(config, out, runs)
    return Place(folder, passed_by=tuple(passed_by), held=folder.hold())


def _there(folder: RunFolder, config: RunConfig, resume: Resume) -> Place:
    """The run in a folder that was named."""
    reasons = differences(RunConfig.load(folder.config), config)
    if reasons:
        raise PspError(
            f"{folder.path}: a run of another training",
            "; ".join(reasons),
            way_out="Name a new folder with --out, or give the same options as for that run.",
        )
    held = folder.hold()
    if folder.finished and resume == "auto":
        return Place(folder, finished=True, held=held)
    if folder.resume.exists() and not folder.finished:
        return Place(folder, folder.resume.read_bytes(), held=held)
    if resume == "required":
        held.close()
        if folder.finished:
            raise PspError(
                f"{folder.path}: trained to its end already",
                way_out=f"Take it as it is: psptool evaluate {folder.path}.",
            )
        raise PspError(
            f"{folder.path}: nothing to go on from",
            found=f"no {folder.resume.name}: the run stopped before its first checkpoint",
            way_out="Begin again in the same folder without --resume required.",
        )
    folder.cut_log(0)
    return Place(folder, held=held)


def _unfinished(runs: Path, config: RunConfig) -> Iterator[tuple[RunFolder, RunConfig]]:
    """Unfinished runs of the same split, method and preset that left a checkpoint, newest first."""
    states = sorted(runs.glob("*/resume.pt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for folder in (RunFolder(path.parent) for path in states):
        try:
            there = RunConfig.load(folder.config)
        except PspError:
            continue  # Of another version, or none.
        if not folder.finished and _kind(there) == _kind(config):
            yield folder, there


def _kind(config: RunConfig) -> tuple[str, str, str]:
    return config.split_digest, config.training.method, config.training.preset


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
