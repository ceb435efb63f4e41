"""``psptool runs``: the runs in a folder, with their state and score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psptool.cli.console import examples, grid, next_step, say_json
from psptool.cli.evaluate import percent
from psptool.common.errors import PspError
from psptool.common.text import counted

if TYPE_CHECKING:
    from psptool.schemas.run import RunConfig
    from psptool.training.runs.folder import RunFolder

EXAMPLES = examples("psptool runs", "psptool runs runs --json")


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of runs, the one above, or one run.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List runs: finished, interrupted or training; accuracy."""
    from psptool.training.runs.folder import RunFolder
    from psptool.training.runs.unfinished import resume_option

    if not folder.is_dir():
        raise PspError(
            f"{folder}: there is no such folder",
            fix="Train a model with psptool train, or give the folder of the runs.",
        )
    folder = _folder_of_runs(folder)
    # Without runs in it, the folder may be a run itself.
    places = _runs_in(folder) or [path.parent for path in folder.glob("config.json")]
    found = [_row(path) for path in places]
    if as_json:
        say_json({"folder": str(folder), "runs": found})
        return
    rows = [
        (
            row["run"],
            row["name"] or "",
            row["state"] if row["error"] is None else f"{row['state']}: {row['error']}",
            "" if row["step"] is None else f"{row['step']}/{row['steps']}",
            "" if row["top1"] is None else f"{percent(row['top1'])} %",
        )
        for row in found
    ]
    grid(counted(len(found), "run"), ("run", "method", "state", "step", "top-1"), rows)
    interrupted = next((row["run"] for row in found if row["state"] == "interrupted"), None)
    if interrupted is not None:
        how = resume_option(RunFolder(Path(interrupted)))
        next_step(f"psptool train --resume {how} --out {{}}", interrupted)
    elif any(row["top1"] is not None for row in found):
        next_step("psptool table {}", folder)


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/config.json"))


def _folder_of_runs(folder: Path) -> Path:
    """``folder``, or ``runs`` in it if only that has runs, as in the folder of the demo."""
    below = folder / "runs"
    return below if _runs_in(below) and not _runs_in(folder) else folder


def _row(path: Path) -> dict[str, Any]:
    """One run: configuration, state, steps done and test accuracy; an unreadable run says why."""
    from psptool.evaluation.provenance import changes
    from psptool.evaluation.table import method_name
    from psptool.training.runs.folder import RunFolder

    folder = RunFolder(path)
    empty = dict.fromkeys(("method", "preset", "name", "split", "step", "steps", "top1", "error"))
    row: dict[str, Any] = {"run": str(path), "state": "damaged", **empty}
    try:
        config = folder.read_config()
        recipe = config.training
        row |= {"method": recipe.method, "preset": recipe.preset, "split": config.split_name}
        row["name"] = method_name(recipe.method, recipe.preset, changes(recipe))
        row |= {"steps": recipe.optim.steps, **_state(folder, config), "top1": _top1(path)}
    except PspError as error:
        row["error"] = error.what
    return row


def _state(folder: RunFolder, config: RunConfig) -> dict[str, Any]:
    from psptool.training.runs.state import read_state

    if folder.finished:
        return {"state": "finished", "step": config.training.optim.steps}
    if folder.in_use:
        entries = folder.read_log()
        return {"state": "training", "step": entries[-1]["step"] if entries else 0}
    if not folder.resume.exists():
        return {"state": "interrupted", "step": 0}
    return {
        "state": "interrupted",
        "step": read_state(folder.read_resume(), str(folder.resume))["step"],
    }


def _top1(path: Path) -> float | None:
    """Top-1 accuracy on the test clips, a fraction; None for a run that is not evaluated."""
    from psptool.schemas.scores import Scores

    scores = path / "scores.json"
    return Scores.load(scores).top1 if scores.exists() else None
