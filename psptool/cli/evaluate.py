"""``psptool evaluate``: a run's accuracy on the test clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from psptool.cli.console import choice, examples, grid, headline, next_step, say, say_json
from psptool.cli.newest import RUN, choose
from psptool.common.text import counted

if TYPE_CHECKING:
    from psptool.schemas.scores import Scores

EXAMPLES = examples(
    "psptool evaluate",
    "psptool evaluate runs/ucla-xview-0.05-s0-psp-fast --json",
    "psptool evaluate --validation --weights best",
)


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="The run folder; by default the newest in runs/.")
    ] = None,
    weights: Annotated[str, typer.Option(help="Checkpoint: last, or best on the validation clips.")] = "last",
    data: Annotated[Path | None, typer.Option(help="The dataset; by default that of the run.")] = None,
    split: Annotated[Path | None, typer.Option(help="The split; by default that of the run.")] = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Score the validation clips, not the test clips.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html too.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Measure accuracy on the test clips; write a report.

    Written to the run folder: scores.json, predictions.csv (class probabilities of each clip), confusion.png and
    report.html.
    """
    from psptool.device import choose_device
    from psptool.evaluation import api
    from psptool.schemas.scores import Part, Weights
    from psptool.view.report import report_page

    which = cast(Weights, choice(weights, get_args(Weights), "--weights"))
    # First, so that a missing device is reported before a missing run.
    computing_on = choose_device(device)
    folder = choose(RUN, run)
    part: Part = "validation" if validation else "test"
    scores = api.evaluate(
        folder,
        data=data,
        split=split,
        weights=which,
        part=part,
        device=computing_on,
        report=report_page if report else None,
    )
    if as_json:
        say_json(scores.model_dump(mode="json"))
        return
    show(folder, scores)
    page = api.output_path(folder, "report.html" if report else "confusion.png", scores)
    next_step("open {}; psptool inspect {}", page, folder)


def show(folder: Path, scores: Scores) -> None:
    """Print the scores: first the top-1 accuracy of the fusion of all streams, then tables."""
    clips = counted(scores.clips, f"{scores.part} clip")
    headline(f"Top-1 {percent(scores.top1)} %", f"  {folder}: {clips}, {scores.weights} checkpoint")
    rows = [(name, *map(percent, values)) for name, values in scores.accuracies.items()]
    grid("", ("", "top-1 %", "top-5 %")[: len(rows[0])], rows)
    if scores.top1_unseen is not None and "top1_unseen" not in scores.redundant:
        classes = counted(len(scores.classes_unseen), "class", "classes")
        say(
            f"Without duplicates of training clips: top-1 {percent(scores.top1_unseen)} % on "
            f"{counted(scores.clips_unseen, 'clip')} of {classes} ({', '.join(scores.classes_unseen)})."
        )
    grid("", ("class", "top-1 %"), [(name, percent(share)) for name, share in scores.per_class.items()])


def percent(share: float) -> float:
    """A fraction in %, with one decimal."""
    return round(100 * share, 1)
