"""What messages tell a user to type exists: options, commands with these options, and keys of the configuration."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from pydantic import BaseModel
from torch.distributed import run as torchrun

import psptool
from psptool.cli.main import app
from psptool.schemas.training import TrainingConfig

SOURCE = Path(psptool.__file__).parent
COMMANDS = typer.main.get_command(app).commands
OPTIONS = {
    name: {
        option: parameter
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for name, command in COMMANDS.items()
}
OTHER_PROGRAMS = {
    option for action in torchrun.get_args_parser()._actions for option in action.option_strings
} | {
    # Of git and pip.
    *("--porcelain", "--untracked-files", "--force-reinstall")
}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"psptool ([a-z-]+)((?: (?!psptool\b)[^ `;,]+)*)")
VALUE = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)[ =]([\w.]+)")


class Text(NamedTuple):
    """A text of the source that is no docstring; the varying parts of an f-string are left out."""

    place: str
    text: str


def texts() -> Iterator[Text]:
    for file in sorted(SOURCE.rglob("*.py")):
        if file.name == "charts.py":
            continue  # Style sheets, whose variables begin with two dashes.
        tree = ast.parse(file.read_text(encoding="utf-8"))
        named = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, named) and node.body and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield Text(f"{file.relative_to(SOURCE)}:{node.lineno}", node.value)


TEXTS = list(texts())


def found_in(pattern: re.Pattern[str]) -> list[tuple[str, re.Match[str]]]:
    return [(place, match) for place, text in TEXTS for match in pattern.finditer(text)]


def test_every_option_that_is_named_is_one_of_a_command() -> None:
    known = {"--help", "--version", *OTHER_PROGRAMS}.union(*OPTIONS.values())
    named = [(place, match[0]) for place, match in found_in(OPTION)]
    assert len({option for _, option in named} & set().union(*OPTIONS.values())) > 25
    assert [(place, option) for place, option in named if option not in known] == []


def test_every_option_after_a_command_is_that_commands() -> None:
    called = [(place, match[1], OPTION.findall(match[2])) for place, match in found_in(COMMAND)]
    called = [(place, name, options) for place, name, options in called if options]
    assert len(called) > 25
    odd = [
        (place, name, option)
        for place, name, options in called
        for option in options
        if option not in {"--help", *OPTIONS.get(name, ())}
    ]
    assert odd == []


def test_no_way_out_is_a_value_that_an_option_has_anyway() -> None:
    odd = []
    for place, match in found_in(VALUE):
        defaults = {str(of[match[1]].default) for of in OPTIONS.values() if match[1] in of}
        if defaults == {match[2].rstrip(".")}:
            odd.append((place, match[0]))
    assert odd == []


def test_every_key_of_the_configuration_that_is_named_is_there() -> None:
    groups = {
        name: field.annotation
        for name, field in TrainingConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    key = re.compile(rf"(?<![\w./])({'|'.join(groups)})\.([a-z_]+)\b")
    named = [(place, match) for place, match in found_in(key) if not match[0].endswith((".py", ".json"))]
    assert len(named) > 10
    assert [
        (place, match[0]) for place, match in named if match[2] not in groups[match[1]].model_fields
    ] == []


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Use --out, or (--force).", ["--out", "--force"]),
        ("psptool split --ratio 0.05", ["--ratio"]),
        ("a--b, a --", []),
    ],
)
def test_options_are_found_in_texts(text: str, options: list[str]) -> None:
    assert OPTION.findall(text) == options
