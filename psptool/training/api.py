"""A training from files to a run folder: checks before the first step, then the loop, then the weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psptool.common.distributed import SINGLE, ProcessGroup
from psptool.common.errors import PspError
from psptool.common.machine import commit, hardware
from psptool.common.version import __version__
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.skeletons.topologies import TOPOLOGIES
from psptool.data.splits.stored import require_same_clips
from psptool.data.store.reading import Store, open_store
from psptool.device import PRECISIONS, STORAGES, choose_precision, precision_warnings
from psptool.model.build import build_model
from psptool.model.synced_norm import synchronize_norms
from psptool.schemas.run import Provenance, RunConfig, provenance_warning
from psptool.schemas.split import Split
from psptool.schemas.training import TrainingConfig
from psptool.training.guards import explain_out_of_memory, preflight_warnings
from psptool.training.loop import Loop, Pools, Progress
from psptool.training.memory import StepMemory
from psptool.training.record import Record
from psptool.training.runs.folder import NO_TERMS, RunFolder
from psptool.training.runs.state import read_state
from psptool.training.runs.unfinished import Resume, RunSlot, resolve_run
from psptool.training.stopping import Stopped, requests


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        folder: The run's folder.
        config: What stands in its ``config.json``, in the process that writes it.
        final: The last word of the loop.
        best: The best accuracy on the validation clips; None where the split has none.
    """

    folder: Path
    config: RunConfig
    final: Progress
    best: float | None


def train(
    data: Path,
    split: Path,
    recipe: TrainingConfig,
    *,
    device: torch.device,
    out: Path | None = None,
    runs: Path = Path("runs"),
    resume: Resume = "off",
    ranks: ProcessGroup = SINGLE,
    on_start: Callable[[Path, RunConfig], None] = lambda folder, config: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_message: Callable[[str], None] = lambda words: None,
    on_warning: Callable[[str], None] = lambda doubt: None,
) -> Trained:
    """Train a model and leave it in a run folder. The test clips are never looked at.

    Where the pool has fewer clips than the recipe draws a step, all are drawn; the run's configuration says so.

    Args:
        data: The dataset.
        split: A split of it.
        recipe: Every value of the recipe.
        device: Where to compute.
        out: The run's folder; a new one in ``runs`` by default.
        runs: Where runs lie.
        resume: Whether to go on with an unfinished run; see `psptool.training.runs.unfinished.resolve_run`.
        ranks: The processes that train together, as `psptool.common.distributed.join` gives them.
        on_start: Called with the folder and its configuration before the first step.
        on_progress: Called with the loop's progress.
        on_step: Called with the number of steps done, after each step.
        on_message: Called with what was decided about an unfinished run.
        on_warning: Called with each thing that a user should know before the first step.

    Raises:
        PspError: The split is another dataset's; the recipe does not fit the split; a file cannot be read or
            written; there is no run to resume; the loss is not finite; memory ran out.
        Stopped: The process was asked to stop; the run's folder keeps where it stands.
    """
    draw = Split.load(split)
    with open_store(data) as store:
        require_same_clips(store, split, draw)
        pools = _pools(store, draw, recipe)
        train_set = [store.index(name) for name in draw.labelled + draw.unlabelled]
        classes = len(np.unique(store.table.label[train_set]))
        for doubt in (
            *precision_warnings(recipe.precision, device),
            *preflight_warnings(draw, recipe, classes),
        ):
            on_warning(doubt)
        recipe = _fitting(recipe, pools)
        _check_share(recipe, ranks)
        config = _run_config(store, draw, data, split, recipe, device, ranks)
        clips = RaggedClips.from_store(store, TOPOLOGIES[config.topology], device, STORAGES[recipe.storage])
        now = config.latest.model_copy(update={"clips_on": clips.place})
        config = config.model_copy(update={"provenance": (now,)})
        if clips.place == "host":
            on_message("the clips do not fit on the device: batches are gathered in host memory")
    place = _place(config, out, runs, resume, ranks, _computable(device), on_message, on_warning)
    with place.held or nullcontext():
        if place.finished:
            return _from_log(place.folder, place.config)
        state = None if place.state is None else read_state(place.state, str(place.folder.resume))
        config = (
            place.config if state is None else _resumed(place, now, recipe, state["step"], device, on_warning)
        )
        on_start(place.folder.path, config)
        return _run(place.folder, config, clips, pools, ranks, device, on_progress, on_step, state)


def _resumed(
    place: RunSlot,
    now: Provenance,
    recipe: TrainingConfig,
    step: int,
    device: torch.device,
    on_warning: Callable[[str], None],
) -> RunConfig:
    """The run's configuration with what it runs on now; a difference is a warning."""
    now = now.model_copy(update={"from_step": step})
    words = provenance_warning(place.config, now)
    if words:
        on_warning(f"{place.folder.path}: {words}")
    usual = choose_precision(recipe.precision, device)
    if usual != place.config.precision:
        on_warning(
            f"{place.folder.path}: resumed in its own {place.config.precision}; auto would be {usual} on {device}"
        )
    return place.config.model_copy(update={"provenance": (*place.config.provenance, now)})


def _run(
    folder: RunFolder,
    config: RunConfig,
    clips: RaggedClips,
    pools: Pools,
    ranks: ProcessGroup,
    device: torch.device,
    on_progress: Callable[[Progress], None],
    on_step: Callable[[int], None],
    state: Mapping[str, Any] | None,
) -> Trained:
    """The training itself, in its folder."""
    recipe = config.training
    torch.manual_seed(config.seed)  # of the weights; draws have generators of their own
    model = build_model(recipe, TOPOLOGIES[config.topology], len(config.class_names)).to(device)
    if ranks.size > 1:
        synchronize_norms(model)
        ranks.broadcast_weights(model)
    batcher = Batcher.of(clips, recipe)
    loop = Loop(model, batcher, pools, recipe, config.seed, PRECISIONS[config.precision], ranks)
    record = Record(folder, model, config) if ranks.is_main else None
    latest: list[Progress] = []

    def told(progress: Progress) -> None:
        latest[:] = [progress]
        if record is not None:
            record.add(progress)
        on_progress(progress)

    begin = record.begin if record is not None else lambda step: None
    memory = StepMemory(
        topology=clips.topology,
        classes=len(config.class_names),
        persons=float(clips.persons.double().mean()),
        itemsize=PRECISIONS[config.precision].itemsize,
        processes=ranks.size,
    )
    watched = explain_out_of_memory(recipe, device, memory)
    with requests(ranks.size) as asked, watched, closing(record) if record else nullcontext():
        done = loop.run(
            told, begin=begin, on_step=on_step, save=folder.save_resume, asked_to_stop=asked, state=state,
            source=str(folder.resume), keep_best=record.keep_best if record is not None else lambda: None,
        )  # fmt: skip
    if done < recipe.optim.steps:
        raise Stopped(folder.path, done, recipe.optim.steps)
    if record is None:
        # A state of the last step leaves nothing to say.
        final = latest[0] if latest else Progress(done, done, {}, 0.0, 0.0)
        return Trained(folder.path, config, final, None)
    record.finish()
    return _from_log(folder, config)


def _place(
    config: RunConfig,
    out: Path | None,
    runs: Path,
    resume: Resume,
    ranks: ProcessGroup,
    precisions: Collection[str],
    on_message: Callable[[str], None],
    on_warning: Callable[[str], None],
) -> RunSlot:
    """The run's folder, which the first rank chooses for all, and what was decided about it, in words."""
    place = resolve_run(config, out, runs, resume, precisions) if ranks.is_main else None
    everyones = ranks.broadcast(replace(place, held=None) if place is not None else place)
    assert everyones is not None
    for path, reason in everyones.unreadable:
        on_warning(f"not gone on with the unfinished run {path}: {reason}")
    for path, reason in everyones.passed_by[:1]:
        on_message(f"not gone on with the unfinished run {path}: {reason}")
    if everyones.finished:
        on_message(
            f"{everyones.folder.path}: trained to its end already; another --out, or none, trains anew"
        )
    elif everyones.state is not None:
        on_message(f"going on with {everyones.folder.path} (--resume off trains anew)")
    return everyones if place is None else place


def _computable(device: torch.device) -> tuple[str, ...]:
    """The precisions that the device can compute in, however slowly."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return ("float32",)
    return tuple(PRECISIONS)


def _from_log(folder: RunFolder, config: RunConfig) -> Trained:
    """A finished run, as its log has it."""
    entries = folder.read_log()
    if not entries or not {"lr", "seconds"} <= entries[-1].keys():
        raise PspError(f"{folder.log}: no entries", fix="Train anew with --resume off.")
    last, steps = entries[-1], config.training.optim.steps
    terms = {name: value for name, value in last.items() if name not in NO_TERMS}
    best = max((entry["validation"] for entry in entries if "validation" in entry), default=None)
    final = Progress(last["step"], steps, terms, last["lr"], last["seconds"], last.get("validation"))
    return Trained(folder.path, config, final, best)


def _pools(store: Store, split: Split, recipe: TrainingConfig) -> Pools:
    """The clips by number; the pool is the whole train set, or the unlabelled clips alone."""

    def numbers(names: tuple[str, ...]) -> torch.Tensor:
        return torch.tensor([store.index(name) for name in sorted(names)], dtype=torch.int64)

    if not split.labelled:
        raise PspError(
            "the split has no labelled clips", fix="Make one that has with psptool split --ratio 0.05."
        )
    pool: tuple[str, ...] = ()
    if recipe.needs_pool:
        pool = split.unlabelled + (split.labelled if recipe.loss.contrast_labelled else ())
        if min(recipe.optim.pool_batch, len(pool)) < 2:
            raise PspError(
                "optim.pool_batch: too few clips of the pool for contrast or teacher",
                f"{recipe.optim.pool_batch} clips a step of {len(pool)}",
                "2 or more",
                "Raise it, or train with --method supervised.",
            )
    return Pools(numbers(split.labelled), numbers(pool), numbers(split.validation))


def _fitting(recipe: TrainingConfig, pools: Pools) -> TrainingConfig:
    """The recipe with no more clips a step than the pool has, so that a preset serves a small dataset too."""
    most = len(pools.pool)
    if not recipe.needs_pool or recipe.optim.pool_batch <= most:
        return recipe
    return recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"pool_batch": most})})


def _check_share(recipe: TrainingConfig, ranks: ProcessGroup) -> None:
    clips = recipe.optim.labelled_batch + (recipe.optim.pool_batch if recipe.needs_pool else 0)
    if clips < ranks.size:
        raise PspError(
            f"{ranks.size} processes for {clips} clips a step",
            expected="a clip for each",
            fix="Start fewer with torchrun --nproc-per-node, or raise optim.labelled_batch.",
        )


def _run_config(
    store: Store,
    split: Split,
    data: Path,
    split_path: Path,
    recipe: TrainingConfig,
    device: torch.device,
    ranks: ProcessGroup,
) -> RunConfig:
    manifest = store.manifest
    now = Provenance(
        device=str(device),
        hardware=hardware(str(device)),
        processes=ranks.size,
        data_path=str(data),
        split_path=str(split_path),
        tool_version=__version__,
        torch_version=torch.__version__,
        commit=commit(),
    )
    return RunConfig(
        dataset=manifest.dataset,
        topology=manifest.topology,
        class_names=manifest.class_names,
        preparation=manifest.settings,
        split_name=split_path.stem,
        split_digest=split.digest,
        clips_fingerprint=manifest.fingerprints.clips,
        content_fingerprint=manifest.fingerprints.content,
        seed=split.seed if recipe.seed is None else recipe.seed,
        precision=choose_precision(recipe.precision, device),
        training=recipe,
        provenance=(now,),
    )
