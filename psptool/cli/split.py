"""``psptool split``: labelled, unlabelled, validation and test clips."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psptool.cli.console import examples, exclude, next_step, note, say, say_findings, say_json, table, warn
from psptool.cli.newest import DATASET, RUN, SPLIT, choose, has_others, is_default
from psptool.common.errors import PspError

if TYPE_CHECKING:
    from psptool.data.splits.making import MadeSplit

EXAMPLES = examples(
    "psptool split --ratio 0.05",
    "psptool split --count 5 --seed 1 --test-view 2",
    "psptool split --ratio 0.1 --family global --validation fraction=0.1",
    "psptool split --check splits/ucla-xview-0.05-s0.json",
)


def split(
    ctx: typer.Context,
    ratio: Annotated[
        float | None, typer.Option(help="Fraction of labelled training clips, above 0, at most 1.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Labelled clips per class, instead of --ratio.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="One of the dataset's protocols; by default its first.")
    ] = None,
    family: Annotated[
        str,
        typer.Option(help="per-class (default), per-class-ratio or global.", show_default=False),
    ] = "per-class",
    seed: Annotated[int, typer.Option(help="Random seed of the label split.")] = 0,
    test_view: Annotated[
        int | None, typer.Option(help="Test camera, where it can be chosen (NW-UCLA: 1 to 3).")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="view=2, subject=3,7 or fraction=0.1; by default none.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The dataset; by default the newest in data/.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default a new one in splits/.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Check a split against its dataset; exit code 1 if wrong.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a label split: labelled, unlabelled and test clips."""
    how = ("--ratio", "--count", "--protocol", "--family", "--seed", "--test-view", "--validation")
    exclude(ctx, "--check", *how, "--out")
    if check is not None:
        _check(check, data, as_json)
        return
    from psptool.data.splits.making import SplitRequest
    from psptool.data.splits.stored import each_request, make_file, summarize_split
    from psptool.data.store.reading import open_store

    # First, so that a wrong ratio is reported before a missing dataset.
    request = SplitRequest(ratio, count, protocol, family, seed, test_view, validation)
    with open_store(choose(DATASET, data)) as store:
        data = store.path
        protocols, requests = store.manifest.description.protocols, each_request(store, request)
        if len(requests) > 1 and out is not None:
            raise PspError(
                "--out",
                f"one file for {len(requests)} splits",
                f"one split, such as --protocol {requests[0].protocol}",
                "Leave out --out, or choose one split.",
            )
        splits = [make_file(store, one, out) for one in requests]
    for made in splits:
        if not made.changed:
            note(f"{made.path}: already current")
        for warning in made.warnings:
            warn(warning)
    if as_json:
        values = [
            {
                "file": str(made.path),
                **summarize_split(made.split),
                "rule": made.rule,
                "warnings": list(made.warnings),
            }
            for made in splits
        ]
        say_json(values[0] if len(values) == 1 else {"splits": values})
        return
    for made in splits:
        _show(made)
    if len(splits) > 1:
        _say_loop(_glob(splits[0], protocol or next(iter(protocols))), data, splits[0].split.dataset)
    else:
        _say_training(splits[0], data)


def suggest_split(data: Path) -> None:
    """Name the command that splits this dataset; it names the file unless it would take it by default."""
    if is_default(DATASET, data):
        next_step("psptool split --ratio 0.05")
    else:
        next_step("psptool split --ratio 0.05 --data {}", data)


def _say_training(made: MadeSplit, data: Path) -> None:
    """Name the command that trains with this split; it names the files that it would not take by default."""
    assert made.path is not None  # it was saved
    command, files = "psptool train", []
    if not is_default(SPLIT, made.path):
        command, files = f"{command} --split {{}}", [made.path]
    if not is_default(DATASET, data, made.split.dataset):
        command, files = f"{command} --data {{}}", [*files, data]
    next_step(command, *files)


def _say_loop(splits: Path, data: Path, dataset: str) -> None:
    """Name the loop that trains and evaluates with each split of a shell pattern."""
    train, run = 'psptool train --split "$split"', ""
    files = [] if is_default(DATASET, data, dataset) else [data]
    if files:
        train += " --data {}"
    if has_others(RUN, dataset):
        # Evaluation without a run would not know which dataset is meant.
        run = ' "runs/$(basename "$split" .json)"'
        train += f" --out{run}"
    # The star stays unquoted: the shell replaces the pattern by the files.
    pattern = "*".join(shlex.quote(part) for part in str(splits).split("*"))
    runs = pattern.replace("splits/", "runs/", 1).removesuffix(".json")
    loop = f"for split in {pattern}; do {train} && psptool evaluate{run}; done"
    next_step(f"{loop}; psptool table {runs}*", *files)


def _glob(made: MadeSplit, protocol: str) -> Path:
    """The shell pattern for the files of all splits of a leave-one-out protocol; ``made`` is one of them."""
    assert made.path is not None  # it was saved
    start = f"{made.split.dataset}-{made.split.protocol}"
    return made.path.with_name(f"{made.split.dataset}-{protocol}-*{made.path.name.removeprefix(start)}")


def _show(made: MadeSplit) -> None:
    split, (minimum, maximum) = made.split, made.labelled_per_class
    view = "" if split.test_view is None else f", test view {split.test_view}"
    rows: list[tuple[str, object]] = [
        ("labelled", len(split.labelled)),
        ("  minimum per class", minimum),
        ("  maximum per class", maximum),
        ("  performances (views count once)", made.performances),
        ("unlabelled", len(split.unlabelled)),
        ("validation", len(split.validation)),
        ("test", len(split.test)),
    ]
    table(f"{made.path}: {split.protocol}{view}", rows)
    say(f"Labelled: {made.rule}.")


def _check(path: Path, data: Path | None, as_json: bool) -> None:
    from psptool.data.splits.stored import find_split_errors
    from psptool.data.store.reading import open_store
    from psptool.schemas.split import Split

    found = Split.load(choose(SPLIT, path))
    with open_store(choose(DATASET, data, found.dataset)) as store:
        findings = find_split_errors(store, found)
    say_findings(path, "same", findings, "identical to a newly generated split", as_json)
