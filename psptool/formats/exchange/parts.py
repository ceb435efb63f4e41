"""Splits as another tool's lists of clips, and such lists as splits.

A list says who is trained on and who is tested on, and nothing of how it came about. So it becomes a psptool split
only where a split of the same dataset, made anew with all labels, has the same members.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from psptool.common.errors import PspError
from psptool.data.skeletons.datasets import DATASETS
from psptool.data.splits.making import SplitRequest
from psptool.data.splits.stored import split_store
from psptool.data.store.reading import Store
from psptool.formats.exchange.contents import Contents
from psptool.formats.exchange.formats import ExchangeFormat
from psptool.schemas.split import Split


def parts_of(store: Store, form: ExchangeFormat, split: Split | None) -> dict[str, tuple[str, ...]]:
    """What a file of ``form`` calls the parts of ``split``, and the clips of each in order.

    Without a split: every protocol that the dataset's clips allow where a file holds several (PYSKL), else the
    dataset's first one, all clips of the train side in its train part.

    Raises:
        PspError: A file of this format needs a split, and none can be made.
    """
    if form.name != "pyskl":
        chosen = split or _first_split(store)
        named = {"train": _train(chosen), form.test: chosen.test}
        return named | ({"validation": chosen.validation} if chosen.validation else {})
    splits = [split] if split else [one for one in full_splits(store) if _usual(one)]
    found: dict[str, tuple[str, ...]] = {}
    for one in splits:
        found[f"{one.protocol}_train"], found[f"{one.protocol}_{form.test}"] = _train(one), one.test
        if one.unlabelled:
            found[f"{one.protocol}_labelled"] = one.labelled
        if one.validation:
            found[f"{one.protocol}_validation"] = one.validation
    return found


def _first_split(store: Store) -> Split:
    """The split of the first protocol with all labels.

    Raises:
        PspError: A side of it has no clips.
    """
    try:
        return split_store(store, SplitRequest(ratio=1.0)).split
    except PspError as error:
        # The usual way out names options of psptool split.
        fix = "Make a split of another protocol with psptool split, and name it with --split."
        raise PspError(error.what, error.found, error.expected, fix) from error


def full_splits(store: Store) -> Iterator[Split]:
    """A split with all labels for each protocol, and each test view that may be chosen, whose sides have clips."""
    dataset = DATASETS[store.manifest.dataset]
    for protocol in dataset.protocols:
        for view in dataset.test_views or (None,):
            request = SplitRequest(ratio=1.0, protocol=protocol, test_view=view)
            try:
                yield split_store(store, request).split
            except PspError:
                # A part of the dataset may have no clip on one side.
                continue


def absent_from(store: Store, contents: Sequence[Contents]) -> list[str]:
    """In words, which lists of ``contents`` name clips that are not in ``store``.

    Their splits are made of the others.
    """
    there, said = frozenset(store.names), []
    for one in contents:
        for name, clips in one.lists.items():
            if absent := sorted(clips - there):
                some = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
                said.append(
                    f"{one.path}: {name}: {len(absent)} of {len(clips)} clips are not in the dataset: {some}"
                )
    return said


def splits_of(store: Store, contents: Sequence[Contents]) -> tuple[list[Split], list[str]]:
    """The splits that the lists of ``contents`` are, and in words which lists are none and why.

    Names of clips that are not in the dataset, such as those left out, do not count.

    Args:
        store: The dataset that the contents became.
        contents: The files.
    """
    made = {(frozenset(_train(one)), frozenset(one.test)): one for one in full_splits(store)}
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
        lost += [f"{one.path}: {name}: stands alone; a split has a train and a test list" for name in single]
    return list(kept.values()), lost


def _why(
    train: frozenset[str], test: frozenset[str], made: Mapping[tuple[frozenset[str], frozenset[str]], Split]
) -> str:
    if not made:
        return "the clips are all on one side of every protocol"

    def odd(sides: tuple[frozenset[str], frozenset[str]]) -> int:
        return len(train ^ sides[0]) + len(test ^ sides[1])

    nearest = min(made, key=odd)
    view = made[nearest].test_view
    named = f"{made[nearest].protocol}{'' if view is None else f' with test view {view}'}"
    return f"no protocol has these members; the nearest, {named}, differs in {odd(nearest)} places"


def _usual(split: Split) -> bool:
    """Whether the split's test view, where one may be chosen, is the usual one."""
    protocol = DATASETS[split.dataset].protocols[split.protocol]
    return split.test_view is None or protocol.test == frozenset({split.test_view})


def _train(split: Split) -> tuple[str, ...]:
    return tuple(sorted(split.labelled + split.unlabelled))
