"""A training from files to a run folder: checks before the first step, then the loop, then the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from psptool import __version__
from psptool.batches.ragged import Batcher, RaggedClips
from psptool.errors import PspError
from psptool.machine import commit, hardware
from psptool.model.classifier import PSPNet
from psptool.runs.folder import RunFolder
from psptool.schemas.run import RunConfig
from psptool.schemas.split import Split
from psptool.schemas.training import TrainingConfig
from psptool.skeletons.topologies import TOPOLOGIES
from psptool.store.reading import Store, open_store
from psptool.train.device import PRECISIONS, choose_precision
from psptool.train.loop import Loop, Pools, Progress


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        folder: The run's folder.
        config: What stands in its ``config.json``.
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
    begun: Callable[[Path, RunConfig], None] = lambda folder, config: None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train a model and leave it in a run folder. The test clips are never looked at.

    Where the contrast has fewer clips than the recipe draws a step, it draws them all; the run's configuration says so.

    Args:
        data: The dataset.
        split: A split of it.
        recipe: Every value of the recipe.
        device: Where to compute.
        out: The run's folder; a new one in ``runs`` by default.
        runs: Where runs lie.
        begun: Called with the folder and its configuration before the first step.
        tell: Called with the loop's progress.

    Raises:
        PspError: The split is another dataset's; the recipe does not fit the split; a file cannot be read or
            written; the loss is not finite.
    """
    draw = Split.load(split)
    with open_store(data) as store:
        _check_split(store, split, draw)
        pools = _pools(store, draw, recipe)
        recipe = _fitting(recipe, pools)
        config = _run_config(store, draw, data, split, recipe, device)
        clips = RaggedClips.from_store(store, TOPOLOGIES[config.topology].mirror, device)
    folder = RunFolder.create(config, out, runs)
    begun(folder.path, config)
    torch.manual_seed(config.seed)  # of the weights; draws have generators of their own
    model = PSPNet(
        recipe.model,
        TOPOLOGIES[config.topology],
        len(config.class_names),
        contrast=bool(recipe.contrast_levels),
    ).to(device)
    batcher = Batcher(clips, recipe.sampling, recipe.augment, recipe.model.absent_persons)
    latest: list[Progress] = []
    looks: list[float] = []

    def log(progress: Progress) -> None:
        entry = {
            "step": progress.step,
            **progress.terms,
            "lr": progress.lr,
            "seconds": round(progress.seconds, 3),
        }
        if progress.validation is not None:
            looks.append(progress.validation)
            entry["validation"] = progress.validation
        folder.append_log(entry)
        if progress.best:
            folder.save_weights("best", model.state_dict())
        latest[:] = [progress]
        tell(progress)

    Loop(model, batcher, pools, recipe, config.seed, PRECISIONS[config.precision]).run(log)
    folder.save_weights("last", model.state_dict())
    return Trained(folder.path, config, latest[0], max(looks, default=None))


def _check_split(store: Store, path: Path, split: Split) -> None:
    manifest = store.manifest
    if split.dataset != manifest.dataset or split.clips_fingerprint != manifest.fingerprints.clips:
        raise PspError(
            f"{path}: a split of other clips than those of {store.path}",
            f"{split.dataset}, clips fingerprint {split.clips_fingerprint[:12]}…",
            f"{manifest.dataset}, {manifest.fingerprints.clips[:12]}…",
            f"Name the right dataset with --data, or make a split of this one: "
            f"psptool split --ratio 0.05 --data {store.path}.",
        )


def _pools(store: Store, split: Split, recipe: TrainingConfig) -> Pools:
    """The clips by number; the contrast draws from the whole train set, or from the unlabelled clips alone."""

    def numbers(names: tuple[str, ...]) -> torch.Tensor:
        return torch.tensor([store.index(name) for name in sorted(names)], dtype=torch.int64)

    if not split.labelled:
        raise PspError(
            "the split has no labelled clips", way_out="Make one that has with psptool split --ratio 0.05."
        )
    contrast: tuple[str, ...] = ()
    if recipe.contrast_levels:
        contrast = split.unlabelled + (split.labelled if recipe.loss.contrast_labelled else ())
        if min(recipe.optim.unlabelled, len(contrast)) < 2:
            raise PspError(
                "optim.unlabelled: the contrast compares clips with each other",
                f"{recipe.optim.unlabelled} clips a step of {len(contrast)}",
                "2 or more",
                "Raise it, or train with --method supervised.",
            )
    return Pools(numbers(split.labelled), numbers(contrast), numbers(split.validation))


def _fitting(recipe: TrainingConfig, pools: Pools) -> TrainingConfig:
    """The recipe with no more clips a step than the contrast has, so that a preset serves a small dataset too."""
    most = len(pools.contrast)
    if not recipe.contrast_levels or recipe.optim.unlabelled <= most:
        return recipe
    return recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"unlabelled": most})})


def _run_config(
    store: Store, split: Split, data: Path, split_path: Path, recipe: TrainingConfig, device: torch.device
) -> RunConfig:
    manifest = store.manifest
    return RunConfig(
        dataset=manifest.dataset,
        topology=manifest.topology,
        class_names=manifest.class_names,
        preparation=manifest.settings,
        data_path=str(data),
        split_path=str(split_path),
        split_name=split_path.stem,
        split_digest=split.digest,
        clips_fingerprint=manifest.fingerprints.clips,
        content_fingerprint=manifest.fingerprints.content,
        seed=split.seed if recipe.seed is None else recipe.seed,
        device=str(device),
        hardware=hardware(str(device)),
        precision=choose_precision(recipe.precision, device),
        training=recipe,
        tool_version=__version__,
        commit=commit(),
    )
