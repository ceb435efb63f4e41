"""Splits of a prepared dataset: creating them from the clip table, checking them against it, summarizing them."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from psptool.common.errors import PspError
from psptool.common.paths import MAX_JSON, read_text
from psptool.data.splits.making import (
    MadeSplit,
    SplitRequest,
    compare_splits,
    counts_by_name,
    make_split,
    split_name,
)
from psptool.data.splits.protocols import choose_protocols
from psptool.data.store.reading import Store
from psptool.data.store.verifying import verify_names
from psptool.schemas import builtin
from psptool.schemas.split import SPLIT_PARTS, Split
from psptool.skeletons.keys import NO_LABEL, ClipKey


def split_store(store: Store, request: SplitRequest) -> MadeSplit:
    """Create a split of a prepared dataset.

    Raises:
        PspError: As for `make_split`; or the clip table is damaged.
    """
    verify_names(store)
    manifest = store.manifest
    return make_split(manifest.description, clip_keys(store), manifest.fingerprints.clips, request)


def clip_keys(store: Store) -> dict[str, ClipKey]:
    """The key of each clip by name."""
    return {name: store.key(index) for index, name in enumerate(store.names)}


def make_file(
    store: Store, request: SplitRequest, path: Path | None = None, folder: Path = Path("splits")
) -> MadeSplit:
    """Create a split and save it, under its own name in ``folder`` if ``path`` is None.

    Raises:
        PspError: As `make_split`; or the path cannot be written.
    """
    made = split_store(store, request)
    path = path or folder / f"{split_name(made.split, store.manifest.description)}.json"
    warnings = made.warnings + tuple(_replacement_warnings(path, made.split))
    return replace(made, path=path, changed=save_split(made.split, path), warnings=warnings)


def _replacement_warnings(path: Path, split: Split) -> list[str]:
    """The warning that a file with another split is replaced; empty if there is none."""
    try:
        old = Split.load(path)
    except PspError:
        return []
    if (old.clips_fingerprint, old.digest) == (split.clips_fingerprint, split.digest):
        return []
    before, now = (
        f"{len(one.labelled):,} labelled, {len(one.unlabelled):,} unlabelled and {len(one.test):,} test clips"
        for one in (old, split)
    )
    change = f"{before} before, {now} now" if before != now else "other clips, as many as before"
    return [f"{path}: replaced ({change}); runs trained on it can no longer be evaluated with it"]


def each_request(store: Store, request: SplitRequest) -> list[SplitRequest]:
    """The request, or one request for each value of a leave-one-out protocol.

    Raises:
        PspError: The protocol or the test view does not exist.
    """
    dataset = store.manifest.description
    protocols = choose_protocols(dataset, clip_keys(store), request.protocol, request.test_view)
    if len(protocols) == 1:
        return [request]
    return [replace(request, protocol=one.name) for one in protocols]


def find_split_errors(store: Store, split: Split) -> list[str]:
    """The differences between ``split`` and the same split created anew from ``store``; empty if there are none.

    Raises:
        PspError: The split belongs to another dataset.
    """
    if split.dataset != store.manifest.dataset:
        raise PspError(
            f"--data {store.path}: not the dataset of the split",
            store.manifest.dataset,
            split.dataset,
            "Use --data with the dataset of the split.",
        )
    try:
        made = split_store(store, SplitRequest.of(split)).split
    except PspError as error:
        return [f"the split cannot be reproduced: {error}"]
    return compare_splits(split, made)


def require_same_clips(store: Store, path: Path, split: Split) -> None:
    """Check that ``split``, loaded from ``path``, was created for the clips of ``store``.

    Raises:
        PspError: It was created for other clips, or has clips without a label in a part that needs them, as a split of
            another program may.
    """
    manifest = store.manifest
    if split.dataset != manifest.dataset or split.clips_fingerprint != manifest.fingerprints.clips:
        raise PspError(
            f"{path}: the split does not belong to {store.path}",
            f"{split.dataset}, clips fingerprint {split.clips_fingerprint[:12]}…",
            f"{manifest.dataset}, clips fingerprint {manifest.fingerprints.clips[:12]}…",
            f"Use --data with the dataset of the split, or create a split of this dataset: "
            f"psptool split --ratio 0.05 --data {shlex.quote(str(store.path))}",
        )
    for part in ("labelled", "validation", "test"):
        for name in getattr(split, part):
            if store.key(name).label == NO_LABEL:
                raise PspError(
                    f"{path}: {part}",
                    f"{name}, a clip without a label",
                    "labelled clips",
                    "Remove it from this part, or create a split with psptool split.",
                )


def save_split(split: Split, path: Path) -> bool:
    """Write a split atomically. If the file already has this content, only its modification time is updated.

    Returns:
        Whether the content of the file changed.

    Raises:
        PspError: The path cannot be written.
    """
    try:
        current = read_text(path, MAX_JSON) == split.dump()
        if current:
            path.touch()
    except (OSError, UnicodeDecodeError):
        current = False
    if not current:
        split.save(path)
    return not current


def summarize_split(split: Split) -> dict[str, Any]:
    """Settings and statistics of a split: clips per part, labelled clips per class, distinct labelled performances.

    Views of one performance count as one performance.
    """
    per_class, performances = split.labelled_per_class, split.performances
    if per_class is None and split.dataset in builtin.dataset_names():
        # Earlier versions did not store these numbers. They follow from the names of the built-in datasets' clips.
        dataset = builtin.builtin_dataset(split.dataset)
        keys = [key for name in split.labelled if (key := dataset.parse(name)) is not None]
        per_class = counts_by_name(dataset, Counter(key.label for key in keys))
        performances = len({tuple(getattr(key, field) for field in dataset.performance) for key in keys})
    left_out = {*SPLIT_PARTS, "format_version", "labelled_per_class", "performances"}
    settings = split.model_dump(exclude=left_out)
    return {
        **settings,
        **{part: len(getattr(split, part)) for part in SPLIT_PARTS},
        "performances": performances,
        "labelled_per_class": per_class,
    }
