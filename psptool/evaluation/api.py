"""Evaluates a run: reads its folder, writes ``scores.json``, ``predictions.csv`` and ``confusion.png``.

Notation for array shapes: N evaluated clips, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from psptool.common.atomic_write import write_together
from psptool.common.errors import PspError
from psptool.common.paths import recalled
from psptool.common.text import counted
from psptool.common.version import __version__
from psptool.data.store.reading import Store, open_store
from psptool.data.store.verifying import verify
from psptool.evaluation.clip_predictions import predictions_csv
from psptool.evaluation.confusion import confusion_png
from psptool.evaluation.measures import argmax, confusion_matrix, has_no_duplicate, per_class, top_k
from psptool.evaluation.provenance import provenance
from psptool.evaluation.scoring import StreamLogits, load_model, score_clips
from psptool.schemas.run import RunConfig
from psptool.schemas.scores import Part, Scores, StreamScores, Weights, file_name
from psptool.schemas.split import Split
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.unfinished import find_weights


@dataclass(frozen=True)
class EvaluatedClips:
    """The N evaluated clips with their logits.

    Attributes:
        data: Path of the dataset.
        names: N clip names.
        labels: int (N,), true classes, 0-based.
        logits: Logits of the N clips.
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
    report: Callable[[Path, Scores, EvaluatedClips], str] | None = None,
) -> Scores:
    """Evaluate a run on its test clips and write scores, predictions and the confusion matrix to its folder.

    The files are ``scores.json``, ``predictions.csv`` (see `predictions_csv`) and ``confusion.png``. Those of other
    checkpoints or clips are named as in `file_name`. The files are written all or none. The content of the whole
    dataset and the weights are verified before.

    Args:
        run_folder: A folder written by ``psptool train``.
        data: The dataset; by default at its path during training.
        split: The split; by default at its path during training.
        weights: Checkpoint: the last one, or the best on the validation clips.
        part: The clips to evaluate.
        device: Device of the computation; by default the CPU.
        report: Returns the text of a further file, ``report.html``, from run folder, scores and evaluated clips.

    Raises:
        PspError: A file is missing, damaged or altered, dataset or split differ from those of the training, the split
            has no clips in ``part``, or the run folder is not writable.
    """
    device = device or torch.device("cpu")
    folder = RunFolder(run_folder)
    config = folder.read_config()
    split_path = split or recorded_path(run_folder, config.latest.split_path, "split")
    chosen_split = Split.load(split_path)
    with open_store(data or recorded_path(run_folder, config.latest.data_path, "data")) as store:
        check_dataset(run_folder, config, store)
        check_split(run_folder, config, split_path, chosen_split)
        digests = verify(store)
        names = clips_of(chosen_split, part, split_path)
        model = load_model(config, find_weights(folder, config, weights), device)
        chosen = np.array([store.index(name) for name in names])
        logits = score_clips(model, config, store, chosen, device)
        unique = without_duplicates(store, chosen_split, part, digests, chosen)
        labels, dataset = store.table.label[chosen], store.manifest.description
        evaluated = EvaluatedClips(store.path, names, labels, logits)
    measured = measure(config, split_path.name, logits, labels, unique, weights, part)
    scores = measured.model_copy(update=provenance(folder, config, dataset, chosen_split, part))
    title = (
        f"{run_folder.resolve().name}: {100 * scores.top1:.1f} % of {counted(scores.clips, f'{part} clip')}"
    )
    contents: dict[Path, str | bytes] = {
        output_path(run_folder, "confusion.png", scores): confusion_png(
            np.array(scores.confusion), config.class_names, title
        ),
        output_path(run_folder, "predictions.csv", scores): predictions_csv(
            names, labels, logits, config.class_names
        ),
        output_path(run_folder, "scores.json", scores): scores.dump(),
    }
    if report is not None:
        contents[output_path(run_folder, "report.html", scores)] = report(run_folder, scores, evaluated)
    write_together(contents)
    return scores


def output_path(run_folder: Path, name: str, scores: Scores) -> Path:
    """Path of the file that `evaluate` writes for these scores; ``name`` is its plain name, such as ``report.html``."""
    stem, ending = name.split(".")
    return run_folder / file_name(stem, f".{ending}", scores.part, scores.weights)


def measure(
    config: RunConfig,
    split_name: str,
    logits: StreamLogits,
    labels: NDArray[np.integer],
    unique: NDArray[np.bool_],
    weights: Weights,
    part: Part,
) -> Scores:
    """All accuracies of N clips.

    Args:
        config: Configuration of the run.
        split_name: File name of the split.
        logits: Logits of the N clips.
        labels: int (N,), true classes, 0-based.
        unique: bool (N,), whether a clip has no duplicate in the training set.
        weights: The checkpoint that computed the logits.
        part: The part of the split that has the clips.
    """
    return Scores(
        dataset=config.dataset,
        split=split_name,
        method=config.training.method,
        preset=config.training.preset,
        seed=config.seed,
        weights=weights,
        part=part,
        streams={
            name: StreamScores(top1=top_k(own, labels, 1), top5=top_k(own, labels, 5))
            for name, own in logits.by_stream.items()
        },
        content_fingerprint=config.content_fingerprint,
        clips_fingerprint=config.clips_fingerprint,
        tool_version=__version__,
        **accuracies(config.class_names, logits.fused, labels, unique),
    )


def accuracies(
    names: Sequence[str],
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    unique: NDArray[np.bool_],
) -> dict[str, Any]:
    """Keys and values of `Scores` that follow from the predictions of N clips.

    Args:
        names: Class names, indexed by label.
        logits: Logits or probabilities of the N clips, (N, K).
        labels: int (N,), true classes, 0-based.
        unique: bool (N,), whether a clip has no duplicate in the training set.
    """
    confusion = confusion_matrix(labels, argmax(logits), len(names))
    shares = zip(names, per_class(confusion), strict=True)
    return {
        "top1": top_k(logits, labels, 1),
        "top5": top_k(logits, labels, 5),
        "clips": len(labels),
        "top1_unseen": top_k(logits[unique], labels[unique], 1) if unique.any() else None,
        "clips_unseen": int(unique.sum()),
        "classes_unseen": tuple(names[label] for label in np.unique(labels[unique])),
        "per_class": {name: float(share) for name, share in shares if not np.isnan(share)},
        "confusion": tuple(tuple(row) for row in confusion.tolist()),
    }


def without_duplicates(
    store: Store, split: Split, part: Part, digests: Sequence[bytes], clips: Iterable[int]
) -> NDArray[np.bool_]:
    """Whether each of ``clips`` has other coordinates than all clips of the training, bool (N,).

    Args:
        store: The dataset.
        split: A split of it.
        part: The part of the split that has the clips.
        digests: Digest of the coordinates of each clip of the dataset, from `verify`.
        clips: Indices of the N clips.
    """
    training = _training_clips(store, split, part)
    return has_no_duplicate([digests[clip] for clip in clips], [digests[clip] for clip in training])


def check_dataset(run_folder: Path, config: RunConfig, store: Store) -> None:
    """Check that the dataset is the one the run was trained on.

    Raises:
        PspError: Another dataset, or other content under the same name.
    """
    manifest = store.manifest
    if manifest.dataset != config.dataset:
        raise PspError(
            f"{store.path}: not the dataset that {run_folder} was trained on",
            manifest.dataset,
            config.dataset,
            "Give the run's dataset with --data.",
        )
    if manifest.fingerprints.content != config.content_fingerprint:
        raise PspError(
            f"{store.path}: its content differs from that of the dataset that {run_folder} was trained on",
            f"content fingerprint {manifest.fingerprints.content[:12]}…",
            f"{config.content_fingerprint[:12]}…",
            "Give the right file with --data, prepare it again with its old settings, or train again. "
            f"The run was trained from {config.latest.data_path}.",
        )


def check_split(run_folder: Path, config: RunConfig, path: Path, split: Split) -> None:
    """Check that the split is the run's, because test clips of another split may be training clips of the run.

    Raises:
        PspError: The split has other clips, or other parts.
    """
    fix = f"Give the run's split with --split; during training it was {config.latest.split_path}."
    if split.clips_fingerprint != config.clips_fingerprint:
        raise PspError(
            f"{path}: not a split of the clips that {run_folder} was trained on",
            f"clips fingerprint {split.clips_fingerprint[:12]}…",
            f"{config.clips_fingerprint[:12]}…",
            fix,
        )
    if split.digest != config.split_digest:
        raise PspError(
            f"{path}: not the split that {run_folder} was trained on",
            f"split digest {split.digest[:12]}…",
            f"{config.split_digest[:12]}…",
            fix,
        )


def clips_of(split: Split, part: Part, path: Path) -> tuple[str, ...]:
    """Names of the clips in a part of the split, which was read from ``path``.

    Raises:
        PspError: The part is empty.
    """
    names: tuple[str, ...] = getattr(split, part)
    if not names:
        raise PspError(
            f"{path}: {part}",
            "no clips",
            "at least one",
            "Make a split with psptool split --validation, and train with it."
            if part == "validation"
            else "Make the split again with psptool split.",
        )
    return names


def recorded_path(run_folder: Path, recorded: str, option: str) -> Path:
    """The path of a file during training; relative paths start at the folder in which the training was started."""
    path = recalled(recorded)
    if not path.exists():
        raise PspError(
            f"{path}: {run_folder} was trained from this file, but it does not exist",
            fix=f"Run psptool in the folder in which the training was started, or give the file with --{option}.",
        )
    return path


def _training_clips(store: Store, split: Split, part: Part) -> list[int]:
    """Indices of the clips used in training, ascending, with those that selected the best checkpoint."""
    names = split.labelled + split.unlabelled + (split.validation if part == "test" else ())
    return sorted(store.index(name) for name in names)
