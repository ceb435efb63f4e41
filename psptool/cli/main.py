"""The ``psptool`` command and its subcommands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from psptool.cli import (
    config,
    demo,
    describe,
    doctor,
    embed,
    evaluate,
    exchange,
    export,
    inspect,
    predict,
    prepare,
    runs,
    schemas,
    split,
    table,
    train,
    view,
)
from psptool.cli.console import Commands, examples, quietable
from psptool.common.version import __version__

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    # Plain help: rich would double the time of --help, and a traceback with local values is not for users.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=examples(
        "psptool demo",
        "psptool prepare ucla --raw PATH && psptool split --ratio 0.05",
        "psptool train && psptool evaluate",
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"psptool {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Skeleton-based action recognition with few labels (PSP Learning)."""


_GROUPS: tuple[tuple[str, tuple[tuple[Callable[..., None], str, str | None], ...]], ...] = (
    ("Start", ((demo.demo, demo.EXAMPLES, None), (doctor.doctor, doctor.EXAMPLES, None))),
    (
        "Data",
        (
            (describe.describe, describe.EXAMPLES, None),
            (prepare.prepare, prepare.EXAMPLES, None),
            (exchange.import_data, exchange.IMPORT_EXAMPLES, "import"),
            (split.split, split.EXAMPLES, None),
            (inspect.inspect, inspect.INSPECT_EXAMPLES, None),
            (inspect.validate, inspect.VALIDATE_EXAMPLES, None),
            (view.view, view.EXAMPLES, None),
        ),
    ),
    (
        "Train",
        (
            (train.train, train.EXAMPLES, None),
            (config.config, config.EXAMPLES, None),
            (runs.runs, runs.EXAMPLES, None),
        ),
    ),
    (
        "Analyse",
        (
            (evaluate.evaluate, evaluate.EXAMPLES, None),
            (table.table, table.EXAMPLES, None),
            (embed.embed, embed.EXAMPLES, None),
        ),
    ),
    (
        "Share",
        (
            (predict.predict, predict.EXAMPLES, None),
            (export.export, export.EXAMPLES, None),
            (exchange.export_data, exchange.EXPORT_EXAMPLES, None),
            (schemas.schemas, schemas.EXAMPLES, None),
        ),
    ),
)
"""The commands by group, in the order of ``--help``: function, examples, and name where it is not the function's."""

for _group, _commands in _GROUPS:
    for _command, _examples, _name in _commands:
        app.command(_name, epilog=_examples, rich_help_panel=_group)(quietable(_command))


def main() -> None:
    """Run the command line."""
    app(prog_name="psptool")
