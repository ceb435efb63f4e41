"""Options, commands with options and configuration keys that are named in messages exist."""

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
    # Options of git and pip.
    *("--porcelain", "--untracked-files", "--force-reinstall")
}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"psptool ([a-z-]+)((?: (?!psptool\b)[^ `;,]+)*)")
VALUE = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)[ =]([\w.]+)")


class Text(NamedTuple):
    """A string literal of the source that is not a docstring, without the replacement fields of f-strings."""

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


def test_every_option_named_in_a_message_exists() -> None:
    known = {"--help", "--version", *OTHER_PROGRAMS}.union(*OPTIONS.values())
    named = [(place, match[0]) for place, match in found_in(OPTION)]
    assert len({option for _, option in named} & set().union(*OPTIONS.values())) > 25
    assert [(place, option) for place, option in named if option not in known] == []


def test_every_option_named_after_a_command_is_an_option_of_that_command() -> None:
    called = [(place, match[1], OPTION.findall(match[2])) for place, match in found_in(COMMAND)]
    called = [(place, name, options) for place, name, options in called if options]
    assert len(called) > 25
    wrong = [
        (place, name, option)
        for place, name, options in called
        for option in options
        if option not in {"--help", *OPTIONS.get(name, ())}
    ]
    assert wrong == []


def test_no_message_suggests_the_default_value_of_an_option() -> None:
    wrong = []
    for place, match in found_in(VALUE):
        defaults = {str(of[match[1]].default) for of in OPTIONS.values() if match[1] in of}
        if defaults == {match[2].rstrip(".")}:
            wrong.append((place, match[0]))
    assert wrong == []


def test_every_configuration_key_named_in_a_message_exists() -> None:
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
def test_the_pattern_finds_options_in_text(text: str, options: list[str]) -> None:
    assert OPTION.findall(text) == options
