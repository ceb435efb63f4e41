"""``psptool predict``: classify raw recordings."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from psptool.cli.console import FOUND, choice, examples, grid, next_step, note, say, say_json, warn
from psptool.cli.newest import MODEL, choose
from psptool.cli.progress import ProgressReport
from psptool.common.errors import PspError
from psptool.common.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psptool.evaluation.models import TrainedModel
    from psptool.schemas.prediction import Prediction
    from psptool.schemas.timeline import PredictedWindow, Timelines

EXAMPLES = examples(
    "psptool predict --model ucla all_sqe",
    "psptool predict --model runs/ucla-xview-0.05-s0-psp-fast all_sqe",
    "psptool predict all_sqe --top 3 --out predictions.json",
    "psptool predict all_sqe --window 1 --stride 0.5 --page timeline.html",
)


def predict(
    files: Annotated[
        list[Path], typer.Argument(help="Recordings, folders and archives.", show_default=False)
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="Run, .safetensors, or ucla; by default the newest run."),
    ] = None,
    top: Annotated[int, typer.Option(help="Classes to list per recording.")] = 5,
    weights: Annotated[str, typer.Option(help="Checkpoint: last or best.")] = "last",
    logits: Annotated[
        bool, typer.Option("--logits", help="Include the logits of all classes in JSON.")
    ] = False,
    window: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Classify windows of this length in long recordings."),
    ] = None,
    stride: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time from a window to the next; by default half a window."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the predictions to a JSON file.")] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Write an HTML page with skeletons and timelines."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the predictions as JSON.")] = False,
) -> None:
    """Recognize actions in raw recordings. Exit code 1 if one could not be used."""
    from psptool.device import choose_device
    from psptool.evaluation import models
    from psptool.schemas.scores import Weights
    from psptool.training.runs.folder import RunFolder

    which = cast(Weights, choice(weights, get_args(Weights), "--weights"))
    computing_on = choose_device(device)
    _check_files(out, page)
    if stride is not None and window is None:
        raise PspError("--stride", "no --window", "both", "Give the length of the windows with --window.")
    chosen = choose(MODEL, model)
    opened = models.open_model(chosen, which, computing_on)
    done = _run(opened, files, window, stride, top, logits)
    if out is not None:
        done.save(out)
    if page is not None:
        _write_page(page, done)
    if as_json:
        say_json(json.loads(done.dump()))
    else:
        _show(done)
        for written in (out, page):
            if written is not None:
                say(f"Written: {written}")
        if RunFolder(chosen).config.exists():
            next_step("psptool evaluate {}", chosen)
    if done.unusable:
        raise typer.Exit(FOUND)


def _check_files(out: Path | None, page: Path | None) -> None:
    for option, file in (("--out", out), ("--page", page)):
        if file is not None and file.is_dir():
            raise PspError(
                f"{file}: is a folder", expected="a file to write", fix=f"Name a file with {option}."
            )
    if out is not None and out == page:
        raise PspError("--page", f"{page}, the file of --out", "another file", "Name two files.")


def _run(
    model: TrainedModel,
    files: Sequence[Path],
    window: float | None,
    stride: float | None,
    top: int,
    logits: bool,
) -> Prediction | Timelines:
    from psptool.evaluation.predicting import predict
    from psptool.evaluation.timelines import predict_windows

    done: Prediction | Timelines
    with ProgressReport("predicting", "recordings") as report:
        if window is None:
            done = predict(model, files, top=top, logits=logits, on_progress=report)
        else:
            done = predict_windows(model, files, window, stride, top=top, logits=logits, on_progress=report)
    for clip in done.unusable:
        warn(f"not used: {clip.detail or f'{clip.source}: {clip.reason}'}")
    return done


def _write_page(path: Path, done: Prediction | Timelines) -> None:
    from psptool.common.atomic_write import write_whole
    from psptool.view.sources import predicted
    from psptool.view.viewer import viewer_page

    found = predicted(done)
    if len(found.clips) < found.of:
        note(f"{path}: {len(found.clips)} of {counted(found.of, 'recording')}, evenly spaced")
    title = found.clips[0].name if len(found.clips) == 1 else counted(len(found.clips), "recording")
    write_whole(path, viewer_page(title, f"predicted by {done.model}", found.clips))


def _show(done: Prediction | Timelines) -> None:
    from psptool.schemas.prediction import Prediction

    if isinstance(done, Prediction):
        _show_clips(done)
    else:
        _show_windows(done)


def _show_windows(done: Timelines) -> None:
    """One row for successive windows with the same most probable class."""
    rows = []
    for recording in done.recordings:
        name = recording.name
        for found, group in groupby(recording.windows, key=_answer):
            windows = [*group]
            shares = [100 * one.top[0].probability for one in windows if one.top]
            mean = round(sum(shares) / len(shares), 1) if shares else "-"
            rows.append(
                (name, round(windows[0].start, 2), round(windows[-1].end, 2), found, len(windows), mean)
            )
            name = ""
    windowed = sum(len(recording.windows) for recording in done.recordings)
    grid(
        f"{counted(windowed, 'window')} of {counted(len(done.recordings), 'recording')} predicted by {done.model}",
        ("recording", "from s", "to s", "class", "windows", "mean probability %"),
        rows,
    )
    for recording in done.recordings:
        for noted in recording.notes:
            say(f"{recording.name}: {noted}")


def _answer(window: PredictedWindow) -> str:
    return window.top[0].class_name if window.top else f"({window.reason})"


def _show_clips(done: Prediction) -> None:
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
