"""``psptool table``: a comparison of evaluated runs, with mean and standard deviation over label splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from psptool.cli.console import choice, examples, exclude, grid, note, say, table_lines, warn
from psptool.common.errors import PspError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psptool.evaluation.table import RunScores
    from psptool.schemas.table import ScoreTable

EXAMPLES = examples(
    "psptool table runs",
    "psptool table runs --html table.html",
    "psptool table runs --format markdown --out table.md",
    "psptool table runs/ucla-xview-0.05-s0-psp-fast --json",
)
FORMATS = ("text", "markdown", "csv", "json")
_ENDINGS = {".md": "markdown", ".csv": "csv", ".json": "json"}


def table(
    ctx: typer.Context,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs, scores files, or folders of them; by default runs/.", show_default=False),
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Also show paired differences to this method; repeatable.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="text, markdown, csv, json; by default as --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write an HTML page with charts.")] = None,
    weights: Annotated[str, typer.Option(help="Checkpoint: last, or best on the validation clips.")] = "last",
    validation: Annotated[
        bool, typer.Option("--validation", help="Use the scores on the validation clips.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
) -> None:
    """Compare evaluated runs: mean and deviation over label splits."""
    from psptool.common.atomic_write import write_whole
    from psptool.evaluation.table import build_table, collect_scores
    from psptool.schemas.scores import Part, Weights

    if form != "json":
        exclude(ctx, "--json", "--format")
    chosen = _format(form, out, as_json)
    which = cast(Weights, choice(weights, get_args(Weights), "--weights"))
    part: Part = "validation" if validation else "test"
    scored = collect_scores(runs or [Path("runs")], part, which)
    found = build_table(scored, *against or ())
    for warning in found.warnings:
        warn(warning)
    if html is not None:
        _write_page(html, found, scored)
    if out is not None:
        write_whole(out, _text(found, chosen))
        say(str(out))
    elif chosen == "text":
        _show(found)
    else:
        say(_text(found, chosen).removesuffix("\n"))


def _write_page(path: Path, found: ScoreTable, scored: Sequence[RunScores]) -> None:
    from psptool.common.atomic_write import write_whole
    from psptool.view.comparison import table_page

    write_whole(path, table_page(found, scored))
    # On stderr: stdout may be a table for a program.
    note(f"{path} ({path.stat().st_size / 1000:,.0f} kB)")


def _format(form: str | None, out: Path | None, as_json: bool) -> str:
    if out is not None and out.suffix.lower() in (".html", ".htm"):
        raise PspError("--out", str(out), "a text file", f"Write a page with --html {out}.")
    usual = "text" if out is None else _ENDINGS.get(out.suffix.lower(), "text")
    return "json" if as_json else choice(form or usual, FORMATS, "--format")


def _text(found: ScoreTable, form: str) -> str:
    from psptool.evaluation import rendering

    if form == "json":
        return found.dump()
    if form == "text":
        lines = [rendering.title(found), *table_lines(*rendering.group_rows(found))]
        if found.differences:
            lines += ["", rendering.difference_title(found), *table_lines(*rendering.difference_rows(found))]
        return "\n".join(lines) + "\n"
    return rendering.as_csv(found) if form == "csv" else rendering.markdown(found)


def _show(found: ScoreTable) -> None:
    from psptool.evaluation import rendering

    say(rendering.title(found))
    grid("", *rendering.group_rows(found))
    if found.differences:
        say("")
        say(rendering.difference_title(found))
        grid("", *rendering.difference_rows(found))
