"""``psptool predict``: classify raw recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from psptool.cli.console import FOUND, choice, examples, grid, next_step, say, say_json, warn
from psptool.cli.newest import MODEL, choose
from psptool.cli.progress import ProgressReport
from psptool.common.errors import PspError
from psptool.common.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psptool.evaluation.models import TrainedModel
    from psptool.schemas.prediction import Prediction

EXAMPLES = examples(
    "psptool predict all_sqe",
    "psptool predict --model runs/ucla-xview-0.05-s0-psp-small all_sqe",
    "psptool predict all_sqe --top 3 --out predictions.json",
)


def predict(
    files: Annotated[
        list[Path], typer.Argument(help="Recordings, folders, zip and tar archives.", show_default=False)
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="Run folder or .safetensors; by default the newest run."),
    ] = None,
    top: Annotated[int, typer.Option(help="Classes to list per recording.")] = 5,
    weights: Annotated[str, typer.Option(help="Checkpoint: last, or best on the validation clips.")] = "last",
    logits: Annotated[
        bool, typer.Option("--logits", help="Include the logits of all classes in JSON.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the predictions to a JSON file.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the predictions as JSON.")] = False,
) -> None:
    """Recognize actions in raw recordings.

    File names are free. Exit code 1 if a recording could not be used.
    """
    from psptool.device import choose_device
    from psptool.evaluation import models
    from psptool.schemas.scores import Weights

    which = cast(Weights, choice(weights, get_args(Weights), "--weights"))
    computing_on = choose_device(device)
    if out is not None and out.is_dir():
        raise PspError(f"{out}: is a folder", expected="a file to write", fix="Name a file with --out.")
    chosen = choose(MODEL, model)
    opened = models.open_model(chosen, which, computing_on)
    done = _run(opened, files, top, logits)
    if out is not None:
        done.save(out)
    if as_json:
        say_json(json.loads(done.dump()))
    else:
        _show(done)
        if out is not None:
            say(f"Written: {out}")
        next_step(f"psptool evaluate {chosen}" if chosen.is_dir() else "psptool predict --help")
    if done.unusable:
        raise typer.Exit(FOUND)


def _run(model: TrainedModel, files: Sequence[Path], top: int, logits: bool) -> Prediction:
    from psptool.evaluation import predicting

    with ProgressReport("predicting", "recordings") as report:
        done = predicting.predict(
            model,
            files,
            top=top,
            logits=logits,
            on_progress=report,
        )
    for clip in done.unusable:
        warn(f"not used: {clip.detail or f'{clip.source}: {clip.reason}'}")
    return done


def _show(done: Prediction) -> None:
    rows = [
        (clip.name if place == 0 else "", guess.class_name, round(100 * guess.probability, 1))
        for clip in done.clips
        for place, guess in enumerate(clip.top)
    ]
    grid(
        f"{counted(len(done.clips), 'recording')} predicted by {done.model}",
        ("recording", "class", "probability %"),
        rows,
    )
    for clip in done.clips:
        for noted in clip.notes:
            say(f"{clip.name}: {noted}")
