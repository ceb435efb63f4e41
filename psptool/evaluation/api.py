"""Evaluation of a run: from its folder to ``scores.json`` and ``confusion.png``.

Notation for array shapes: N clips of the part that is scored, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from psptool.common.atomic_write import write_whole
from psptool.common.errors import PspError
from psptool.common.paths import recalled
from psptool.common.version import __version__
from psptool.data.store.reading import Store, open_store
from psptool.evaluation.confusion import confusion_png
from psptool.evaluation.measures import confusion_matrix, per_class, predicted, top_k, unseen
from psptool.evaluation.provenance import provenance
from psptool.evaluation.scoring import StreamLogits, load_model, score_clips
from psptool.schemas.run import RunConfig
from psptool.schemas.scores import Part, Scores, StreamScores, Weights, file_name
from psptool.schemas.split import Split
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.unfinished import find_weights


@dataclass(frozen=True)
class Scored:
    """The N clips behind some scores, for those who show them one by one.

    Attributes:
        data: The dataset.
        names: N clip names.
        labels: int (N,), from 0.
        logits: Of the N clips.
    """

    data: Path
    names: tuple[str, ...]
    labels: NDArray[np.integer]
    logits: StreamLogits


def evaluate(
    run_folder: Path,
    *,
    data: Path | None = None,
    split: Path | None = None,
    weights: Weights = "last",
    part: Part = "test",
    device: torch.device | None = None,
    on_progress: Callable[[Scored], None] | None = None,
) -> Scores:
    """Score a run's test clips, and write the scores and the picture of the confusion into its folder.

    The files are ``scores.json`` and ``confusion.png``, or as `file_name` says for other weights and clips.

    Args:
        run_folder: As ``psptool train`` left it.
        data: The dataset; where it lay at training if None.
        split: The split; where it lay at training if None.
        weights: The last ones, or the best on the validation clips.
        part: The clips to score.
        device: Where to compute; the CPU if None.
        on_progress: Is told of the clips, once the scores are written.

    Raises:
        PspError: A file is absent or damaged; dataset or split are not those the run was trained on; the
            split has no clips in that part; the run folder cannot be written.
    """
    device = device or torch.device("cpu")
    folder = RunFolder(run_folder)
    config = folder.read_config()
    split_path = split or where_it_lay(run_folder, config.latest.split_path, "split")
    chosen_split = Split.load(split_path)
    with open_store(data or where_it_lay(run_folder, config.latest.data_path, "data")) as store:
        check_dataset(run_folder, config, store)
        check_split(run_folder, config, split_path, chosen_split)
        names: tuple[str, ...] = getattr(chosen_split, part)
        if not names:
            raise PspError(
                f"{split_path}: the split has no {part} clips",
                fix="Make one that has with psptool split --validation, and train on it."
                if part == "validation"
                else "Make a split again with psptool split.",
            )
        model = load_model(config, find_weights(folder, config, weights), device)
        chosen = np.array([store.index(name) for name in names])
        logits = score_clips(model, config, store, chosen, device)
        new = unseen(store.digests(chosen.tolist()), store.digests(_train_clips(store, chosen_split, part)))
        labels = store.table.label[chosen]
        scored = Scored(store.path, names, labels, logits)
    measured = measure(config, split_path.name, logits, labels, new, weights, part)
    scores = measured.model_copy(update=provenance(folder, config, chosen_split, part))
    title = f"{run_folder.resolve().name}: {100 * scores.top1:.1f} % of {scores.clips} {part} clips"
    picture = confusion_png(np.array(scores.confusion), config.class_names, title)
    write_whole(run_folder / file_name("confusion", ".png", part, weights), picture)
    scores.save(run_folder / file_name("scores", ".json", part, weights))
    if on_progress is not None:
        on_progress(scored)
    return scores


def measure(
    config: RunConfig,
    split_name: str,
    logits: StreamLogits,
    labels: NDArray[np.integer],
    new: NDArray[np.bool_],
    weights: Weights,
    part: Part,
) -> Scores:
    """All measures of N clips.

    Args:
        config: The run's.
        split_name: File name of the split.
        logits: Of the N clips.
        labels: int (N,), from 0.
        new: bool (N,), clips whose coordinates stand nowhere in the train set.
        weights: Which weights gave the logits.
        part: Which part the clips are.
    """
    names, fused = config.class_names, logits.fused
    confusion = confusion_matrix(labels, predicted(fused), len(names))
    shares = per_class(confusion)
    return Scores(
        dataset=config.dataset,
        split=split_name,
        method=config.training.method,
        preset=config.training.preset,
        seed=config.seed,
        weights=weights,
        part=part,
        top1=top_k(fused, labels, 1),
        top5=top_k(fused, labels, 5),
        streams={
            name: StreamScores(top1=top_k(own, labels, 1), top5=top_k(own, labels, 5))
            for name, own in logits.by_stream.items()
        },
        clips=len(labels),
        top1_unseen=top_k(fused[new], labels[new], 1) if new.any() else None,
        clips_unseen=int(new.sum()),
        classes_unseen=tuple(names[label] for label in np.unique(labels[new])),
        per_class={
            name: float(share) for name, share in zip(names, shares, strict=True) if not np.isnan(share)
        },
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        content_fingerprint=config.content_fingerprint,
        clips_fingerprint=config.clips_fingerprint,
        tool_version=__version__,
    )


def check_dataset(run_folder: Path, config: RunConfig, store: Store) -> None:
    """Refuse a dataset other than the one the run was trained on.

    Raises:
        PspError: Another dataset, or other content under the same name.
    """
    manifest = store.manifest
    if manifest.dataset != config.dataset:
        raise PspError(
            f"{store.path}: not the dataset that {run_folder} was trained on",
            manifest.dataset,
            config.dataset,
            "Name the right one with --data.",
        )
    if manifest.fingerprints.content != config.content_fingerprint:
        raise PspError(
            f"{store.path}: its content is not what {run_folder} was trained on",
            f"content fingerprint {manifest.fingerprints.content[:12]}…",
            f"{config.content_fingerprint[:12]}…",
            "Name the right file with --data, prepare it again with its old settings, or train again. "
            f"The run's dataset lay at {config.latest.data_path}.",
        )


def check_split(run_folder: Path, config: RunConfig, path: Path, split: Split) -> None:
    """Refuse a split other than the run's: its test clips may be clips that the run was trained on.

    Raises:
        PspError: The split belongs to other clips, or is another draw.
    """
    fix = f"Name the right one with --split; the run's lay at {config.latest.split_path}."
    if split.clips_fingerprint != config.clips_fingerprint:
        raise PspError(
            f"{path}: not a split of the clips that {run_folder} was trained on",
            f"clips fingerprint {split.clips_fingerprint[:12]}…",
            f"{config.clips_fingerprint[:12]}…",
            fix,
        )
    if split.digest != config.split_digest:
        raise PspError(
            f"{path}: another draw than the one that {run_folder} was trained on",
            f"digest {split.digest[:12]}…",
            f"{config.split_digest[:12]}…",
            fix,
        )


def where_it_lay(run_folder: Path, recorded: str, option: str) -> Path:
    """The path that the run was trained from, which counts from the folder that training was started in."""
    path = recalled(recorded)
    if not path.exists():
        raise PspError(
            f"{path}: {run_folder} was trained from this file, and there is no such file here",
            fix=f"Start psptool in the folder it was trained in, or name the file with --{option}.",
        )
    return path


def _train_clips(store: Store, split: Split, part: Part) -> list[int]:
    """Numbers of the clips that training looked at, ascending; validation clips chose among weights too."""
    names = split.labelled + split.unlabelled + (split.validation if part == "test" else ())
    return sorted(store.index(name) for name in names)
