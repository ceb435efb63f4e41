"""Output of the commands: results on stdout, everything else on stderr, errors without a traceback, exit codes.

Heavy imports come where they are used, which keeps ``psptool --help`` fast.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from psptool.common.errors import PspError, system_message
from psptool.common.errors import choice as choice
from psptool.common.text import printable

if TYPE_CHECKING:
    from rich.console import Console

FOUND, BAD, INTERRUPTED = 1, 2, 130
"""Exit codes other than 0: a check found something; bad usage, input or configuration; stopped by Ctrl-C."""
FEW_NAMED = 5
"""The number of files that a warning lists."""
_UNFOLDED = 1000
_quiet = _muted = False
_bar_console: Console | None = None
"""Where a progress bar is shown at the moment."""


def quietable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option ``--quiet`` to a command: it hides notes, progress and next steps.

    Results, warnings and errors are always printed.
    """
    option = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors.")]

    @functools.wraps(command)
    def run(*, quiet: bool = False, **arguments: Any) -> Any:
        global _quiet
        _quiet = quiet
        return command(**arguments)

    # Typer reads the options from the signature.
    own = inspect.signature(command, eval_str=True)
    last = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), last])  # type: ignore[attr-defined]
    return run


class Commands(TyperGroup):
    """A group of commands that prints a `PspError` without a traceback, and exits with code 2 as for usage errors."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands of ``--help``, by group (the ``rich_help_panel`` of each command)."""
        groups: dict[str, list[tuple[str, str]]] = {}
        names = self.list_commands(ctx)
        limit = formatter.width - 6 - max(map(len, names))
        for name in names:
            command = self.get_command(ctx, name)
            panel = getattr(command, "rich_help_panel", None)
            if command is not None and not command.hidden:
                group = panel if isinstance(panel, str) else "Commands"
                groups.setdefault(group, []).append(
                    (name.ljust(max(map(len, names))), command.get_short_help_str(limit))
                )
        for group, rows in groups.items():
            with formatter.section(group):
                formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):
            # File names may hold bytes that are not text, and a terminal's encoding may lack a character.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except PspError as error:
            fail(str(error))
            raise typer.Exit(BAD) from error
        except BrokenPipeError:
            # The reader of stdout has closed it (psptool … | head): print and flush nothing more.
            sys.stdout = None
            raise typer.Exit(FOUND) from None
        except (MemoryError, RuntimeError) as error:
            # PyTorch raises a RuntimeError of its own: "can't allocate memory" on a CPU, "out of memory" on a GPU.
            gpu = "out of memory" in str(error)
            if not isinstance(error, MemoryError) and "allocate memory" not in str(error) and not gpu:
                raise
            fix = "use --device cpu" if gpu else "use smaller files"
            fail(f"out of memory ({str(error) or 'MemoryError'}). Close other programs, or {fix}.")
            raise typer.Exit(BAD) from error
        except OSError as error:
            fail(f"{error.filename or 'input or output'}: {system_message(error)}")
            raise typer.Exit(BAD) from error
        except KeyboardInterrupt as stop:
            note(str(stop) or "Stopped.")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            # Typer has no public name for the error of an unknown option.
            option = getattr(error, "option_name", None)
            if hasattr(error, "possibilities") and (owners := self._commands_with(option)):
                error.message += f". It is an option of psptool {' and psptool '.join(owners)}."  # type: ignore[attr-defined]
                error.possibilities = None
            raise

    def _commands_with(self, option: str | None) -> list[str]:
        """Names of the commands that have an option, such as ``--ratio``."""
        return [
            name
            for name, command in self.commands.items()
            if any(option in (*parameter.opts, *parameter.secondary_opts) for parameter in command.params)
        ]


def mute() -> None:
    """Print only errors in this process: another process of the same training prints the rest."""
    global _quiet, _muted
    _quiet = _muted = True


def say(text: str) -> None:
    """Print a line of the result on stdout."""
    _echo(printable(text))


def _echo(text: str) -> None:
    """Print text that is `printable`, or such text with colours, on stdout."""
    if not _muted:
        typer.echo(text)


def say_findings(file: Path, verdict: str, findings: Sequence[str], fine: str, as_json: bool) -> None:
    """Print the findings of a check, as lines or as JSON; exit with code 1 if there are any.

    Args:
        file: The file checked.
        verdict: The JSON key that is true if there are no findings.
        findings: One line each.
        fine: The line printed if there are none.
        as_json: Print JSON.
    """
    if as_json:
        say_json({"file": str(file), verdict: not findings, "findings": list(findings)})
    else:
        for finding in findings or (fine,):
            say(f"{file}: {finding}")
    if findings:
        raise typer.Exit(FOUND)


def say_json(values: Mapping[str, Any]) -> None:
    """Print the result as JSON on stdout."""
    say(json.dumps(values, indent=2, ensure_ascii=False))


def note(text: str) -> None:
    """Print a line about the work on stderr."""
    if _quiet:
        return
    text = printable(text)
    if _bar_console is None:
        typer.echo(text, err=True)
    else:
        _bar_console.print(text, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    if not _muted:
        _on_stderr("warning: ", "yellow", text)


def warn_of_lost(files: Sequence[str], named_in: str = "") -> None:
    """Warn of files that may hold recordings but cannot be read; the first few are listed.

    Args:
        files: Their names.
        named_in: The report that lists all of them with the reason.
    """
    if not files:
        return
    more = f" and {len(files) - FEW_NAMED} more" if len(files) > FEW_NAMED else ""
    rest = f"; {named_in} gives the reason for each" if named_in else ""
    warn(f"files that may hold recordings but cannot be read: {', '.join(files[:FEW_NAMED])}{more}{rest}")


def fail(text: str) -> None:
    """Print an error on stderr."""
    _on_stderr("error: ", "red", text)


def exclude(ctx: typer.Context, option: str, *others: str) -> None:
    """Refuse a command with ``option`` and one of ``others``, also if a value given equals its default.

    Args:
        ctx: The context of the command.
        option: An option as typed, such as ``--check``.
        others: Options, or arguments by their name in capital letters.
    """
    given = {
        name
        for parameter in ctx.command.params
        if parameter.name and getattr(ctx.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE"
        for name in (*parameter.opts, parameter.name.upper())
    }
    found = " and ".join(other for other in others if other in given)
    if option in given and found:
        raise PspError(option, f"{found} too", "one or the other", f"Leave out {option}, or {found}.")


def shell(command: str, *words: object) -> str:
    """A shell command with each ``{}`` replaced by the next word, quoted where the shell needs it."""
    return command.format(*(shlex.quote(str(word)) for word in words))


def next_step(command: str, *words: object) -> None:
    """Name the command that comes next, on stdout; the arguments are those of `shell`."""
    if not _quiet:
        _echo(f"{_styled('Next:', fg='green')} {printable(shell(command, *words))}")


def headline(text: str, rest: str = "") -> None:
    """The main result, highlighted on a terminal, on stdout."""
    _echo(f"{_styled(printable(text), fg='cyan')}{printable(rest)}")


def table(title: str, rows: Iterable[tuple[str, object]]) -> None:
    """Print a table of two columns, name and value, on stdout; numbers are right-aligned."""
    _table(title, None, list(rows))


def grid(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table with a header on stdout; numbers are right-aligned."""
    _table(title, header, list(rows))


def is_quiet() -> bool:
    """Whether notes and progress are left out."""
    return _quiet


def on_terminal() -> bool:
    """Whether stderr is a terminal."""
    return bool(getattr(sys.stderr, "isatty", lambda: False)())


def attach(bar: Console | None) -> None:
    """Print notes, warnings and errors above a progress bar on this console; None ends that."""
    global _bar_console
    _bar_console = bar


def stderr_console() -> Console:
    """The console of stderr."""
    return _bar_console or _console(stderr=True)


def examples(*commands: str) -> str:
    """The examples at the end of a command's help; ``\\b`` keeps click from joining the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(str(value))


def _table(title: str, header: Sequence[str] | None, rows: Sequence[Sequence[object]]) -> None:
    if _muted:
        return
    if title:
        say(title)
    for line in table_lines(header, rows, _console()):
        _echo(line)


def table_lines(
    header: Sequence[str] | None, rows: Sequence[Sequence[object]], console: Console | None = None
) -> list[str]:
    """The lines of a table; numbers are right-aligned.

    Args:
        header: Column names; None for no header.
        rows: The cells.
        console: Where they are printed, for its width and colours; None for a file, where lines are not wrapped.
    """
    from rich.console import Console
    from rich.table import Table

    console = console or Console(width=_UNFOLDED, markup=False, highlight=False, color_system=None)
    shown = Table(show_header=header is not None, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(zip(*rows, strict=True)):
        right = all(isinstance(value, (int, float)) for value in column)
        name = "" if header is None else header[number]
        shown.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(_shown, row))
    with console.capture() as captured:
        console.print(shown)
    # rich pads every line to the width of the table.
    return [line.rstrip() for line in captured.get().splitlines()]


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    # Paths and clip names must not be read as markup, nor coloured as numbers.
    console = Console(stderr=stderr, markup=False, highlight=False)
    if not console.is_terminal:
        # Lines in a file or a pipe are not wrapped.
        console.width = _UNFOLDED
    return console


def _on_stderr(prefix: str, colour: str, text: str) -> None:
    from rich.text import Text

    stderr_console().print(Text.assemble((prefix, f"bold {colour}"), printable(text)), soft_wrap=True)


def _styled(text: str, fg: str) -> str:
    """Bold and coloured text; typer.echo removes the colour where stdout is not a terminal."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, fg=fg, bold=True)
