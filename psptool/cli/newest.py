"""The dataset, split or run that a command takes by default: the newest one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from psptool.cli.console import note
from psptool.common.errors import PspError, system_message
from psptool.common.paths import MAX_JSON, newest_first, read_text


@dataclass(frozen=True)
class Stage:
    """One kind of artefact.

    Attributes:
        noun: Its name in messages.
        pattern: Glob pattern, relative to the working directory.
        option: The option that selects one.
        maker: The command that makes one.
        dataset: Returns the dataset's name in a file that matches the pattern; None if it cannot be read.
    """

    noun: str
    pattern: str
    option: str
    maker: str
    dataset: Callable[[Path], str | None]


def _dataset_of_store(path: Path) -> str | None:
    from psptool.data.store.reading import open_store

    try:
        with open_store(path) as store:
            return store.manifest.dataset
    except PspError:
        return None


def _dataset_of_json(path: Path) -> str | None:
    try:
        values = json.loads(read_text(path, MAX_JSON))
        # The configuration of a run has the whole description; those of earlier versions had the name alone.
        return str(values["description"]["name"] if "description" in values else values["dataset"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _dataset_of_run(path: Path) -> str | None:
    return _dataset_of_json(path.with_name("config.json"))


DATASET = Stage("dataset", "data/*.h5", "--data", "psptool prepare DATASET --raw PATH", _dataset_of_store)
SPLIT = Stage("split", "splits/*.json", "--split", "psptool split --ratio 0.05", _dataset_of_json)
RUN = Stage("run", "runs/*/last.safetensors", "the argument RUN", "psptool train", _dataset_of_run)
MODEL = replace(RUN, option="--model (ucla is included)")


def choose(stage: Stage, given: Path | None = None, dataset: str | None = None) -> Path:
    """The artefact that is given, or else the most recently modified one below the working directory.

    Args:
        stage: The kind of artefact.
        given: The path that the user gave, if any; returned unchanged, unless it is only the name of an artefact.
        dataset: Only artefacts of this dataset are candidates.

    Raises:
        PspError: There is none, or there are several of different datasets; or ``given`` does not exist, and is the
            name of an artefact.
    """
    if given is not None:
        _refuse_bare_name(stage, given)
        return given
    found = _found(stage)
    for path in sorted(path for path, name in found.items() if name is None):
        note(f"{path}: ignored, not a readable {stage.noun}")
    candidates = {path: name for path, name in found.items() if name is not None and dataset in (None, name)}
    if not candidates:
        if stage.noun == RUN.noun:
            _refuse_unfinished()
        of = f" of {dataset}" if dataset is not None else ""
        raise PspError(
            f"no {stage.noun}{of} in {Path(stage.pattern).parts[0]}/",
            fix=f"Make one with {stage.maker}, or give one with {stage.option}.",
        )
    if len(set(candidates.values())) > 1:
        listed = ", ".join(f"{_artefact(stage, path)} ({name})" for path, name in sorted(candidates.items()))
        several = "several datasets" if stage is DATASET else f"{stage.noun}s of several datasets"
        raise PspError(
            f"{several} in {Path(stage.pattern).parts[0]}/", listed, fix=f"Select one with {stage.option}."
        )
    # A file that was removed meanwhile is returned all the same; reading it reports the error.
    first, *_ = newest_first(candidates) or sorted(candidates)
    newest = _artefact(stage, first)
    note(f"{stage.noun}: {newest}" + (f" (the newest of {len(candidates)})" if len(candidates) > 1 else ""))
    return newest


def is_default(stage: Stage, path: Path, dataset: str | None = None) -> bool:
    """Whether `choose` takes this artefact if none is given. Prints nothing.

    Args:
        stage: The kind of artefact.
        path: The path of the artefact.
        dataset: Only artefacts of this dataset are candidates.
    """
    candidates = {file: name for file, name in _found(stage).items() if name and dataset in (None, name)}
    newest = newest_first(candidates)[:1]
    return len(set(candidates.values())) == 1 and [_artefact(stage, file).resolve() for file in newest] == [
        path.resolve()
    ]


def has_others(stage: Stage, dataset: str) -> bool:
    """Whether there are artefacts of other datasets than this one."""
    return not set(_found(stage).values()) <= {dataset, None}


def _found(stage: Stage) -> dict[Path, str | None]:
    """The files of a kind of artefact below the working directory, with the name of their dataset."""
    return {path: stage.dataset(path) for path in Path().glob(stage.pattern)}


def _refuse_bare_name(stage: Stage, given: Path) -> None:
    """Raise an error if the path does not exist, but an artefact has that name, with or without its suffix."""
    artefacts = (_artefact(stage, path) for path in sorted(Path().glob(stage.pattern)))
    named = next((path for path in artefacts if str(given) in (path.name, path.stem)), None)
    if named is None or given.exists() or (stage.noun == RUN.noun and _is_included(given)):
        return
    raise PspError(f"{given}: there is no such {stage.noun}", fix=f"Did you mean {named}?")


def _is_included(given: Path) -> bool:
    from psptool.evaluation.models import included_file

    return included_file(given) is not None


def make_newest(stage: Stage, path: Path) -> None:
    """Update the modification time of an artefact that is current already, so that `choose` takes it."""
    try:
        os.utime(path)
    except OSError as error:
        note(
            f"{path}: not made the newest {stage.noun} ({system_message(error)}); select it with {stage.option}"
        )


def _refuse_unfinished() -> None:
    """Raise the error of the newest interrupted run, if there is one: it says how to resume it."""
    from psptool.training.runs.folder import RunFolder
    from psptool.training.runs.unfinished import find_weights

    for path in newest_first(Path().glob("runs/*/resume.pt"))[:1]:
        folder = RunFolder(path.parent)
        find_weights(folder, folder.read_config(), "last")


def _artefact(stage: Stage, path: Path) -> Path:
    """The artefact of a file: for a run the folder of its weights."""
    return path.parent if stage.noun == RUN.noun else path
