"""Training from a dataset and a split to a run folder: checks, training loop, and saved weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from psptool.common.disk import check_disk
from psptool.common.distributed import SINGLE, ProcessGroup
from psptool.common.errors import PspError
from psptool.common.machine import commit, hardware
from psptool.common.text import counted
from psptool.common.version import __version__
from psptool.data.batches.ragged import Batcher, RaggedClips, check_persons
from psptool.data.splits.stored import require_same_clips
from psptool.data.store.reading import Store, open_store
from psptool.device import PRECISIONS, STORAGES, choose_precision, precision_warnings
from psptool.model.build import build_model, require_embeddings
from psptool.model.synced_norm import synchronize_norms
from psptool.schemas.run import Provenance, RunConfig, provenance_warning
from psptool.schemas.split import Split
from psptool.schemas.training import TrainingConfig
from psptool.skeletons.keys import NO_LABEL
from psptool.training.checkpoint import check_window, checkpoint_bytes
from psptool.training.graphs import Capture, CudaCapture, Graphs, side_stream, uses_graphs
from psptool.training.guards import explain_out_of_memory, kernel_warnings, limit_levels, preflight_warnings
from psptool.training.loop import Loop, Pools, Progress
from psptool.training.memory import StepMemory
from psptool.training.optimization import build_optimizer
from psptool.training.record import Record
from psptool.training.runs.folder import NOT_TERMS, RunFolder, innermost_existing
from psptool.training.runs.state import damaged, read_state
from psptool.training.runs.unfinished import Resume, RunSlot, resolve_run
from psptool.training.stopping import Stopped, stop_requests

OTHER_BYTES = 200_000
"""Estimated size of the log, the learning curves and the headers of the other files of a run."""


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        folder: The run folder.
        config: The run configuration, as in ``config.json`` of the run folder.
        final: Progress at the last step.
        best: Highest accuracy on the validation clips; None if the split has none.
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
    graphs: Graphs = "auto",
    ranks: ProcessGroup = SINGLE,
    on_start: Callable[[Path, RunConfig], None] = lambda folder, config: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_message: Callable[[str], None] = lambda message: None,
    on_warning: Callable[[str], None] = lambda warning: None,
) -> Trained:
    """Train a model and write its run folder. Test clips are not used.

    If the pool has fewer clips than ``optim.pool_batch``, every step uses the whole pool, and the run configuration
    has that number.

    Args:
        data: The dataset file.
        split: The split file.
        recipe: The training configuration.
        device: The device to train on.
        out: The run folder; by default a new folder in ``runs``.
        runs: The folder of all runs.
        resume: Whether to resume an unfinished run; see `psptool.training.runs.unfinished.resolve_run`.
        graphs: Whether to use CUDA graphs; see `psptool.training.graphs`. The result is the same up to rounding.
        ranks: The processes of the training, as returned by `psptool.common.distributed.init_distributed`.
        on_start: Called before the first step with the run folder and the run configuration.
        on_progress: Called with the progress of the training loop.
        on_step: Called after each step with the number of completed steps.
        on_message: Called with messages, such as which run is resumed.
        on_warning: Called with each warning, most of them before the first step.

    Raises:
        PspError: The split belongs to another dataset; the configuration does not fit the split; a file cannot be read
            or written; there is no run to resume; the loss is not finite; memory ran out. A new run folder is removed
            if it has neither log entries nor a checkpoint.
        Stopped: The training was interrupted; its checkpoint is saved in the run folder.
    """
    inputs = _load(data, split, recipe, device, ranks, on_message, on_warning)
    existing = innermost_existing(out or runs)
    slot = _resolve_run(
        inputs.config, out, runs, resume, ranks, _supported_precisions(device), on_message, on_warning
    )
    removed_on_error = slot.folder.removed_on_error(existing) if slot.held else nullcontext()
    with slot.held or nullcontext(), removed_on_error:
        if slot.finished:
            return _finished_run(slot.folder, slot.config, ranks)
        config, checkpoint = slot.config, _read_checkpoint(slot)
        if checkpoint is not None:
            config = _resumed_config(
                slot, inputs.config.latest, recipe, checkpoint["step"], device, on_warning
            )
        on_start(slot.folder.path, config)
        capture = CudaCapture(device) if uses_graphs(graphs, device, ranks) else None
        with side_stream(device) if capture else nullcontext():
            return _run(
                slot.folder,
                config,
                inputs,
                ranks,
                device,
                checkpoint,
                capture,
                on_progress=on_progress,
                on_step=on_step,
                on_warning=on_warning,
            )


@dataclass(frozen=True)
class _Inputs:
    """What a training is made from.

    Attributes:
        config: The configuration of a new run, with the current provenance.
        pools: Clip numbers by use.
        clips: The clips of `pools`, on the device or the host.
    """

    config: RunConfig
    pools: Pools
    clips: RaggedClips


def _load(
    data: Path,
    split: Path,
    recipe: TrainingConfig,
    device: torch.device,
    ranks: ProcessGroup,
    on_message: Callable[[str], None],
    on_warning: Callable[[str], None],
) -> _Inputs:
    """Check the configuration against dataset and split, and load the clips; arguments and errors as for `train`."""
    require_embeddings(recipe)
    label_split = Split.load(split)
    with open_store(data) as store:
        require_same_clips(store, split, label_split)
        pools = _pools(store, split, label_split, recipe)
        train_set = [store.index(name) for name in label_split.labelled + label_split.unlabelled]
        classes = len(np.setdiff1d(store.table.label[train_set], NO_LABEL))
        for warning in (
            *precision_warnings(recipe.precision, device),
            *kernel_warnings(recipe, store.manifest.topology.size, device),
            *preflight_warnings(label_split, recipe, classes),
        ):
            on_warning(warning)
        recipe, said = limit_levels(_limit_pool_batch(recipe, pools), store.manifest.topology)
        if said:
            on_message(said)
        _require_clip_per_process(recipe, ranks)
        config = _run_config(store, label_split, data, split, recipe, device, ranks)
        used = torch.cat((pools.labelled, pools.pool, pools.validation)).numpy()
        check_persons(recipe.model.absent_persons, store.table.persons[used])
        storage = STORAGES[recipe.storage]
        clips = RaggedClips.from_store(store, config.topology, device, storage, used, verified=True)
    if clips.place == "host":
        on_message(f"{data}: does not fit in the memory of {device}; batches are gathered in host memory")
    now = config.latest.model_copy(update={"clips_on": clips.place})
    return _Inputs(config.model_copy(update={"provenance": (now,)}), pools, clips)


def _read_checkpoint(slot: RunSlot) -> Mapping[str, Any] | None:
    """The checkpoint to resume from; None for a new run.

    Raises:
        PspError: It is damaged.
    """
    if slot.state is None:
        return None
    source = str(slot.folder.resume)
    checkpoint = read_state(slot.state, source)
    try:
        check_window(checkpoint["window"], slot.config.training)
    except ValueError as error:
        raise damaged(source, error) from error
    return checkpoint


def _resumed_config(
    slot: RunSlot,
    now: Provenance,
    recipe: TrainingConfig,
    step: int,
    device: torch.device,
    on_warning: Callable[[str], None],
) -> RunConfig:
    """The configuration of a resumed run with the current provenance; warns if it differs from the previous one."""
    now = now.model_copy(update={"from_step": step})
    message = provenance_warning(slot.config, now)
    if message:
        on_warning(f"{slot.folder.path}: {message}")
    default = choose_precision(recipe.precision, device)
    if default != slot.config.precision:
        on_warning(
            f"{slot.folder.path}: resumed in {slot.config.precision}, the precision of the run; "
            f"precision=auto is {default} on {device}"
        )
    return slot.config.model_copy(update={"provenance": (*slot.config.provenance, now)})


def _run(
    folder: RunFolder,
    config: RunConfig,
    inputs: _Inputs,
    ranks: ProcessGroup,
    device: torch.device,
    checkpoint: Mapping[str, Any] | None,
    capture: Capture | None,
    *,
    on_progress: Callable[[Progress], None],
    on_step: Callable[[int], None],
    on_warning: Callable[[str], None],
) -> Trained:
    """Run the training loop with the run configuration ``config``, and write the results to ``folder``."""
    recipe, clips, pools = config.training, inputs.clips, inputs.pools
    torch.manual_seed(config.seed)  # for the initial weights; sampling uses other generators
    model = build_model(recipe, config.topology, len(config.class_names)).to(device)
    if ranks.size > 1:
        synchronize_norms(model)
        ranks.broadcast_weights(model)
    batcher = Batcher.of(clips, recipe)
    precision = PRECISIONS[config.precision]
    loop = Loop(model, batcher, pools, recipe, config.seed, precision, ranks, capture, on_warning)
    if ranks.is_main:
        _require_disk(folder, model, recipe, validated=len(pools.validation) > 0)
    record = Record(folder, model, config) if ranks.is_main else None

    def report(progress: Progress) -> None:
        if record is not None:
            record.add(progress)
        on_progress(progress)

    memory = StepMemory(
        topology=clips.topology,
        classes=len(config.class_names),
        persons=float(clips.persons.double().mean()),
        itemsize=PRECISIONS[config.precision].itemsize,
        processes=ranks.size,
    )
    memory_errors = explain_out_of_memory(recipe, device, memory)
    with stop_requests(ranks.size) as requested, memory_errors, closing(record) if record else nullcontext():
        step = loop.run(
            report,
            on_start=record.start if record is not None else lambda step: None,
            on_step=on_step,
            save=folder.save_resume,
            stop_requested=requested,
            save_best=record.save_best if record is not None else lambda: None,
            checkpoint=checkpoint,
            source=str(folder.resume),
        )
    if step < recipe.optim.steps:
        raise Stopped(folder.path, step, recipe.optim.steps)
    if record is not None:
        record.finish()
    return _finished_run(folder, config, ranks)


def _require_disk(folder: RunFolder, model: nn.Module, recipe: TrainingConfig, *, validated: bool) -> None:
    """Check before the first step that the disk has space for the weights and for a checkpoint and its replacement."""
    weights, checkpoint = checkpoint_bytes(model, build_optimizer(model, recipe.optim), recipe.has_teacher)
    existing = sum(path.stat().st_size for path in (folder.resume, folder.weights("best")) if path.exists())
    needed = weights * (2 if validated else 1) + 2 * checkpoint + OTHER_BYTES - existing
    check_disk(folder.weights("last"), needed)


def _resolve_run(
    config: RunConfig,
    out: Path | None,
    runs: Path,
    resume: Resume,
    ranks: ProcessGroup,
    precisions: Collection[str],
    on_message: Callable[[str], None],
    on_warning: Callable[[str], None],
) -> RunSlot:
    """Choose the run folder on rank 0, send the choice to all ranks, and report it."""
    slot = ranks.call_on_main(lambda: resolve_run(config, out, runs, resume, precisions))
    for path, reason in slot.unreadable:
        on_warning(f"{path}: unfinished run not resumed: {reason}")
    for path, reason in slot.skipped[:1]:
        on_message(f"{path}: unfinished run not resumed: {reason}")
    if slot.finished:
        on_message(f"{slot.folder.path}: already finished; to train again, use another --out or none")
    elif slot.state is not None:
        on_message(f"{slot.folder.path}: resuming this run; to train a new run, use --resume off")
    return slot


def _supported_precisions(device: torch.device) -> tuple[str, ...]:
    """Precisions that ``device`` supports, including slow emulation."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return ("float32",)
    return tuple(PRECISIONS)


def _finished_run(folder: RunFolder, config: RunConfig, ranks: ProcessGroup) -> Trained:
    """The result of a finished run. Rank 0 reads it and sends it to all ranks, which may not have its disk."""
    return ranks.call_on_main(lambda: _read_result(folder, config))


def _read_result(folder: RunFolder, config: RunConfig) -> Trained:
    """The result of a finished run, from its log."""
    entries = folder.read_log()
    if not entries or not {"lr", "seconds"} <= entries[-1].keys():
        raise PspError(f"{folder.log}: no entries", fix="Train again with --resume off.")
    last, steps = entries[-1], config.training.optim.steps
    terms = {name: value for name, value in last.items() if name not in NOT_TERMS}
    best = max((entry["validation"] for entry in entries if "validation" in entry), default=None)
    final = Progress(last["step"], steps, terms, last["lr"], last["seconds"], last.get("validation"))
    return Trained(folder.path, config, final, best)


def _pools(store: Store, path: Path, split: Split, recipe: TrainingConfig) -> Pools:
    """Clip numbers by use. The pool is the training set, or only the unlabelled clips (`loss.contrast_labelled`).

    Args:
        store: The dataset.
        path: The split file, for errors.
        split: The split.
        recipe: The training configuration.
    """

    def numbers(names: tuple[str, ...]) -> torch.Tensor:
        return torch.tensor([store.index(name) for name in sorted(names)], dtype=torch.int64)

    if not split.labelled:
        raise PspError(
            f"{path}: no labelled clips", fix="Make a split with labelled clips: psptool split --ratio 0.05."
        )
    pool: tuple[str, ...] = ()
    if recipe.needs_pool:
        pool = split.pool(recipe.loss.contrast_labelled)
        if min(recipe.optim.pool_batch, len(pool)) < 2:
            raise PspError(
                "optim.pool_batch: too few clips for contrastive loss or teacher",
                f"{counted(recipe.optim.pool_batch, 'clip')} per step, {len(pool)} in the pool",
                "2 or more of both",
                "Raise optim.pool_batch, use a split with more clips, or train with --method supervised.",
            )
    return Pools(numbers(split.labelled), numbers(pool), numbers(split.validation))


def _limit_pool_batch(recipe: TrainingConfig, pools: Pools) -> TrainingConfig:
    """The configuration with ``optim.pool_batch`` limited to the size of the pool: presets fit small datasets."""
    size = len(pools.pool)
    if not recipe.needs_pool or recipe.optim.pool_batch <= size:
        return recipe
    return recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"pool_batch": size})})


def _require_clip_per_process(recipe: TrainingConfig, ranks: ProcessGroup) -> None:
    """Raise a `PspError` if a batch has fewer clips than processes, or with a teacher, fewer clips of the pool."""
    optim = recipe.optim
    # The teacher predicts for the pool only.
    key, clips = "optim.pool_batch", optim.pool_batch
    if not recipe.has_teacher:
        key, clips = "optim.labelled_batch", optim.labelled_batch + clips * recipe.needs_pool
    if clips < ranks.size:
        of_the_pool = " of the pool" if recipe.has_teacher else ""
        raise PspError(
            "torchrun --nproc-per-node: more processes than clips per step",
            found=f"{counted(ranks.size, 'process', 'processes')}, {counted(clips, 'clip')}{of_the_pool} per step",
            expected=f"at least one clip{of_the_pool} per process",
            fix=f"Start fewer processes, or raise {key}.",
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
    """The run configuration of a new run, with the current provenance."""
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
        description=manifest.description,
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
