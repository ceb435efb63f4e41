"""``psptool train``: a model from a dataset and a split."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from psptool.cli.console import choice, examples, grid, mute, next_step, note, say_json, table, warn
from psptool.cli.newest import DATASET, SPLIT, choose
from psptool.cli.progress import ProgressReport
from psptool.common.errors import PspError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from psptool.common.distributed import ProcessGroup
    from psptool.schemas.run import RunConfig
    from psptool.schemas.training import TrainingConfig
    from psptool.training.api import Trained
    from psptool.training.loop import Progress
    from psptool.training.runs.unfinished import Resume

EXAMPLES = examples(
    "psptool train",
    "psptool train --method supervised --set optim.lr=0.05",
    "psptool train --profile 5",
    "psptool train --split splits/ucla-xview-0.05-s0.json --preset small",
)


def train(
    split: Annotated[Path | None, typer.Option(help="The split; the newest of splits/.")] = None,
    data: Annotated[Path | None, typer.Option(help="The dataset; the split's own in data/.")] = None,
    method: Annotated[
        str | None, typer.Option(help="psp, or supervised: labels only with the same encoder.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="small (default), best, lean, paper, paper-short."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file of recipe values, over the preset.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One recipe value, over the file; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="auto, float32 or bfloat16; the recipe's by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and draws; the split's by default.")] = None,
    profile: Annotated[
        int,
        typer.Option(metavar="STEPS", help="Show where their time goes; leave no run.", show_default=False),
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="The run's folder; by default named in runs/.")] = None,
    resume: Annotated[
        str, typer.Option(help="An unfinished run: auto (default), required or off.", show_default=False)
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model. psptool schemas --show training lists the keys of --set."""
    from psptool.common.distributed import init_distributed, own_device
    from psptool.device import choose_device
    from psptool.schemas.recipes import resolve
    from psptool.schemas.split import Split
    from psptool.schemas.training import Method
    from psptool.training.runs.unfinished import Resume

    how = cast(Resume, choice(resume, get_args(Resume), "--resume"))
    with init_distributed() as ranks:
        if not ranks.first:
            mute()
        known = _known(out) if how != "off" else None
        if known is not None and device == "auto":
            device = _device_again(known)
        computing_on = own_device(choose_device(device), ranks)
        if known is not None and not (method or preset or config or changes or precision or seed is not None):
            # The run's folder says all of it: no option need be repeated to go on.
            recipe = known.training
        else:
            recipe = resolve(
                method=None if method is None else cast(Method, choice(method, get_args(Method), "--method")),
                preset=preset,
                file=config,
                changes=[*(changes or ()), *_precision(precision)],
                seed=seed,
            )
        if known is not None:
            split, data = split or Path(known.latest.split_path), data or Path(known.latest.data_path)
        split_path = choose(SPLIT, split, None if data is None else DATASET.dataset(data))
        data_path = choose(DATASET, data, Split.load(split_path).dataset)
        if profile:
            _say_profile(data_path, split_path, recipe, computing_on, profile, as_json)
            return
        done = run_training(data_path, split_path, recipe, computing_on, out, resume=how, ranks=ranks)
    if as_json:
        say_json(_summary(done))
        return
    rows = [(key, value) for key, value in _summary(done).items() if value is not None]
    table(str(done.folder), rows[1:])
    next_step("psptool evaluate" if out is None else f"psptool evaluate {done.folder}")


def _known(out: Path | None) -> RunConfig | None:
    """What the run in a named folder is; None where there is none yet."""
    from psptool.schemas.run import RunConfig
    from psptool.training.runs.folder import RunFolder

    if out is None or not RunFolder(out).config.exists():
        return None
    return RunConfig.load(RunFolder(out).config)


def _device_again(known: RunConfig) -> str:
    """The device that a run ran on last, or ``auto`` where this machine has no such device."""
    from psptool.device import choose_device

    try:
        choose_device(known.latest.device)
    except PspError:
        return "auto"
    return known.latest.device


def _say_profile(
    data: Path, split: Path, recipe: TrainingConfig, device: torch.device, steps: int, as_json: bool
) -> None:
    from dataclasses import asdict

    from psptool.training.profiling import profile_training

    found = profile_training(data, split, recipe, device, steps)
    if as_json:
        say_json(asdict(found))
        return
    grid(
        f"{steps} steps, {steps / found.seconds:.2f} steps/s with the profiler at work",
        ("part of a step", "ms"),
        [(part, round(milliseconds, 1)) for part, milliseconds in found.parts.items()],
    )
    grid(
        "",
        ("operator", "ms a step", "calls"),
        [(name, round(spent, 1), round(calls, 1)) for name, spent, calls in found.operators],
    )


def _precision(name: str | None) -> list[str]:
    """The option as a change of the recipe."""
    known = ("auto", "float32", "bfloat16")
    return [] if name is None else [f"precision={choice(name, known, '--precision')}"]


def run_training(
    data: Path,
    split: Path,
    recipe: TrainingConfig,
    device: torch.device,
    out: Path | None = None,
    runs: Path = Path("runs"),
    on_start: Callable[[Path, RunConfig], None] | None = None,
    resume: Resume = "off",
    ranks: ProcessGroup | None = None,
) -> Trained:
    """Train, with progress on stderr; arguments and errors as `psptool.training.api.train`.

    Unless `on_start` says otherwise, the resolved recipe is told too.
    """
    from psptool.common.distributed import SINGLE
    from psptool.training import api
    from psptool.training.stopping import Stopped

    ranks = ranks or SINGLE
    steps = recipe.optim.steps
    with ProgressReport("step", "steps") as report:

        def begin(folder: Path, config: RunConfig) -> None:
            (on_start or _tell_recipe)(folder, config)
            report(config.latest.from_step, steps)

        try:
            return api.train(
                data, split, recipe, device=device, out=out, runs=runs, resume=resume, ranks=ranks, on_start=begin,
                on_progress=lambda now: report(now.step, steps, _terms(now), due=True),
                on_step=lambda step: report(step, steps), on_message=note, on_warning=warn,
            )  # fmt: skip
        except Stopped as stop:
            program = "psptool" if ranks.size == 1 else "torchrun … -m psptool"
            again = f"{program} train --resume required --out {shlex.quote(str(stop.folder))}"
            raise KeyboardInterrupt(f"{stop} Resume: {again}") from stop


def _tell_recipe(folder: Path, config: RunConfig) -> None:
    """The resolved recipe, as it is saved in the run's folder: one line a group."""
    recipe: dict[str, Any] = config.training.model_dump(mode="json")
    groups = {key: value for key, value in recipe.items() if isinstance(value, dict)}
    rest = {key: value for key, value in recipe.items() if key not in groups}
    note(f"run: {folder}, on {config.latest.device} in {config.precision}, seed {config.seed}")
    for name, values in {"recipe": rest, **groups}.items():
        note(f"  {name}: " + " ".join(f"{key}={_short(value)}" for key, value in values.items()))


def _short(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _terms(now: Progress) -> str:
    """Loss, learning rate and, where it was measured, validation accuracy; log.jsonl has each term of the loss."""
    measured = "" if now.validation is None else f"  validation {100 * now.validation:.1f} %"
    return f"loss {now.terms['loss']:.2f}  lr {now.lr:.2g}{measured}"


def _summary(done: Trained) -> dict[str, Any]:
    recipe, final = done.config.training, done.final
    return {
        "run": str(done.folder),
        "method": recipe.method,
        "preset": recipe.preset,
        "seed": done.config.seed,
        "device": done.config.latest.device,
        "precision": done.config.precision,
        "steps": final.steps,
        "seconds": round(final.seconds, 1),
        **{name: round(value, 4) for name, value in final.terms.items()},
        "best_validation": done.best,
    }
