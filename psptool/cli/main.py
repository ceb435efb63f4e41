"""The ``psptool`` command: its parts, and nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from psptool.cli import (
    demo,
    doctor,
    embed,
    evaluate,
    exchange,
    export,
    inspect,
    predict,
    prepare,
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
    """Raw skeleton recordings to a trained and measured PSP model."""


app.command(epilog=prepare.EXAMPLES)(prepare.prepare)
app.command(epilog=split.EXAMPLES)(split.split)
app.command(epilog=train.EXAMPLES)(train.train)
app.command(epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=table.EXAMPLES)(table.table)
app.command(epilog=predict.EXAMPLES)(predict.predict)
app.command(epilog=export.EXAMPLES)(export.export)
app.command(epilog=embed.EXAMPLES)(embed.embed)
app.command(epilog=inspect.INSPECT_EXAMPLES)(inspect.inspect)
app.command(epilog=view.EXAMPLES)(view.view)
app.command(epilog=inspect.VALIDATE_EXAMPLES)(inspect.validate)
app.command(epilog=exchange.EXPORT_EXAMPLES)(exchange.export_data)
app.command("import", epilog=exchange.IMPORT_EXAMPLES)(exchange.import_data)
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(epilog=schemas.EXAMPLES)(schemas.schemas)

for _command in app.registered_commands:
    if _command.callback is not None:
        _command.callback = quietable(_command.callback)


def main() -> None:
    """Run the command line."""
    app(prog_name="psptool")
