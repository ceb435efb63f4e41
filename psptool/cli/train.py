"""``psptool train``: a model from a dataset and a split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from psptool.cli.console import (
    choice,
    examples,
    exclude,
    grid,
    mute,
    next_step,
    note,
    say,
    say_json,
    shell,
    table,
    warn,
)
from psptool.cli.newest import DATASET, RUN, SPLIT, choose, is_default
from psptool.cli.overrides import Shorthands
from psptool.cli.presets import ON_A_GPU, PRESET_HELP
from psptool.cli.progress import ProgressReport
from psptool.common.errors import PspError
from psptool.common.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from psptool.common.distributed import ProcessGroup
    from psptool.schemas.run import RunConfig
    from psptool.schemas.training import TrainingConfig
    from psptool.training.api import Trained
    from psptool.training.graphs import Graphs
    from psptool.training.loop import Progress
    from psptool.training.runs.unfinished import Resume

EXAMPLES = examples(
    "psptool train",
    "psptool train --method supervised --lr 0.005 --epochs 20",
    "psptool train --split splits/ucla-xview-0.05-s0.json --preset best",
    "psptool train --like runs/ucla-xview-0.05-s0-psp-fast --seed 1",
    "psptool train --dry-run",
    "psptool train --profile 5",
)


def train(
    ctx: typer.Context,
    split: Annotated[Path | None, typer.Option(help="The split; by default the newest in splits/.")] = None,
    data: Annotated[Path | None, typer.Option(help="The dataset; by default the split's, in data/.")] = None,
    method: Annotated[
        str | None, typer.Option(help="psp (default), or supervised: the supervised baseline.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help=PRESET_HELP, show_default=False),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file, or config.json of a run.")] = None,
    like: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Use a run's configuration, split and dataset.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one value; repeatable."),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (optim.lr).")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps (optim.steps).")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the training clips, instead of --steps.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Labelled clips per step (optim.labelled_batch).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="auto, float32 or bfloat16; by default the preset's.")
    ] = None,
    graphs: Annotated[
        str, typer.Option(help="CUDA graphs on one GPU: auto (default) or off.", show_default=False)
    ] = "auto",
    seed: Annotated[int | None, typer.Option(help="Random seed; by default that of the split.")] = None,
    profile: Annotated[
        int | None,
        typer.Option(metavar="STEPS", help="Profile this many steps; keep no run."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default a new one in runs/.")] = None,
    resume: Annotated[
        str,
        typer.Option(help="Interrupted runs: auto (default), required or off.", show_default=False),
    ] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, show the configuration; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model. psptool config --table lists the keys of --set."""
    from psptool.cli.dry_run import dry_run as show_plan
    from psptool.common.distributed import init_distributed, local_device
    from psptool.device import choose_device
    from psptool.training.graphs import Graphs
    from psptool.training.runs.folder import RunFolder
    from psptool.training.runs.unfinished import Resume

    use_graphs = cast(Graphs, choice(graphs, get_args(Graphs), "--graphs"))
    how = cast(Resume, choice(resume, get_args(Resume), "--resume"))
    if profile is not None and profile < 1:
        raise PspError("--profile", str(profile), "at least 1 step")
    exclude(ctx, "--profile", "--dry-run")
    exclude(ctx, "--like", "--config")
    short = Shorthands(lr, steps, epochs, batch_size, precision)
    asked = _Asked(method, preset, like or config, tuple(changes or ()), seed, short)
    with init_distributed() as ranks:
        if not ranks.is_main:
            mute()
        # Other ranks may not have the disk of rank 0.
        known = ranks.call_on_main(lambda: _known(out) if how != "off" else None)
        if known is not None and device == "auto":
            device = _device_again(known)
        computing_on = local_device(choose_device(device), ranks)
        files, recipe = _inputs(
            asked, known, None if like is None else RunFolder(like).read_config(), data, split
        )
        if computing_on.type == "cuda" and known is None and asked.preset is None and asked.file is None:
            note(ON_A_GPU)
        if dry_run:
            show_plan(*files, recipe, computing_on, ranks, as_json)
            return
        if profile is not None:
            _say_profile(*files, recipe, computing_on, profile, as_json)
            return
        done = run_training(*files, recipe, computing_on, out, resume=how, graphs=use_graphs, ranks=ranks)
    _say_result(done, as_json)


@dataclass(frozen=True)
class _Asked:
    """The options that determine the training configuration, with the defaults of the command."""

    method: str | None = None
    preset: str | None = None
    file: Path | None = None
    changes: tuple[str, ...] = ()
    seed: int | None = None
    short: Shorthands = field(default_factory=Shorthands)

    def resolve(self) -> TrainingConfig:
        """The configuration; errors as for `psptool.schemas.recipes.resolve`."""
        from psptool.schemas.recipes import resolve
        from psptool.schemas.training import Method

        method = (
            None if self.method is None else cast(Method, choice(self.method, get_args(Method), "--method"))
        )
        changes = self.short.changes(self.changes)
        return resolve(method=method, preset=self.preset, file=self.file, changes=changes, seed=self.seed)


def _inputs(
    asked: _Asked, resumed: RunConfig | None, like: RunConfig | None, data: Path | None, split: Path | None
) -> tuple[tuple[Path, Path], TrainingConfig]:
    """Paths of dataset and split, and the training configuration.

    Args:
        asked: The options that make the configuration. Without any, a resumed run keeps its own.
        resumed: Configuration of the run to resume, if any.
        like: Configuration of the run given with ``--like``, if any.
        data: Option ``--data``; by default that of the runs, or the newest.
        split: Option ``--split``; by default that of the runs, or the newest.
    """
    from psptool.common.paths import recalled
    from psptool.schemas.split import Split

    recipe = resumed.training if resumed is not None and asked == _Asked() else asked.resolve()
    for run in (resumed, like):
        if run is not None:
            split, data = split or recalled(run.latest.split_path), data or recalled(run.latest.data_path)
    split_path = choose(SPLIT, split, None if data is None else DATASET.dataset(data))
    label_split = Split.load(split_path)
    data_path = choose(DATASET, data, label_split.dataset)
    return (data_path, split_path), asked.short.with_epochs(recipe, label_split)


def _say_result(done: Trained, as_json: bool) -> None:
    from psptool.training.curves import TERMS

    if as_json:
        say_json(_summary(done))
        return
    rows = [
        (TERMS.get(key, key.replace("_", " ")), value)
        for key, value in _summary(done).items()
        if value is not None
    ]
    table(str(done.folder), rows[1:])
    if is_default(RUN, done.folder):
        next_step("psptool evaluate")
    else:
        next_step("psptool evaluate {}", done.folder)


def _known(out: Path | None) -> RunConfig | None:
    """The configuration of the run in the folder `out`; None if there is none."""
    from psptool.schemas.run import RunConfig
    from psptool.training.runs.folder import RunFolder

    if out is None or not RunFolder(out).config.exists():
        return None
    return RunConfig.load(RunFolder(out).config)


def _device_again(known: RunConfig) -> str:
    """The last device of a run, or ``auto`` if this machine does not have it."""
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
        f"{counted(steps, 'step')}, {steps / found.seconds:.2f} steps/s under the profiler",
        ("part of a step", "ms per step"),
        [(part, round(milliseconds, 1)) for part, milliseconds in found.parts.items()],
    )
    if found.gpu_busy is not None:
        say(
            f"GPU busy {found.gpu_busy:.1f} ms per step, {found.launches:.0f} kernels per step, without CUDA graphs"
        )
    else:
        say(f"{found.launches:.0f} operators per step")
    grid(
        "",
        ("operator", "ms per step", "calls per step"),
        [(name, round(spent, 1), round(calls, 1)) for name, spent, calls in found.operators],
    )


def run_training(
    data: Path,
    split: Path,
    recipe: TrainingConfig,
    device: torch.device,
    out: Path | None = None,
    runs: Path = Path("runs"),
    on_start: Callable[[Path, RunConfig], None] | None = None,
    resume: Resume = "off",
    graphs: Graphs = "auto",
    ranks: ProcessGroup | None = None,
) -> Trained:
    """Train, with progress on stderr; arguments and errors as `psptool.training.api.train`.

    Without `on_start`, the values that differ from the preset are printed.
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
                data, split, recipe, device=device, out=out, runs=runs, resume=resume, graphs=graphs, ranks=ranks,
                on_start=begin,
                on_progress=lambda now: report(now.step, steps, _terms(now), due=True),
                on_step=lambda step: report(step, steps), on_message=note, on_warning=warn,
            )  # fmt: skip
        except Stopped as stop:
            program = "psptool" if ranks.size == 1 else "torchrun … -m psptool"
            again = shell(f"{program} train --resume required --out {{}}", stop.folder)
            raise KeyboardInterrupt(f"{stop} Resume: {again}") from stop


def _tell_recipe(folder: Path, config: RunConfig) -> None:
    """Print the run folder and the values that differ from the preset."""
    changed = " ".join(f"{key}={_short(value)}" for key, value in _changed(config.training).items())
    note(f"run: {folder}, on {config.latest.device} in {config.precision}, seed {config.seed}")
    note(f"  preset {config.training.preset}" + (f" with {changed}" if changed else ""))
    note(f"  all values: {folder / 'config.json'}")


def _changed(recipe: TrainingConfig) -> dict[str, Any]:
    """The values, by dotted key, that differ from the preset's; none if this version does not have the preset."""
    from psptool.schemas.base import flat
    from psptool.schemas.recipes import PRESETS, resolve

    if recipe.preset not in PRESETS:  # a preset of an earlier version
        return {}
    usual = dict(flat(resolve(preset=recipe.preset).model_dump(mode="json")))
    return {key: value for key, value in flat(recipe.model_dump(mode="json")) if value != usual[key]}


def _short(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _terms(now: Progress) -> str:
    """Loss, learning rate, and validation accuracy if measured; log.jsonl has each term of the loss."""
    measured = "" if now.validation is None else f"  val {100 * now.validation:.1f} %"
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
