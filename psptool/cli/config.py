"""``psptool config``: a preset as editable YAML, and a table of all keys."""

from __future__ import annotations

import textwrap
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from psptool.cli.console import choice, examples, exclude, grid, say, say_json
from psptool.cli.presets import PRESET_HELP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic.fields import FieldInfo

    from psptool.schemas.training import TrainingConfig

EXAMPLES = examples(
    "psptool config --preset fast",
    "psptool config --preset best > my.yaml",
    "psptool config --table",
)
_WIDTH = 100
_BOUNDS = {"ge": "at least", "gt": "over", "le": "at most", "lt": "under"}
_NAMES = {int: "integer", float: "number", bool: "true or false", str: "text"}


def config(
    ctx: typer.Context,
    preset: Annotated[str | None, typer.Option(help=PRESET_HELP, show_default=False)] = None,
    as_table: Annotated[
        bool, typer.Option("--table", "--all", help="All keys: values by preset, meaning, type.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the values, or the table, as JSON.")] = False,
) -> None:
    """Print a preset as editable YAML for psptool train --config.

    Each key has its meaning, unit, type and choices in a comment.
    """
    from psptool.schemas.recipes import DEFAULT_PRESET, PRESETS, resolve

    exclude(ctx, "--table", "--preset")
    if as_table:
        _say_table(as_json)
        return
    recipe = resolve(preset=choice(preset or DEFAULT_PRESET, list(PRESETS), "--preset"))
    if as_json:
        say_json(recipe.model_dump(mode="json"))
        return
    say(
        f"# Training configuration of preset {recipe.preset}. Edit it, then run psptool train --config FILE.\n"
        "# Keys that are left out keep the value of the preset.\n" + as_yaml(recipe, comments=True).rstrip()
    )


def as_yaml(recipe: TrainingConfig, comments: bool = False) -> str:
    """The configuration as YAML that ``--config`` reads.

    Args:
        recipe: The configuration.
        comments: Put a comment with meaning and type before each key.
    """
    from psptool.schemas.recipes import all_fields
    from psptool.schemas.training import TrainingConfig

    values = _flat_values(recipe)
    lines: list[str] = []
    group = ""
    for key, field in all_fields(TrainingConfig):
        own, _, last = key.rpartition(".")
        if own != group:
            lines += ([""] if comments else []) + _group_comment(own, comments) + [f"{own}:"]
            group = own
        indent = "  " if own else ""
        lines += _comment(_meaning(field), indent) if comments else []
        lines.append(f"{indent}{last}: {_as_text(values[key])}")
    return "\n".join(lines) + "\n"


def _group_comment(group: str, comments: bool) -> list[str]:
    from psptool.schemas.training import TrainingConfig

    told = TrainingConfig.model_fields[group].annotation.__doc__ if comments else None
    return _comment(" ".join(told.split("\n\n")[0].split()), "") if told else []


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _sentence(field: FieldInfo) -> str:
    return f"{field.description.rstrip('.')}. " if field.description else ""


def _flat_values(recipe: TrainingConfig) -> dict[str, Any]:
    from psptool.schemas.base import flat

    return dict(flat(recipe.model_dump(mode="json")))


def _as_text(value: object) -> str:
    """A value as YAML on one line."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def type_of(field: FieldInfo) -> str:
    """Type, range and choices of a value, such as ``number, at least 0, under 1``."""
    bounds = [
        f"{word} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, word in _BOUNDS.items()
        if getattr(limit, name, None) is not None
        # The large maxima only catch typing errors.
        and not (name in ("le", "lt") and getattr(limit, name) > 1000)
    ]
    return ", ".join([_type_name(field.annotation), *bounds])


def _type_name(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join("null" if one is type(None) else _type_name(one) for one in arguments)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is tuple:
        return f"list of {_plural(arguments[0])}"
    return _NAMES[kind]


def _plural(kind: Any) -> str:
    """The entries of a list."""
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is Annotated:
        return _plural(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return f"lists of {_plural(get_args(kind)[0])}"
    return f"{_NAMES[kind]}s"


def _say_table(as_json: bool) -> None:
    from psptool.schemas.recipes import PRESETS, all_fields, resolve
    from psptool.schemas.training import TrainingConfig

    presets = {name: _flat_values(resolve(preset=name)) for name in PRESETS}
    fields = dict(all_fields(TrainingConfig))
    # The name of the preset is not a setting.
    keys = [key for key in fields if key != "preset"]
    if as_json:
        say_json({key: _json_row(key, fields[key], presets) for key in keys})
        return
    rows: list[Sequence[object]] = [
        (
            key,
            _by_preset({name: _as_text(values[key]) for name, values in presets.items()}),
            _meaning(fields[key]),
        )
        for key in keys
    ]
    grid("", ("key", "value (presets)", "meaning and type"), rows)


def _by_preset(values: Mapping[str, str]) -> str:
    """Each value once, followed by the presets that have it, such as ``0.003 (best); 0.01 (fast, demo)``."""
    names: dict[str, list[str]] = {}
    for preset, value in values.items():
        names.setdefault(value, []).append(preset)
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{value} ({', '.join(found)})" for value, found in names.items())


def _meaning(field: FieldInfo) -> str:
    """Meaning and type of a value in one sentence each."""
    return f"{_sentence(field)}Type: {type_of(field)}."


def _json_row(key: str, field: FieldInfo, presets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "type": type_of(field),
        "presets": {name: values[key] for name, values in presets.items()},
        "meaning": field.description or "",
    }
