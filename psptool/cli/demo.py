"""``psptool demo``: the four commands on synthetic recordings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psptool.cli.console import examples, grid, headline, next_step, note, say, say_json
from psptool.cli.progress import ProgressReport
from psptool.common.text import counted

if TYPE_CHECKING:
    import torch

    from psptool.schemas.scores import Scores
    from psptool.schemas.training import Method, TrainingConfig

EXAMPLES = examples("psptool demo", "psptool demo --out elsewhere --seed 1 --json")
COUNT = 1
"""Labelled clips per action."""
METHODS: tuple[Method, ...] = ("supervised", "psp")


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("psptool-demo"),
    seed: Annotated[int, typer.Option(help="Seed of recordings, split and training.")] = 0,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a training value; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run all steps on synthetic data: raw files to accuracy."""
    from psptool.device import choose_device
    from psptool.evaluation.api import output_path
    from psptool.schemas.recipes import resolve

    began, computing_on = time.perf_counter(), choose_device(device)
    # First, so that a wrong setting is reported before recordings are generated.
    recipes = {method: resolve(method=method, preset="demo", changes=changes or ()) for method in METHODS}
    raw = _recordings(out, seed)
    data = _prepared(out, raw, seed)
    split = _split(out, data, seed)
    runs = {
        method: _trained(out, data, split, recipe, changes or (), computing_on)
        for method, recipe in recipes.items()
    }
    scores = {method: _evaluated(run, computing_on) for method, run in runs.items()}
    page = output_path(runs["psp"], "report.html", scores["psp"])
    seconds = time.perf_counter() - began
    if as_json:
        shown: dict[str, Any] = {method: found.model_dump(mode="json") for method, found in scores.items()}
        say_json({"folder": str(out), "seconds": round(seconds, 1), "report": str(page), **shown})
        return
    _show(out, data, split, runs, scores, page, seconds)


def _recordings(out: Path, seed: int) -> Path:
    """The raw files; those of an earlier demo with the same seed are used again if complete."""
    from psptool.formats.synthesis import names
    from psptool.formats.synthesis.writing import write_ntu

    clips, raw = names.demo_names(), out / f"raw-s{seed}"
    if {path.stem for path in raw.glob("*.skeleton")} >= set(clips):
        note(f"1 of 5  recordings: {raw} exists already")
        return raw
    note(f"1 of 5  recordings: {len(clips)} .skeleton files in {raw}")
    with ProgressReport("generating", "clips") as report:

        def reported() -> Iterator[str]:
            for number, name in enumerate(clips):
                report(number, len(clips))
                yield name

        write_ntu(raw, reported(), seed)
    return raw


def _prepared(out: Path, raw: Path, seed: int) -> Path:
    """The dataset of these recordings; the runs of an earlier demo with another seed still need theirs."""
    from psptool.cli.prepare import run_preparation

    data = out / "data" / f"demo-s{seed}.h5"
    note(f"2 of 5  psptool prepare ntu --raw {raw} --out {data}")
    run_preparation("ntu", [raw], data)
    return data


def _split(out: Path, data: Path, seed: int) -> Path:
    from psptool.data.splits.making import SplitRequest
    from psptool.data.splits.stored import make_file
    from psptool.data.store.reading import open_store

    with open_store(data) as store:
        path = make_file(store, SplitRequest(count=COUNT, seed=seed), folder=out / "splits").path
    assert path is not None  # it was saved
    note(f"3 of 5  psptool split --count {COUNT} --seed {seed} --data {data} --out {path}")
    return path


def _trained(
    out: Path, data: Path, split: Path, recipe: TrainingConfig, changes: Sequence[str], device: torch.device
) -> Path:
    from psptool.cli.train import run_training

    said = "".join(f" --set {change}" for change in changes)
    note(f"4 of 5  psptool train --method {recipe.method} --preset demo --split {split} --data {data}{said}")
    quiet = run_training(data, split, recipe, device, runs=out / "runs", on_start=lambda run, config: None)
    return quiet.folder


def _evaluated(run: Path, device: torch.device) -> Scores:
    from psptool.evaluation.api import evaluate
    from psptool.view.report import report_page

    note(f"5 of 5  psptool evaluate {run}")
    return evaluate(run, device=device, report=report_page)


def _show(
    out: Path,
    data: Path,
    split: Path,
    runs: Mapping[Method, Path],
    scores: Mapping[Method, Scores],
    page: Path,
    seconds: float,
) -> None:
    from psptool.cli.evaluate import percent

    baseline, psp = scores["supervised"], scores["psp"]
    points = 100 * (psp.top1 - baseline.top1)
    headline(
        f"Top-1: supervised {percent(baseline.top1)} %, psp {percent(psp.top1)} %",
        f"  difference {points:+.1f} points",
    )
    say(
        f"{counted(psp.clips, 'synthetic test clip')}; {counted(COUNT, 'labelled clip')} per action; {seconds:.0f} s"
    )
    rows = [
        ("top-1", percent(baseline.top1), percent(psp.top1)),
        ("top-5", *(percent(scores.top5 or 0) for scores in (baseline, psp))),
        *(
            (f"top-1, {name} stream", percent(own.top1), percent(psp.streams[name].top1))
            for name, own in baseline.streams.items()
        ),
    ]
    grid("", ("", "supervised %", "psp %"), rows)
    say(f"Results: {data.with_name(f'{data.stem}.report.json')}, {split}")
    for run in runs.values():
        say(f"         {run}/confusion.png, scores.json, predictions.csv, log.jsonl")
    say(f"Report:  {page}")
    next_step("open {}; psptool runs {}; with real recordings: psptool prepare ucla --raw PATH", page, out)
