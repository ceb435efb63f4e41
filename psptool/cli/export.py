"""``psptool export``: a trained model for other programs, with a model card."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from psptool.cli.console import choice, examples, grid, next_step, note, say_json
from psptool.cli.newest import RUN, choose
from psptool.cli.progress import ProgressReport
from psptool.common.errors import PspError
from psptool.common.text import counted

if TYPE_CHECKING:
    from psptool.data.store.arrays import PreparedClip
    from psptool.evaluation.exporting import Exported, Format
    from psptool.evaluation.models import TrainedModel

EXAMPLES = examples(
    "psptool export --safetensors",
    "psptool export runs/ucla-xview-0.05-s0-psp-small --torch-export --out pt2",
    "psptool export --onnx --safetensors --json",
)
CLIPS = 20
"""Clips that the outputs of a file are compared on."""


def export(
    run: Annotated[
        Path | None, typer.Argument(help="The run's folder; by default the newest in runs/.")
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
    from psptool.common.atomic_write import write_whole
    from psptool.evaluation import exporting, models
    from psptool.evaluation.card import model_card
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
        raise PspError(f"{folder}: is a file", expected="a run's folder", fix="Give the run's folder.")
    model = models.open_model(folder, which)
    clips, compared, clip = _clips(model, data)
    inputs = exporting.inputs_at_test(model, ragged(clips, model), range(len(clips)))
    done: list[Exported] = []
    with ProgressReport("exporting") as report:
        for number, one_format in enumerate(formats):
            # Converting takes minutes on a busy machine, so each format is announced.
            report(number, len(formats), one_format, due=True)
            done += exporting.export(model, [one_format], inputs)
    target, stem = out or folder / "export", folder.resolve().name
    paths = [exporting.export_path(target, stem, one.format) for one in done]
    for path, one in zip(paths, done, strict=True):
        write_whole(path, one.content)
    card = target / f"{stem}.md"
    write_whole(card, model_card(model, stem, done, compared, clip))
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
    next_step(f"open {card}")


def _clips(model: TrainedModel, data: Path | None) -> tuple[list[PreparedClip], str, str | None]:
    """Clips to compare on, their description, and a clip name of the dataset; synthetic clips without a dataset."""
    from psptool.common.paths import recalled
    from psptool.data.store.arrays import PreparedClip
    from psptool.data.store.reading import open_store
    from psptool.evaluation.api import check_dataset

    path = data or recalled(model.config.latest.data_path)
    if data is None and not path.exists():
        note(f"{path}: the run's dataset is missing; comparing on synthetic recordings")
        return _made_up(model), f"{CLIPS} synthetic recordings", None
    with open_store(path) as store:
        check_dataset(model.path, model.config, store)
        chosen = sorted({n * len(store) // CLIPS for n in range(CLIPS)})
        clips = []
        for stored in map(store.clip, chosen):
            transform = (stored.origin, stored.scale, stored.rotation)
            arrays = (stored.joint, stored.present, stored.state)
            clips.append(PreparedClip(stored.name, stored.key, *arrays, *transform))
    return clips, f"{counted(len(clips), 'clip')} of {path}", clips[0].name


def _made_up(model: TrainedModel) -> list[PreparedClip]:
    """Synthetic recordings in the model's format, prepared like its training clips."""
    from psptool.evaluation.predicting import find_recordings
    from psptool.formats.synthesis.names import clip_names
    from psptool.formats.synthesis.writing import write_ntu, write_ucla
    from psptool.preparation.worker import prepare_clip

    with tempfile.TemporaryDirectory() as folder:
        if model.config.dataset == "ucla":
            write_ucla(Path(folder), [f"a01_s01_e{n:02d}_v01" for n in range(CLIPS)])
        else:
            write_ntu(Path(folder), clip_names((7, 24, 50), 4, 1, (1,))[:CLIPS])
        found, _ = find_recordings([Path(folder)], model.config.topology)
        outcomes = [
            prepare_clip((source,), reader, model.config.preparation)
            for reader, sources in found
            for source in sources
        ]
    return [outcome.clip for outcome in outcomes if outcome.clip is not None]
