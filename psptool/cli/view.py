"""``psptool view``: clips as animated skeletons, in one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psptool.cli.console import examples, exclude, note, say, warn, warn_of_lost
from psptool.common.errors import PspError
from psptool.common.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psptool.schemas.dataset import PreparationSettings
    from psptool.schemas.description import DatasetDescription
    from psptool.schemas.run import RunConfig
    from psptool.view.scene import ViewedClip

EXAMPLES = examples(
    "psptool view data/ucla.h5",
    "psptool view data/ucla.h5 --model runs/ucla-xview-0.05-s0-psp-fast",
    "psptool view all_sqe a01_s01_e00_v01 a05_s01_e00_v01 --gif --png",
    "psptool view all_sqe 'a05*'",
    "psptool view nturgbd_skeletons_s001_to_s017.zip --out some.html",
)


def view(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help="A dataset (.h5), raw file, folder, zip or tar, or predict's JSON.", show_default=False
        ),
    ],
    clips: Annotated[
        list[str] | None,
        typer.Argument(metavar="CLIP", help="Names, parts (A058) or patterns ('S017*')."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A run of method psp: its attention maps, and its format.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The format of own raw files: a dataset (.h5) or its description (.yaml)."),
    ] = None,
    gif: Annotated[bool, typer.Option("--gif", help="Write an animated GIF instead of the page.")] = False,
    png: Annotated[
        bool, typer.Option("--png", help="Write a contact sheet of frames instead of the page.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default named after the clip.")
    ] = None,
) -> None:
    """Show clips as skeletons that play, in an HTML page."""
    from psptool.view import drawing, sources
    from psptool.view.attention import with_attention
    from psptool.view.viewer import heading, viewer_page

    exclude(ctx, "--data", "--model")
    if data is not None and file.suffix.lower() in sources.DATASET_SUFFIXES:
        raise PspError("--data", f"{file}, which is a dataset", "raw recordings to view", "Leave out --data.")
    config = None if model is None else _config(model)
    settings, dataset = _described(data) if config is None else (config.preparation, config.description)
    found = sources.find(file, clips or (), settings, dataset)
    shown: Sequence[ViewedClip] = found.clips
    warn_of_lost([stray.source for stray in found.lost])
    if clips and len(shown) < found.of:
        warn(f"{found.of} clips match; {len(shown)} of them are shown. Give longer names to choose others.")
    names = [clip.name for clip in shown]
    if found.of > 1 and names != clips:
        note(f"{file}: {len(shown)} of {counted(found.of, 'clip')}: {' '.join(names)}")
    if model is not None and config is not None:
        shown = with_attention(model, config, shown, found.settings)
    path = out or Path(
        f"{shown[0].name if len(shown) == 1 else file.stem or file.resolve().name or 'clips'}.html"
    )
    if gif:
        _write(path.with_suffix(".gif"), drawing.moving_gif(shown))
    if png:
        _write(path.with_suffix(".png"), drawing.contact_sheet(shown))
    if not gif and not png:
        lead = str(file) + (f", predicted by {found.model}" if found.model else "")
        lead += f", with the attention of {model}" if model is not None else ""
        title = heading(shown[0]) if len(shown) == 1 else counted(len(shown), "clip")
        _write(path, viewer_page(title, lead, shown))


def _described(data: Path | None) -> tuple[PreparationSettings | None, DatasetDescription | None]:
    """Preparation and description of a dataset, from its file or its YAML description."""
    from psptool.data.store.reading import open_store
    from psptool.preparation.pipeline import settings_for
    from psptool.schemas.builtin import SUFFIXES, load_description

    if data is None:
        return None, None
    if data.suffix.lower() in SUFFIXES:
        dataset = load_description(data)
        return settings_for(dataset), dataset
    with open_store(data) as store:
        return store.manifest.settings, store.manifest.description


def _config(run: Path) -> RunConfig:
    from psptool.evaluation.models import included_file
    from psptool.training.runs.folder import RunFolder

    if included_file(run) is not None:
        raise PspError(
            f"--model {run}: an included model has no attention maps",
            expected="a run folder",
            fix="Train a model with psptool train.",
        )
    return RunFolder(run).read_config()


def _write(path: Path, data: str | bytes) -> None:
    from psptool.common.atomic_write import write_whole

    replaced = ", replaced" if path.exists() else ""
    write_whole(path, data)
    say(f"{path} ({path.stat().st_size / 1000:,.0f} kB{replaced})")
