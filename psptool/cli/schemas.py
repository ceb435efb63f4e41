"""``psptool schemas``: the JSON Schemas of all artefacts, written, checked or shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from psptool.cli.console import FOUND, choice, examples, grid, note, say

EXAMPLES = examples(
    "psptool schemas",
    "psptool schemas --check",
    "psptool schemas --show training",
)


def schemas(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; end with code 1 where a file differs.")
    ] = False,
    show: Annotated[
        str | None,
        typer.Option(help="List the keys of one, such as training, run or prediction."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the schemas.")] = Path("schemas"),
) -> None:
    """Write or check the JSON Schemas of psptool's files."""
    from psptool.common.atomic_write import write_whole
    from psptool.schemas.published import artefacts, json_schema, keys

    models = artefacts()
    if show is not None:
        name = choice(show, sorted(models), "--show")
        grid("", ("key", "default", "what"), keys(models[name]))
        return
    texts = {out / f"{name}.json": json_schema(model) for name, model in sorted(models.items())}
    if check:
        findings = _findings(texts, out)
        for finding in findings:
            say(finding)
        if findings:
            note("Next: psptool schemas")
            raise typer.Exit(FOUND)
        say(f"{len(texts)} schemas in {out}/ are current")
        return
    for path, text in texts.items():
        write_whole(path, text)
        say(str(path))


def _findings(texts: dict[Path, str], folder: Path) -> list[str]:
    findings = []
    for path, text in texts.items():
        try:
            same = path.read_text(encoding="utf-8") == text
        except OSError as error:
            findings.append(f"{path}: {error.strerror}")
            continue
        if not same:
            findings.append(f"{path}: differs from the models in psptool.schemas")
    findings += [
        f"{path}: no artefact has this name" for path in sorted(folder.glob("*.json")) if path not in texts
    ]
    return findings
