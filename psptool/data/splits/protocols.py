"""Applying a protocol of a dataset to its clips."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from psptool.common.errors import PspError, suggest
from psptool.data.splits.draw import by_label, draw_per_class, labels_of, share
from psptool.schemas.description import DatasetDescription
from psptool.schemas.protocols import FieldProtocol, LeaveOneOut, ListProtocol, Protocol, ShareProtocol
from psptool.schemas.split import LONGEST_PROTOCOL_NAME
from psptool.skeletons.keys import NO_LABEL, ClipKey

SHARE_TAG = "psptool-share-1"
Clips = Mapping[str, ClipKey]


@dataclass(frozen=True)
class NamedProtocol:
    """A protocol that gives one training set and one test set.

    Attributes:
        name: Its name; for one value of leave-one-out followed by a hyphen and the value, such as ``loso-3``.
        rule: The protocol.
    """

    name: str
    rule: FieldProtocol | ListProtocol | ShareProtocol


def choose_protocols(
    dataset: DatasetDescription, clips: Clips, name: str | None, test_view: int | None
) -> tuple[NamedProtocol, ...]:
    """The dataset's protocol ``name`` (its first if None): one, or one for each value of leave-one-out.

    Args:
        dataset: The dataset.
        clips: Key by clip name; their values are those of leave-one-out.
        name: Name of a protocol, or of one value of leave-one-out, such as ``loso-3``.
        test_view: The camera for test; None for the protocol's own.

    Raises:
        PspError: The dataset has no such protocol, or no value for leave-one-out, or does not allow this test view.
    """
    known = dataset.protocols
    chosen = next(iter(known)) if name is None else name
    folds = [one for key, rule in known.items() for one in _expanded(dataset, clips, key, rule)]
    if chosen in known:
        found = _expanded(dataset, clips, chosen, known[chosen])
    else:
        found = [one for one in folds if one.name == chosen]
    if not found:
        parent = chosen if chosen in known else leave_one_out_of(dataset, chosen)
        siblings = [one.name for one in folds if leave_one_out_of(dataset, one.name) == parent]
        names = list(known) if parent is None else siblings
        if not names:
            raise PspError(
                f"protocol {parent}: leaves out values of a field that no clip of {dataset.name} has",
                fix="Choose another --protocol, or give the clips this field and prepare them again.",
            )
        expected = f"one of {', '.join(names)}"
        raise PspError(f"--protocol of {dataset.name}", repr(name), expected, suggest(chosen, names))
    if test_view is None:
        return tuple(found)
    return (_with_test_view(dataset, found[0], test_view),)


def protocol_names(dataset: DatasetDescription, clips: Clips) -> list[str]:
    """Names of all protocols, with one for each value of leave-one-out."""
    return [
        one.name for key, rule in dataset.protocols.items() for one in _expanded(dataset, clips, key, rule)
    ]


def leave_one_out_of(dataset: DatasetDescription, protocol: str) -> str | None:
    """The leave-one-out protocol of which ``protocol`` (such as ``loso-3``) is one fold; None for other protocols."""
    if protocol in dataset.protocols:
        return None
    folded = [name for name, rule in dataset.protocols.items() if isinstance(rule, LeaveOneOut)]
    return max((name for name in folded if protocol.startswith(f"{name}-")), key=len, default=None)


def divide(dataset: DatasetDescription, protocol: NamedProtocol, clips: Clips) -> tuple[set[str], set[str]]:
    """The names of the training clips and of the test clips; either may be empty.

    Clips without a label are never test clips. They are training clips, too, if the protocol is a random share, if they
    lack the field that divides training and test, or if they are in neither of two lists.
    """
    train, test = _sides(dataset, protocol, clips)
    unlabelled = {name for name, key in clips.items() if key.label == NO_LABEL}
    return train | {name for name in unlabelled if _is_free(protocol, name, clips[name])}, test - unlabelled


def _is_free(protocol: NamedProtocol, name: str, key: ClipKey) -> bool:
    """Whether the protocol leaves open where the clip without a label is used."""
    rule = protocol.rule
    if isinstance(rule, ListProtocol):
        return rule.test_clips is not None and name not in rule.test_clips
    return isinstance(rule, ShareProtocol) or getattr(key, rule.field) == -1


def _sides(dataset: DatasetDescription, protocol: NamedProtocol, clips: Clips) -> tuple[set[str], set[str]]:
    rule = protocol.rule
    if isinstance(rule, ShareProtocol):
        labels = labels_of(clips)
        counts = {label: share(rule.share, len(names)) for label, names in by_label(labels).items()}
        train = draw_per_class(labels, counts, rule.seed, SHARE_TAG)
        return train, clips.keys() - train
    if isinstance(rule, ListProtocol):
        train = clips.keys() & set(rule.train_clips)
        return train, (clips.keys() - train) if rule.test_clips is None else clips.keys() & set(
            rule.test_clips
        )
    numbers = {name: getattr(key, rule.field) for name, key in clips.items()}
    wanted = {dataset.number(rule.field, value) for value in rule.train}
    train = {name for name, number in numbers.items() if number in wanted}
    if rule.test is None:
        return train, numbers.keys() - train
    tested = {dataset.number(rule.field, value) for value in rule.test}
    return train, {name for name, number in numbers.items() if number in tested} - train


def test_views(dataset: DatasetDescription, protocol: str) -> tuple[int, ...]:
    """The cameras that can be the test view of a protocol; none unless the protocol divides by camera."""
    rule = dataset.protocols.get(protocol)
    return dataset.test_views if isinstance(rule, FieldProtocol) and rule.by_camera else ()


def default_view(dataset: DatasetDescription, protocol: str) -> int | None:
    """The test view that gives the protocol's own cameras; None if there is none."""
    rule = dataset.protocols.get(protocol)
    if not isinstance(rule, FieldProtocol):
        return None
    own = (set(rule.train), rule.test)
    views = test_views(dataset, protocol)
    return next((view for view in views if (set(_others(views, view)), (view,)) == own), None)


def _with_test_view(dataset: DatasetDescription, protocol: NamedProtocol, test_view: int) -> NamedProtocol:
    views = test_views(dataset, protocol.name)
    if test_view not in views:
        names = [name for name in dataset.protocols if test_views(dataset, name)]
        expected = f"one of {', '.join(map(str, views))}" if views else "no test view: the protocol is fixed"
        fix = f"Omit it, or use --protocol {names[0]}." if names else "Omit it."
        what = f"--test-view of {dataset.name}, protocol {protocol.name}"
        raise PspError(what, str(test_view), expected, None if views else fix)
    rule = protocol.rule.model_copy(update={"train": _others(views, test_view), "test": (test_view,)})
    return NamedProtocol(protocol.name, rule)


def _others(views: tuple[int, ...], test_view: int) -> tuple[int, ...]:
    return tuple(view for view in views if view != test_view)


def _expanded(dataset: DatasetDescription, clips: Clips, name: str, rule: Protocol) -> list[NamedProtocol]:
    """The protocol, or one protocol for each value of leave-one-out that the clips have."""
    if not isinstance(rule, LeaveOneOut):
        return [NamedProtocol(name, rule)]
    field = rule.leave_one_out
    there = sorted({getattr(key, field) for key in clips.values()} - {-1})
    # A value that only clips without a label have is no fold: its test set would be empty.
    labelled = {getattr(key, field) for key in clips.values() if key.label != NO_LABEL}
    numbers = [number for number in there if number in labelled] or there
    texts = [dataset.value(field, number) for number in numbers]
    safe = [re.sub(r"[^A-Za-z0-9_-]", "_", text) for text in texts]
    longest = max(map(len, safe), default=0) + len(f"{name}-")
    if len(set(safe)) < len(safe) or longest > LONGEST_PROTOCOL_NAME:
        safe = [str(number) for number in numbers]
    # A class is named by a value of its label, other fields by their number.
    values: list[int | str] = [*numbers]
    unlabelled = tuple(number for number in there if number not in numbers)
    if field == "label":
        values = [next(value for value, label in dataset.labels.items() if label == n) for n in numbers]
    return [
        NamedProtocol(
            f"{name}-{text}",
            FieldProtocol(
                field=field,
                train=(*(other for other in values if other != value), *unlabelled) or (value,),
                test=(value,),
                label_counts=rule.label_counts,
            ),
        )
        for value, text in zip(values, safe, strict=True)
    ]
