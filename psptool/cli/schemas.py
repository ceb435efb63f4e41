"""``psptool schemas``: the JSON Schemas of all artefacts, written, checked or shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psptool.cli.console import FOUND, choice, examples, exclude, grid, next_step, note, say
from psptool.common.errors import cannot_read
from psptool.common.paths import MAX_JSON, read_text

if TYPE_CHECKING:
    from psptool.schemas.base import Artefact

EXAMPLES = examples(
    "psptool schemas",
    "psptool schemas --check",
    "psptool schemas --show training",
)


def schemas(
    ctx: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with code 1 if a file differs.")
    ] = False,
    show: Annotated[
        str | None,
        typer.Option(help="List the keys of a schema: training, run, split, ..."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("schemas"),
) -> None:
    """Write or check the JSON Schemas of psptool's files."""
    from psptool.common.atomic_write import write_whole
    from psptool.schemas.published import artefacts, json_schema, keys

    models = artefacts()
    exclude(ctx, "--check", "--show")
    exclude(ctx, "--show", "--out")
    if show is not None:
        name = choice(show, sorted(models), "--show")
        if name == "training":
            _show_training(models[name])
        else:
            grid("", ("key", "default", "meaning"), keys(models[name]))
        return
    texts = {out / f"{name}.json": json_schema(model) for name, model in sorted(models.items())}
    if check:
        findings = _findings(texts, out)
        for finding in findings:
            say(finding)
        if findings:
            note("Fix: psptool schemas")
            raise typer.Exit(FOUND)
        say(f"{out}/: all {len(texts)} schemas are current")
        return
    for path, text in texts.items():
        write_whole(path, text)
    for path in texts:  # now that all are written: stdout may be a pipe that is closed early
        say(str(path))


def _show_training(model: type[Artefact]) -> None:
    """The keys of a training configuration, with the values that ``psptool train`` uses by default.

    The schema's own defaults are those of the original implementation, which no default command trains with.
    """
    from psptool.schemas.base import flat
    from psptool.schemas.published import keys
    from psptool.schemas.recipes import DEFAULT_PRESET, resolve

    values = dict(flat(resolve(preset=DEFAULT_PRESET).model_dump(mode="json")))
    rows = [
        (key, json.dumps(values[key]) if key in values else default, what)
        for key, default, what in keys(model)
    ]
    grid("", ("key", f"default (preset {DEFAULT_PRESET})", "meaning"), rows)
    next_step("psptool config --table")


def _findings(texts: dict[Path, str], folder: Path) -> list[str]:
    findings = []
    for path, text in texts.items():
        try:
            same = read_text(path, MAX_JSON) == text
        except (OSError, UnicodeDecodeError) as error:
            findings.append(cannot_read(path, error).what)
            continue
        if not same:
            findings.append(f"{path}: differs from the models in psptool.schemas")
    findings += [
        f"{path}: no schema of psptool has this name"
        for path in sorted(folder.glob("*.json"))
        if path not in texts
    ]
    return findings
