"""Converting splits to another tool's lists of clips, and lists to splits.

A list contains training or test clips, but not the protocol. It is converted to a split only if a fully labelled split
of the dataset, created by one of its protocols, has the same clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from psptool.common.errors import PspError
from psptool.common.text import counted
from psptool.data.splits.making import SplitRequest
from psptool.data.splits.protocols import default_view, protocol_names, test_views
from psptool.data.splits.stored import clip_keys, split_store
from psptool.data.store.reading import Store
from psptool.exchange.contents import Contents
from psptool.exchange.formats import ExchangeFormat
from psptool.schemas.split import Split
from psptool.skeletons.keys import NO_LABEL


def parts_of(store: Store, form: ExchangeFormat, split: Split | None) -> dict[str, tuple[str, ...]]:
    """The parts of ``split`` by their names in the format ``form``, with their clips in order.

    Without a split: all protocols for which the dataset has clips if a file can hold several, otherwise the
    dataset's first protocol.

    Raises:
        PspError: The format needs a split, and none can be created.
    """
    if not form.all_clips:
        chosen = split or _first_split(store)
        named = {"train": _train(store, chosen), form.test: chosen.test}
        return named | ({"validation": chosen.validation} if chosen.validation else {})
    splits = [split] if split else [one for one in full_splits(store) if _usual(one, store)]
    found: dict[str, tuple[str, ...]] = {}
    for one in splits:
        found[f"{one.protocol}_train"] = _train(store, one)
        found[f"{one.protocol}_{form.test}"] = one.test
        if {*found[f"{one.protocol}_train"]} != {*one.labelled}:
            found[f"{one.protocol}_labelled"] = one.labelled
        if one.validation:
            found[f"{one.protocol}_validation"] = one.validation
    return found


def _first_split(store: Store) -> Split:
    """The fully labelled split of the dataset's first protocol.

    Raises:
        PspError: The training set or the test set is empty.
    """
    try:
        return split_store(store, SplitRequest(ratio=1.0)).split
    except PspError as error:
        # The original fix names options of psptool split.
        fix = "Create a split of another protocol with psptool split, and use it with --split."
        raise PspError(error.what, error.found, error.expected, fix) from error


def full_splits(store: Store) -> Iterator[Split]:
    """The fully labelled splits of all protocols and test views whose training and test sets are not empty."""
    dataset = store.manifest.description
    for protocol in protocol_names(dataset, clip_keys(store)):
        for view in test_views(dataset, protocol) or (None,):
            request = SplitRequest(ratio=1.0, protocol=protocol, test_view=view)
            try:
                yield split_store(store, request).split
            except PspError:
                # An incomplete dataset may have no training or no test clips.
                continue


def absent_from(store: Store, contents: Sequence[Contents]) -> list[str]:
    """Warnings about the lists of ``contents`` with clips that are not in ``store``. Their splits omit these clips."""
    there, said = frozenset(store.names), []
    for one in contents:
        for name, clips in one.lists.items():
            if absent := sorted(clips - there):
                some = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
                said.append(
                    f"{one.path}: {name}: {len(absent)} of {counted(len(clips), 'clip')} are not in the dataset: {some}"
                )
    return said


def splits_of(store: Store, contents: Sequence[Contents]) -> tuple[list[Split], list[str]]:
    """The splits for the lists of ``contents``, and the reasons for lists that are not splits.

    Clips that are not in the dataset, such as excluded clips, are ignored.

    Args:
        store: The dataset imported from the files.
        contents: Contents of the files.
    """
    made = {(frozenset(_train(store, one)), frozenset(one.test)): one for one in full_splits(store)}
    there = frozenset(store.names)
    kept: dict[str, Split] = {}
    lost: list[str] = []
    for one in contents:
        for pair in one.pairs:
            train, test = (one.lists[name] & there for name in pair)
            split = made.get((train, test))
            if split is None:
                lost.append(f"{one.path}: {' and '.join(pair)}: {_why(train, test, made)}")
            else:
                kept[split.digest] = split
        single = sorted(set(one.lists) - {name for pair in one.pairs for name in pair})
        lost += [
            f"{one.path}: {name}: a single list; a split needs a training and a test list" for name in single
        ]
    return list(kept.values()), lost


def _why(
    train: frozenset[str], test: frozenset[str], made: Mapping[tuple[frozenset[str], frozenset[str]], Split]
) -> str:
    """The reason why two lists are not a split, with the nearest protocol."""
    if not made:
        return "every protocol has only training clips or only test clips"

    def odd(sides: tuple[frozenset[str], frozenset[str]]) -> int:
        return len(train ^ sides[0]) + len(test ^ sides[1])

    nearest = min(made, key=odd)
    view = made[nearest].test_view
    named = f"{made[nearest].protocol}{'' if view is None else f' with test view {view}'}"
    return f"no protocol has these clips; the nearest, {named}, differs in {counted(odd(nearest), 'clip')}"


def _usual(split: Split, store: Store) -> bool:
    """Whether the split has the protocol's default test view."""
    return split.test_view in (None, default_view(store.manifest.description, split.protocol))


def _train(store: Store, split: Split) -> tuple[str, ...]:
    """The training clips that have a label: other tools need one for every clip."""
    without = {store.names[index] for index in np.flatnonzero(store.table.label == NO_LABEL)}
    return tuple(sorted({*split.labelled, *split.unlabelled} - without))
