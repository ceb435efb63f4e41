"""``psptool split``: which clips keep their label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psptool.cli.console import examples, next_step, note, say, say_findings, say_json, table, warn
from psptool.cli.newest import DATASET, choose

if TYPE_CHECKING:
    from psptool.data.splits.making import MadeSplit

EXAMPLES = examples(
    "psptool split --ratio 0.05",
    "psptool split --count 5 --seed 1 --test-view 2",
    "psptool split --ratio 0.1 --family global --validation fraction=0.1",
    "psptool split --check splits/ucla-xview-0.05-s0.json",
)


def split(
    ratio: Annotated[float | None, typer.Option(help="Share of labels kept, over 0 and at most 1.")] = None,
    count: Annotated[int | None, typer.Option(help="Labelled clips a class, instead of a ratio.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="NTU 60: xsub, xview; NTU 120: xsub, xset; NW-UCLA: xview.")
    ] = None,
    family: Annotated[
        str, typer.Option(help="Labels per-class (default), per-class-ratio or global.", show_default=False)
    ] = "per-class",
    seed: Annotated[int, typer.Option(help="Number of the draw.")] = 0,
    test_view: Annotated[int | None, typer.Option(help="NW-UCLA: the camera kept for test (3).")] = None,
    validation: Annotated[
        str | None, typer.Option(help="Clips kept out: view=2, subject=3,7 or fraction=0.1.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The dataset; the newest of data/.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default named in splits/.")] = None,
    check: Annotated[
        Path | None, typer.Option(help="Make this split again; code 1 where it differs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Choose the clips that keep their label."""
    if check is not None:
        _check(check, data, as_json)
        return
    from psptool.data.splits.making import SplitRequest, split_name
    from psptool.data.splits.stored import save_split, split_store, summarize_split
    from psptool.data.store.reading import open_store

    # Before a dataset is looked for, so that a wrong ratio is said as such in an empty folder too.
    request = SplitRequest(ratio, count, protocol, family, seed, test_view, validation)
    with open_store(choose(DATASET, data)) as store:
        made = split_store(store, request)
    path = out if out is not None else Path("splits") / f"{split_name(made.split)}.json"
    if not save_split(made.split, path):
        note(f"{path}: already current")
    for warning in made.warnings:
        warn(warning)
    if as_json:
        say_json(
            {
                "file": str(path),
                **summarize_split(made.split),
                "rule": made.rule,
                "warnings": list(made.warnings),
            }
        )
        return
    _show(path, made)
    next_step("psptool train" if out is None else f"psptool train --split {path}")


def _show(path: Path, made: MadeSplit) -> None:
    split, (fewest, most) = made.split, made.labelled_per_class
    view = "" if split.test_view is None else f", test view {split.test_view}"
    rows: list[tuple[str, object]] = [
        ("labelled", len(split.labelled)),
        ("  fewest of a class", fewest),
        ("  most of a class", most),
        ("  distinct performances", made.performances),
        ("unlabelled", len(split.unlabelled)),
        ("validation", len(split.validation)),
        ("test", len(split.test)),
    ]
    table(f"{path}: {split.protocol}{view}", rows)
    say(f"Labelled: {made.rule}.")


def _check(path: Path, data: Path | None, as_json: bool) -> None:
    from psptool.data.splits.stored import find_split_errors
    from psptool.data.store.reading import open_store
    from psptool.schemas.split import Split

    found = Split.load(path)
    with open_store(choose(DATASET, data, found.dataset)) as store:
        findings = find_split_errors(store, found)
    say_findings(path, "same", findings, "the same when made again", as_json)
