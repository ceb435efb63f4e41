"""Splits of a prepared dataset: made from the store's clip table, checked against it, and described."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from psptool.common.errors import PspError
from psptool.data.skeletons.datasets import DATASETS
from psptool.data.splits.making import MadeSplit, SplitRequest, differences, make_split, split_name
from psptool.data.store.reading import Store
from psptool.schemas.split import Split


def split_store(store: Store, request: SplitRequest) -> MadeSplit:
    """A split of a prepared dataset.

    Raises:
        PspError: As `make_split`.
    """
    clips = {name: store.key(index) for index, name in enumerate(store.names)}
    manifest = store.manifest
    return make_split(DATASETS[manifest.dataset], clips, manifest.fingerprints.clips, request)


def make_file(store: Store, request: SplitRequest, path: Path | None = None) -> MadeSplit:
    """Make a split and save it, under its own name in ``splits/`` if ``path`` is None.

    Raises:
        PspError: As `make_split`; or the path cannot be written.
    """
    made = split_store(store, request)
    path = path or Path("splits") / f"{split_name(made.split)}.json"
    save_split(made.split, path)
    return replace(made, path=path)


def check_split(store: Store, split: Split) -> list[str]:
    """What of ``split`` is not as it would be made from this dataset now; empty where nothing is.

    Raises:
        PspError: The split was made for another dataset.
    """
    if split.dataset != store.manifest.dataset:
        raise PspError(
            f"{store.path}: not the split's dataset",
            store.manifest.dataset,
            split.dataset,
            "Name the split's dataset with --data.",
        )
    try:
        made = split_store(store, SplitRequest.of(split)).split
    except PspError as error:
        return [f"it can no longer be made: {error}"]
    return differences(split, made)


def check_bound(store: Store, path: Path, split: Split) -> None:
    """Raise where ``split``, of the file ``path``, was made for other clips than the dataset's.

    Raises:
        PspError: It was.
    """
    manifest = store.manifest
    if split.dataset != manifest.dataset or split.clips_fingerprint != manifest.fingerprints.clips:
        raise PspError(
            f"{path}: a split of other clips than those of {store.path}",
            f"{split.dataset}, clips fingerprint {split.clips_fingerprint[:12]}…",
            f"{manifest.dataset}, {manifest.fingerprints.clips[:12]}…",
            f"Name the right dataset with --data, or make a split of this one: "
            f"psptool split --ratio 0.05 --data {store.path}.",
        )


def save_split(split: Split, path: Path) -> bool:
    """Write a split whole or not at all; one that already says the same is only marked as the newest.

    Returns:
        Whether the file's content is new.

    Raises:
        PspError: The path cannot be written.
    """
    try:
        current = path.read_text(encoding="utf-8") == split.dump()
        if current:
            path.touch()
    except (OSError, UnicodeDecodeError):
        current = False
    if not current:
        split.save(path)
    return not current


def summary(split: Split) -> dict[str, Any]:
    """A split in numbers: sizes of its parts, labelled clips a class, and distinct performances labelled.

    The labels come from the clips' names; views of one performance count as one performance.
    """
    dataset = DATASETS[split.dataset]
    keys = [key for name in split.labelled if (key := dataset.parse(name)) is not None]
    counts = Counter(key.label for key in keys)
    settings = split.model_dump(exclude={"labelled", "unlabelled", "validation", "test", "format_version"})
    return {
        **settings,
        "labelled": len(split.labelled),
        "unlabelled": len(split.unlabelled),
        "validation": len(split.validation),
        "test": len(split.test),
        "performances": len({tuple(getattr(key, field) for field in dataset.performance) for key in keys}),
        "labelled_per_class": {dataset.class_names[label]: counts[label] for label in sorted(counts)},
    }
