"""``psptool describe``: built-in datasets and skeletons, and a first description of one's own recordings."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psptool.cli.console import examples, exclude, grid, next_step, note, say, say_json, shell
from psptool.common.errors import PspError, suggest
from psptool.common.text import counted

if TYPE_CHECKING:
    from psptool.preparation.guessing import Guess
    from psptool.schemas.description import DatasetDescription
    from psptool.schemas.skeleton import SkeletonDescription

EXAMPLES = examples(
    "psptool describe",
    "psptool describe coco17",
    "psptool describe ucla > mine.yaml",
    "psptool describe --from all_sqe",
)
_WIDTH = 110


def describe(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A built-in dataset or skeleton, or a YAML file.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Recordings: guess their description, to edit.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --from: the file to write; by default printed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List built-in datasets and skeletons, or describe recordings."""
    exclude(ctx, "--from", "NAME")
    if out is not None and source is None:
        raise PspError("--out", "no --from", "recordings to describe", "Use psptool describe NAME > FILE.")
    if source is not None:
        _guess(source, out, as_json)
    elif name is not None:
        _show(name, as_json)
    else:
        _list(as_json)


def _list(as_json: bool) -> None:
    from psptool.schemas import builtin, builtin_skeletons

    datasets = builtin.builtin_datasets()
    skeletons = [builtin_skeletons.builtin_skeleton(name) for name in builtin_skeletons.skeleton_names()]
    if as_json:
        say_json({"datasets": [one.name for one in datasets], "skeletons": [one.name for one in skeletons]})
        return
    grid(
        "Datasets",
        ("name", "title", "skeleton", "classes", "protocols"),
        [
            (one.name, one.title, one.skeleton.name, len(one.class_names), ", ".join(one.protocols))
            for one in datasets
        ],
    )
    grid(
        "Skeletons",
        ("name", "joints", "dimensions", "center", "regions", "parts"),
        [
            (one.name, len(one.joints), one.dimensions, full.center, len(full.regions), len(full.parts))
            for one in skeletons
            for full in (one.complete,)
        ],
    )
    next_step("psptool describe NAME, or psptool describe --from PATH for recordings of your own")


def _show(name: str, as_json: bool) -> None:
    found = _find(name)
    if as_json:
        say_json(found.model_dump(mode="json"))
        return
    say(as_yaml(found.model_dump(mode="json", exclude_defaults=True, exclude_none=True)).rstrip())


def _find(name: str) -> DatasetDescription | SkeletonDescription:
    """The complete description of a dataset or a skeleton."""
    from psptool.schemas import builtin, builtin_skeletons

    if name in builtin_skeletons.skeleton_names():
        return builtin_skeletons.builtin_skeleton(name).complete
    if name in builtin.dataset_names() or Path(name).suffix.lower() in builtin.SUFFIXES:
        return builtin.find_datasets(name)[-1].complete()
    known = (*builtin.dataset_names(), *builtin_skeletons.skeleton_names())
    raise PspError("NAME", repr(name), f"one of {', '.join(known)}, or a YAML file", suggest(name, known))


def as_yaml(values: dict[str, Any]) -> str:
    """Values as YAML: one line for each list of plain values, if it fits."""
    from psptool.schemas.plain_yaml import dump_yaml

    if isinstance(classes := values.get("classes"), dict):
        values = {
            **values,
            "classes": {int(key) if str(key).isdecimal() else key: classes[key] for key in classes},
        }
    # A mapping of plain values alone would be on one line, in braces.
    flow = None if any(isinstance(value, (dict, list)) for value in values.values()) else False
    return dump_yaml(values, sort_keys=False, default_flow_style=flow, allow_unicode=True, width=_WIDTH)


def _guess(source: Path, out: Path | None, as_json: bool) -> None:
    from psptool.common.atomic_write import write_whole
    from psptool.preparation.guessing import guess

    found = guess(source)
    if found.known is not None:
        name = found.values["name"]
        note(
            f"{source}: {counted(found.files, 'recording')} of {found.known.title}; no description is needed"
        )
        if as_json:
            say_json({"known": name, "files": found.files})
        else:
            next_step("psptool prepare {} --raw {}", name, source)
        return
    if out is not None and out.exists():
        raise PspError(f"{out}: the file exists already", fix="Choose another file with --out.")
    text = _commented(found, source)
    if out is not None:
        write_whole(out, text)
        note(f"{out}: written; edit it")
    following = ("psptool prepare {} --raw {} --dry-run", out or "FILE.yaml", source)
    if as_json:
        say_json({**found.values, "files": found.files})
    elif out is None:
        say(text.rstrip())
        note(f"Next: edit it, save it as FILE.yaml, and run {shell(*following)}")
    else:
        next_step(*following)


def _commented(found: Guess, source: Path) -> str:
    from psptool.preparation.guessing import comment_lines

    lines = [f"# A first description of {source}. Check every line, then run psptool prepare with this file."]
    for comment, value in comment_lines(found.values, found.comments):
        lines += (
            textwrap.wrap(comment, _WIDTH - 2, initial_indent="# ", subsequent_indent="# ") if comment else []
        )
        lines.append(as_yaml(value).rstrip())
    return "\n".join(lines) + "\n"
