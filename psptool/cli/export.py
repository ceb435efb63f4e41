"""``psptool export``: a trained model for other programs, with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from psptool.cli.console import choice, examples, grid, next_step, note, say_json
from psptool.cli.newest import RUN, choose
from psptool.cli.progress import ProgressReport
from psptool.common.errors import PspError

if TYPE_CHECKING:
    from psptool.evaluation.exporting import Exported, Format

EXAMPLES = examples(
    "psptool export --safetensors",
    "psptool export runs/ucla-xview-0.05-s0-psp-fast --torch-export --out pt2",
    "psptool export --onnx --safetensors --json",
)


def export(
    run: Annotated[
        Path | None, typer.Argument(help="The run folder; by default the newest in runs/.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX, a .onnx file.")] = False,
    torch_export: Annotated[
        bool, typer.Option("--torch-export", help="Write a .pt2 file for PyTorch without psptool.")
    ] = False,
    safetensors: Annotated[
        bool, typer.Option("--safetensors", help="Write one file for psptool predict --model.")
    ] = False,
    weights: Annotated[str, typer.Option(help="Checkpoint: last, or best on the validation clips.")] = "last",
    data: Annotated[
        Path | None, typer.Option(help="The dataset to test the files on; by default the run's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; by default RUN/export.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Export a model as ONNX, .pt2 or safetensors, with a card.

    The outputs of each file are compared with the model's before it is written.
    """
    from psptool.common.atomic_write import write_together
    from psptool.evaluation import exporting, models
    from psptool.evaluation.card import model_card
    from psptool.evaluation.comparison_clips import comparison_clips
    from psptool.evaluation.predicting import ragged
    from psptool.schemas.scores import Weights

    asked = {"onnx": onnx, "torch-export": torch_export, "safetensors": safetensors}
    formats = [cast("Format", name) for name, wanted in asked.items() if wanted]
    if not formats:
        raise PspError(
            "no format", expected="--onnx, --torch-export or --safetensors", fix="Choose one or more."
        )
    which = cast(Weights, choice(weights, get_args(Weights), "--weights"))
    folder = choose(RUN, run)
    if folder.is_file():
        raise PspError(f"{folder}: is a file", expected="a run folder", fix="Give the run folder.")
    model = models.open_model(folder, which)
    chosen = comparison_clips(model, data)
    if chosen.missing is not None:
        note(f"{chosen.missing}: the run's dataset is missing; comparing on synthetic recordings")
    compared = chosen.description
    inputs = exporting.inputs_at_test(model, ragged(chosen.clips, model), range(len(chosen.clips)))
    done: list[Exported] = []
    with ProgressReport("exporting") as report:
        for number, one_format in enumerate(formats):
            # Converting takes minutes on a busy machine, so each format is announced.
            report(number, len(formats), one_format, due=True)
            done.append(exporting.export(model, one_format, inputs))
    target, stem = out or folder / "export", folder.resolve().name
    paths = [exporting.export_path(target, stem, one.format) for one in done]
    card = target / f"{stem}.md"
    contents = {path: one.content for path, one in zip(paths, done, strict=True)}
    write_together({**contents, card: model_card(model, stem, done, compared, chosen.example)})
    if as_json:
        files = [
            {"file": str(path), "format": one.format, "bytes": len(one.content), "difference": one.difference}
            for path, one in zip(paths, done, strict=True)
        ]
        say_json({"files": files, "card": str(card), "compared_on": compared})
        return
    rows = [
        (str(path), len(one.content), f"{one.difference:.1e}") for path, one in zip(paths, done, strict=True)
    ]
    grid(f"outputs compared on {compared}", ("file", "bytes", "largest difference"), rows)
    next_step("open {}", card)
