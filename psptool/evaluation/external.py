"""Scores of predictions that another program made, with the measures and the file of psptool's own runs.

Notation for array shapes: N evaluated clips, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from psptool.common.errors import PspError, suggest
from psptool.common.text import counted
from psptool.common.version import __version__
from psptool.data.splits.stored import require_same_clips
from psptool.data.store.reading import open_store
from psptool.data.store.verifying import verify
from psptool.evaluation.api import accuracies, clips_of, without_duplicates
from psptool.evaluation.provenance import split_provenance
from psptool.schemas.scores import Scores
from psptool.schemas.split import Split

Predicted: TypeAlias = str | int | Mapping[str, float] | ArrayLike
"""The prediction for a clip: its class by name or 0-based label, or a number for each of the K classes."""
_METHOD = re.compile(r"[A-Za-z0-9][\w.+-]*")


def score_predictions(
    data: Path,
    split_path: Path,
    predictions: Mapping[str, Predicted],
    *,
    method: str,
    seed: int | None = None,
    out: Path | None = None,
) -> Scores:
    """Score predictions for the test clips of a split, and write them as a scores file.

    The content of the whole dataset is verified, as by `psptool.evaluation.api.evaluate`.

    Args:
        data: The dataset.
        split_path: A split of it.
        predictions: The prediction for each test clip, by clip name.
        method: Name of the method in tables.
        seed: Random seed of the training; the split's if None.
        out: The file to write; named by split and method, in ``scores/``, if None.

    Raises:
        PspError: The method is no name, the seed no number of at least 0; the split has no test clips, a test clip
            has no prediction, a prediction is of another clip or not of the dataset's classes, the split is not one of
            the dataset, or a file cannot be read or written.
    """
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise PspError("method", f"{method!r:.60}", "a name of letters, digits and _ . + - without spaces")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise PspError("seed", f"{seed!r:.60}", "an integer of at least 0, or None")
    if not isinstance(predictions, Mapping):
        raise PspError("predictions", type(predictions).__name__, "a mapping from clip names")
    split = Split.load(split_path)
    names = clips_of(split, "test", split_path)
    _check_clips(predictions, names, split_path)
    with open_store(data) as store:
        require_same_clips(store, split_path, split)
        values, classes_only = _values([predictions[name] for name in names], names, store.class_names)
        digests = verify(store)
        clips = [store.index(name) for name in names]
        unique = without_duplicates(store, split, "test", digests, clips)
        labels, manifest = store.table.label[clips], store.manifest
    found = accuracies(manifest.class_names, values, labels, unique)
    if classes_only:
        found["top5"] = None
    scores = Scores(
        dataset=manifest.dataset,
        split=split_path.name,
        method=method,
        preset="",
        seed=split.seed if seed is None else seed,
        weights="last",
        streams={},
        content_fingerprint=manifest.fingerprints.content,
        clips_fingerprint=manifest.fingerprints.clips,
        tool_version=__version__,
        **found,
        **split_provenance(manifest.description, split, "test"),
    )
    suffix = "" if seed is None else f"-seed{seed}"
    scores.save(out or Path("scores") / f"{split_path.stem}-{method}{suffix}.json")
    return scores


def _check_clips(predictions: Collection[str], names: Sequence[str], split_path: Path) -> None:
    """Check that ``predictions`` are of the test clips ``names``."""
    test = set(names)
    unknown = [name for name in predictions if name not in test]
    if unknown:
        raise PspError(
            f"predictions: {_listed(unknown)} not in the test set of {split_path}",
            fix=suggest(str(unknown[0]), names) or "Predict the clips in the split's test list only.",
        )
    missing = [name for name in names if name not in predictions]
    if missing:
        raise PspError(
            f"predictions: {_listed(missing)} of the test set of {split_path} not predicted",
            f"{len(predictions):,} predictions",
            f"one for each of the {counted(len(names), 'test clip')}",
        )


def _listed(names: Sequence[object]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(f"{name!s:.100}" for name in names[:3]) + more


def _values(
    predicted: Sequence[Predicted], names: Sequence[str], class_names: Sequence[str]
) -> tuple[NDArray[np.float64], bool]:
    """A number for each class of each clip, float64 (N, K), and whether some clips have their class only."""
    values, classes_only = np.zeros((len(predicted), len(class_names))), False
    for number, (name, one) in enumerate(zip(names, predicted, strict=True)):
        what = f"predictions: clip {name}"
        if isinstance(one, Mapping):
            _check_classes(what, one, class_names)
            values[number] = _numbers(what, [one[name] for name in class_names], len(class_names))
        elif _is_class(one):
            values[number, _label(what, one, class_names)] = 1
            classes_only = True
        else:
            values[number] = _numbers(what, one, len(class_names))
    return values, classes_only


def _is_class(one: Any) -> bool:
    try:
        return isinstance(one, str) or np.ndim(one) == 0
    except ValueError:
        return False  # lists of different lengths; `_numbers` reports them


def _label(what: str, one: Any, class_names: Sequence[str]) -> int:
    if isinstance(one, str):
        if one not in class_names:
            raise PspError(what, repr(one), "a class of the dataset", suggest(one, class_names))
        return class_names.index(one)
    label = np.asarray(one)
    if not np.issubdtype(label.dtype, np.integer) or not 0 <= label < len(class_names):
        expected = f"a class name, a label from 0 to {len(class_names) - 1}, or a number for each class"
        raise PspError(what, f"{one!r:.60}", expected)
    return int(label)


def _check_classes(what: str, one: Mapping[str, float], class_names: Sequence[str]) -> None:
    for unknown in [name for name in one if name not in class_names]:
        raise PspError(what, repr(unknown), "a class of the dataset", suggest(str(unknown), class_names))
    missing = [name for name in class_names if name not in one]
    if missing:
        raise PspError(what, f"no number for {_listed(missing)}", "one for each class")


def _numbers(what: str, one: ArrayLike, classes: int) -> NDArray[np.float64]:
    """Probabilities or logits (K,)."""
    try:
        values = np.asarray(one, np.float64)
    except (TypeError, ValueError) as error:
        raise PspError(what, f"{one!r:.60}", f"{classes} probabilities or logits") from error
    if values.shape != (classes,) or not np.isfinite(values).all():
        found = f"shape {values.shape}" if values.shape != (classes,) else "a number that is not finite"
        raise PspError(what, found, f"{classes} probabilities or logits, in the order of the class names")
    return values
