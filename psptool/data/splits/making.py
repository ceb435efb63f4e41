"""Creating a split: apply the protocol, move clips to validation, then select the labelled clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import cast, get_args

from psptool.common.errors import PspError, suggest
from psptool.common.text import counted
from psptool.common.version import __version__
from psptool.data.splits.draw import (
    aimclr_share,
    by_label,
    draw_global,
    draw_per_class,
    global_share,
    labels_of,
    share,
)
from psptool.data.splits.protocols import NamedProtocol, choose_protocols, default_view, divide
from psptool.data.splits.validation import parse_validation
from psptool.schemas.description import DatasetDescription
from psptool.schemas.protocols import FieldProtocol
from psptool.schemas.split import SPLIT_PARTS, Family, Split
from psptool.skeletons.keys import NO_LABEL, ClipKey

FAMILIES: tuple[str, ...] = get_args(Family)


@dataclass(frozen=True)
class SplitRequest:
    """The settings of a split.

    Attributes:
        ratio: Fraction of the training labels to keep, at most 1; None if `count` is given.
        count: Labelled clips per class; None if `ratio` is given.
        protocol: One of the dataset's protocols; None for its first.
        family: How labelled clips are counted: per-class, per-class-ratio or global.
        seed: Random seed of the selection.
        test_view: The camera for test, if the dataset's protocol lets you choose; None for the default.
        validation: A validation rule such as ``view=2``; None for no validation set.
    """

    ratio: float | None = None
    count: int | None = None
    protocol: str | None = None
    family: str = "per-class"
    seed: int = 0
    test_view: int | None = None
    validation: str | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if (self.ratio is None) == (self.count is None):
            found = "neither" if self.ratio is None else "both"
            raise PspError("--ratio and --count", found, "exactly one", "Use for example --ratio 0.05.")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            fix = "0.05 keeps 5 % of the labels; 1 keeps all."
            raise PspError("--ratio", str(self.ratio), "a number above 0 and at most 1", fix)
        if self.count is not None and self.count < 1:
            raise PspError("--count", str(self.count), "at least 1 labelled clip per class")
        if not 0 <= self.seed < 2**63:
            raise PspError("--seed", str(self.seed), "0 or more, and less than 2**63")
        if self.family not in FAMILIES:
            expected = f"one of {', '.join(FAMILIES)}"
            raise PspError("--family", repr(self.family), expected, suggest(self.family, FAMILIES))
        if self.count is not None and self.family != "per-class":
            fix = "Use --ratio, or omit --family."
            raise PspError("--count", f"--family {self.family}", "family per-class", fix)

    def _check_types(self) -> None:
        """Check what a command line has converted, but a call from Python may get wrong."""
        integers = {"--count": self.count, "--seed": self.seed, "--test-view": self.test_view}
        texts = {"--protocol": self.protocol, "--family": self.family, "--validation": self.validation}
        for options, kind, expected in (
            ({"--ratio": self.ratio}, Real, "a number"),
            (integers, int, "an integer"),
            (texts, str, "text"),
        ):
            for option, value in options.items():
                if value is not None and not isinstance(value, kind):
                    raise PspError(option, repr(value), expected)

    @classmethod
    def of(cls, split: Split) -> SplitRequest:
        """The request that reproduces an existing split."""
        return cls(
            split.ratio,
            split.count,
            split.protocol,
            split.family,
            split.seed,
            split.test_view,
            split.validation_rule,
        )


@dataclass(frozen=True)
class MadeSplit:
    """A new split and its summary.

    Attributes:
        split: The split.
        rule: The number of labelled clips per class and the convention behind it, as text.
        labelled_per_class: (minimum, maximum) number of labelled clips over the classes of the training set.
        performances: Number of distinct performances among the labelled clips; views of one performance count once.
        warnings: Classes without labelled clips, or that are only in the test set.
        path: The file it was saved as; None until then.
        changed: Whether saving changed that file.
    """

    split: Split
    rule: str
    labelled_per_class: tuple[int, int]
    performances: int
    warnings: tuple[str, ...] = ()
    path: Path | None = None
    changed: bool = False


def make_split(
    dataset: DatasetDescription, clips: Mapping[str, ClipKey], clips_fingerprint: str, request: SplitRequest
) -> MadeSplit:
    """Create a split. The order of ``clips`` has no effect.

    Args:
        dataset: Description of the dataset.
        clips: Key by clip name, for all clips of the prepared dataset.
        clips_fingerprint: Fingerprint of the dataset's clips; the split is valid for this dataset only.
        request: Settings of the split.

    Raises:
        PspError: The protocol or view does not exist, or is a leave-one-out protocol without a value; the training or
            test set is empty; a class has too few clips; no clip would be labelled.
    """
    if clips and not labels_of(clips):
        raise PspError(
            f"{dataset.name}: no clip has a label", fix="Give labels to some clips, and prepare again."
        )
    protocols = choose_protocols(dataset, clips, request.protocol, request.test_view)
    if len(protocols) > 1:
        names = ", ".join(one.name for one in protocols[:3])
        raise PspError(
            "--protocol", f"{request.protocol}, which gives {len(protocols)} splits", f"one, such as {names}"
        )
    protocol = protocols[0]
    train, test = _sides(dataset, protocol, clips)
    rule = None if request.validation is None else parse_validation(request.validation)
    held_out = set() if rule is None else rule.pick(train, request.seed)
    pool = {name: key for name, key in train.items() if name not in held_out}
    labels = labels_of(pool)
    if not labels:
        raise PspError(
            f"protocol {protocol.name}: no training clip has a label",
            f"{counted(len(train), 'training clip')}",
            fix="Choose another --protocol, or give labels to some clips and prepare them again.",
        )
    labelled, how = _draw(dataset, protocol, len(labels_of(train)), labels, request)
    sizes = Counter(dict.fromkeys(by_label(labels), 0))
    sizes.update(labels[name] for name in labelled)
    performances = {_performance(dataset, name, clips[name]) for name in labelled}
    split = Split(
        dataset=dataset.name,
        protocol=protocol.name,
        test_view=default_view(dataset, protocol.name) if request.test_view is None else request.test_view,
        family=cast(Family, request.family),
        ratio=request.ratio,
        count=request.count,
        seed=request.seed,
        validation_rule=None if rule is None else str(rule),
        clips_fingerprint=clips_fingerprint,
        labelled=tuple(sorted(labelled)),
        unlabelled=tuple(sorted(pool.keys() - labelled)),
        validation=tuple(sorted(labels_of({name: train[name] for name in held_out}))),
        test=tuple(sorted(test)),
        labelled_per_class=counts_by_name(dataset, sizes),
        performances=len(performances),
        tool_version=__version__,
    )
    per_class = (min(sizes.values()), max(sizes.values()))
    warnings = _warnings(dataset, sizes, labels_of(test))
    unused = [name for name, key in clips.items() if key.label == NO_LABEL and name not in pool]
    if unused:
        warnings.append(
            f"{counted(len(unused), 'clip')} without a label outside of the training set: not used"
        )
    return MadeSplit(split, how, per_class, len(performances), tuple(warnings))


def counts_by_name(dataset: DatasetDescription, counts: Mapping[int, int]) -> dict[str, int]:
    """Numbers of clips by class name, without classes that have none."""
    return {dataset.class_names[label]: counts[label] for label in sorted(counts) if counts[label]}


def _performance(dataset: DatasetDescription, name: str, key: ClipKey) -> tuple[object, ...]:
    """What all views of the clip's performance share."""
    return tuple(getattr(key, field) for field in dataset.performance) or (name,)


def split_name(split: Split, dataset: DatasetDescription) -> str:
    """The split's file name without its suffix. Different requests have different names."""
    return request_name(split.dataset, SplitRequest.of(split), default_view(dataset, split.protocol))


def request_name(data: str, request: SplitRequest, usual_view: int | None = None) -> str:
    """The file name, without its suffix, of the split for ``request``.

    Args:
        data: The dataset's name.
        request: Settings of the split, including the protocol.
        usual_view: The default test view, which the name omits.
    """
    size = f"k{request.count}" if request.ratio is None else repr(request.ratio).removesuffix(".0")
    parts = [data, str(request.protocol), size, f"s{request.seed}"]
    if request.family != "per-class":
        parts.append(request.family)
    if request.test_view not in (None, usual_view):
        parts.append(f"test{request.test_view}")
    if request.validation is not None:
        parts.append("val-" + request.validation.replace("=", "-").replace(",", "-"))
    return "-".join(parts)


def literature_count(protocol: NamedProtocol, ratio: float, train_clips: int, classes: int) -> int | None:
    """The literature's number of labelled clips per class for ``ratio``, or None if it has none that applies.

    The counts hold for the complete dataset (5 %: 33 of about 660 clips per class in NTU 60). They do not apply to a
    training set of less than half that size: there they would not match ``ratio``.
    """
    count = protocol.rule.label_counts.get(ratio)
    return None if count is None or train_clips < classes * count / ratio / 2 else count


_ADDED = ("labelled_per_class", "performances")
"""Keys that splits of earlier versions do not have."""


def compare_splits(found: Split, made: Split) -> list[str]:
    """The differences between a stored split and a reproduced one, one line each. The tool version is ignored."""
    lines = []
    for field in Split.model_fields:
        a, b = getattr(found, field), getattr(made, field)
        if field == "tool_version" or a == b or (a is None and field in _ADDED):
            continue
        if field in SPLIT_PARTS:
            extra, missing = sorted(set(a) - set(b)), sorted(set(b) - set(a))
            lines.append(f"{field}: {_some(extra)} unexpected, {_some(missing)} missing")
        else:
            lines.append(f"{field}: found {a}, expected {b}")
    return lines


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most]) + (", …" if len(names) > most else "")
    return f"{len(names)} ({shown})" if names else "0"


def _sides(
    dataset: DatasetDescription, protocol: NamedProtocol, clips: Mapping[str, ClipKey]
) -> tuple[dict[str, ClipKey], dict[str, ClipKey]]:
    """The training clips and the test clips of a protocol."""
    sides = divide(dataset, protocol, clips)
    for part, names in zip(("training", "test"), sides, strict=True):
        if names:
            continue
        found, expected = f"{counted(len(clips), 'clip')} in the dataset", f"clips for {part}"
        if isinstance(rule := protocol.rule, FieldProtocol):
            there = sorted({getattr(key, rule.field) for key in clips.values()} - {-1})
            values = rule.train if part == "training" else rule.test
            wanted = "any other" if values is None else ", ".join(map(str, values))
            found = f"{rule.field}s {', '.join(map(str, there)) or 'none'} in the dataset"
            expected = f"{rule.field} {wanted}"
        raise PspError(
            f"protocol {protocol.name}: the {part} set of {dataset.name} is empty",
            found,
            expected,
            "Choose another --protocol, or prepare the complete dataset.",
        )
    train, test = ({name: clips[name] for name in clips if name in names} for names in sides)
    return train, test


def _draw(
    dataset: DatasetDescription,
    protocol: NamedProtocol,
    train_clips: int,
    pool: Mapping[str, int],
    request: SplitRequest,
) -> tuple[set[str], str]:
    """The labelled clip names, and the rule for their number as text."""
    sizes = {label: len(names) for label, names in by_label(pool).items()}
    ratio = request.ratio
    if ratio is not None and request.family == "global":
        labelled = draw_global(pool, global_share(ratio, len(pool)), request.seed)
        how = f"int(N * {ratio}) of the whole training set, classes not balanced (as in CMD and MAMP)"
    elif ratio is not None and request.family == "per-class-ratio":
        counts = {label: aimclr_share(ratio, size) for label, size in sizes.items()}
        labelled = draw_per_class(pool, counts, request.seed)
        how = f"round({ratio} * clips) of each class (as in AimCLR)"
    else:
        counts, how = _per_class_counts(dataset, protocol, train_clips, sizes, request)
        labelled = draw_per_class(pool, counts, request.seed)
    if not labelled:
        raise PspError(
            f"--ratio {ratio} with --family {request.family}: selects no labelled clip",
            f"{len(pool)} training clips",
            fix="Use a larger --ratio.",
        )
    return labelled, how


def _per_class_counts(
    dataset: DatasetDescription,
    protocol: NamedProtocol,
    train_clips: int,
    sizes: Mapping[int, int],
    request: SplitRequest,
) -> tuple[dict[int, int], str]:
    """Number of labelled clips by label for the family per-class, and its rule as text.

    Raises:
        PspError: A class has fewer clips than the number of labelled clips.
    """
    if request.ratio is None:
        count, how = request.count, f"{request.count} of each class (--count)"
    else:
        count = literature_count(protocol, request.ratio, train_clips, len(dataset.class_names))
        how = f"{count} of each class, the standard count for ratio {request.ratio} (ASSL and its successors)"
    if count is None:
        assert request.ratio is not None
        how = f"{request.ratio} of each class's clips, rounded half up, at least 1"
        return {label: share(request.ratio, size) for label, size in sizes.items()}, how
    short = [label for label, size in sizes.items() if size < count]
    if short:
        listed = "; ".join(f"{dataset.class_names[label]} has {sizes[label]}" for label in short[:5])
        more = f"; and {len(short) - 5} more classes" if len(short) > 5 else ""
        option = "--ratio" if request.count is None else "--count"
        raise PspError(
            f"{option}: {len(short)} of {counted(len(sizes), 'class', 'classes')} have fewer than "
            f"{counted(count, 'training clip')}",
            listed + more,
            f"at least {count:,} training clips per class",
            f"Use --count {min(sizes.values())} or fewer.",
        )
    return dict.fromkeys(sizes, count), how


def _warnings(dataset: DatasetDescription, labelled: Mapping[int, int], test: Mapping[str, int]) -> list[str]:
    """Warnings about classes without labelled clips and classes that are only in the test set."""
    lines = []
    none = [dataset.class_names[label] for label, count in labelled.items() if count == 0]
    if none:
        lines.append(f"{counted(len(none), 'class', 'classes')} without labelled clips: {', '.join(none)}")
    only = sorted(set(test.values()) - labelled.keys())
    if only:
        names = ", ".join(dataset.class_names[label] for label in only)
        lines.append(f"{counted(len(only), 'class', 'classes')} only in the test set: {names}")
    return lines
