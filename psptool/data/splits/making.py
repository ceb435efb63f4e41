"""A split from a dataset's clips and a request: protocol, validation, then the labelled draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from psptool.common.errors import PspError, suggest
from psptool.common.version import __version__
from psptool.data.skeletons.datasets import DATASETS, ClipKey, Dataset, Protocol
from psptool.data.splits.draw import aimclr_share, by_label, draw_global, draw_per_class, global_share, share
from psptool.data.splits.validation import parse_validation
from psptool.schemas.dataset import DatasetName
from psptool.schemas.split import Family, ProtocolName, Split

FAMILIES: tuple[str, ...] = get_args(Family)


@dataclass(frozen=True)
class SplitRequest:
    """What a split is asked to be; None leaves a choice to the dataset's default.

    Attributes:
        ratio: Share of the train set's labels that are kept, at most 1; or None where `count` is given.
        count: Labelled clips a class; or None where `ratio` is given.
        protocol: One of the dataset's protocols; the first by default.
        family: per-class, per-class-ratio or global.
        seed: The draw's number.
        test_view: The camera kept for test, for datasets that let one choose.
        validation: A rule such as ``view=2``.
    """

    ratio: float | None = None
    count: int | None = None
    protocol: str | None = None
    family: str = "per-class"
    seed: int = 0
    test_view: int | None = None
    validation: str | None = None

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.count is None):
            found = "neither" if self.ratio is None else "both"
            raise PspError("--ratio and --count", found, "exactly one", "Say for example --ratio 0.05.")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            fix = "0.05 keeps the labels of 5 %; 1 keeps all."
            raise PspError("--ratio", str(self.ratio), "a share over 0 and at most 1", fix)
        if self.count is not None and self.count < 1:
            raise PspError("--count", str(self.count), "at least 1 labelled clip a class")
        if self.seed < 0:
            raise PspError("--seed", str(self.seed), "0 or more")
        if self.family not in FAMILIES:
            expected = f"one of {', '.join(FAMILIES)}"
            raise PspError("--family", repr(self.family), expected, suggest(self.family, FAMILIES))
        if self.count is not None and self.family != "per-class":
            fix = "Give --ratio, or leave --family out."
            raise PspError("--count", f"--family {self.family}", "family per-class", fix)

    @classmethod
    def of(cls, split: Split) -> SplitRequest:
        """The request that an existing split answers."""
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
    """A split and what there is to say of it.

    Attributes:
        split: The artefact.
        rule: In words, how many clips of a class are labelled and by whose convention.
        labelled_per_class: (fewest, most) labelled clips of the train set's classes.
        performances: Distinct performances among the labelled clips: views of one performance count once.
        warnings: Anything about classes that a user should know.
        path: The file it was saved as; None until then.
    """

    split: Split
    rule: str
    labelled_per_class: tuple[int, int]
    performances: int
    warnings: tuple[str, ...] = ()
    path: Path | None = None


def make_split(
    dataset: Dataset, clips: Mapping[str, ClipKey], clips_fingerprint: str, request: SplitRequest
) -> MadeSplit:
    """Make a split. The order of ``clips`` does not matter.

    Args:
        dataset: The dataset's facts.
        clips: Key by clip name, of all clips of the prepared dataset.
        clips_fingerprint: What the split is bound to.
        request: What is asked for.

    Raises:
        PspError: The protocol or view does not exist; the train or test set is empty; a class has too few
            clips; no clip would be labelled.
    """
    protocol = choose_protocol(dataset, request.protocol, request.test_view)
    train, test = _sides(dataset, protocol, clips)
    rule = None if request.validation is None else parse_validation(request.validation)
    validation = set() if rule is None else rule.pick(train, request.seed)
    pool = {name: key.label for name, key in train.items() if name not in validation}
    labelled, how = _draw(dataset, protocol, len(train), pool, request)
    split = Split(
        dataset=cast(DatasetName, dataset.name),
        protocol=cast(ProtocolName, protocol.name),
        test_view=default_view(dataset) if request.test_view is None else request.test_view,
        family=cast(Family, request.family),
        ratio=request.ratio,
        count=request.count,
        seed=request.seed,
        validation_rule=None if rule is None else str(rule),
        clips_fingerprint=clips_fingerprint,
        labelled=tuple(sorted(labelled)),
        unlabelled=tuple(sorted(pool.keys() - labelled)),
        validation=tuple(sorted(validation)),
        test=tuple(sorted(test)),
        tool_version=__version__,
    )
    sizes = Counter(dict.fromkeys(by_label(pool), 0))
    sizes.update(pool[name] for name in labelled)
    performances = {tuple(getattr(clips[name], field) for field in dataset.performance) for name in labelled}
    per_class = (min(sizes.values()), max(sizes.values()))
    return MadeSplit(split, how, per_class, len(performances), _warnings(dataset, sizes, test))


def choose_protocol(dataset: Dataset, name: str | None, test_view: int | None) -> Protocol:
    """The dataset's protocol of that name (its first where None), with the test view that is asked for.

    Raises:
        PspError: The dataset has no such protocol, or lets no such view be chosen.
    """
    known = dataset.protocols
    if name is not None and name not in known:
        expected = f"one of {', '.join(known)}"
        raise PspError(f"--protocol of {dataset.name}", repr(name), expected, suggest(name, known))
    protocol = known[name] if name is not None else next(iter(known.values()))
    if test_view is None:
        return protocol
    if test_view not in dataset.test_views:
        views = ", ".join(map(str, dataset.test_views))
        expected = f"one of {views}" if views else f"none, since the protocols of {dataset.name} are fixed"
        raise PspError(f"--test-view of {dataset.name}", str(test_view), expected)
    return replace(protocol, train=frozenset(dataset.test_views) - {test_view}, test=frozenset({test_view}))


def split_name(split: Split) -> str:
    """The split's file name without its ending; all that a request can ask for differs in it."""
    return request_name(split.dataset, SplitRequest.of(split), default_view(DATASETS[split.dataset]))


def request_name(data: str, request: SplitRequest, usual_view: int | None = None) -> str:
    """What the file of the split that is asked for is called, without its ending.

    Args:
        data: What the dataset is called.
        request: With its protocol.
        usual_view: The test view that goes without saying.
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


def default_view(dataset: Dataset) -> int | None:
    """The camera that the default protocol keeps for test, where the dataset lets one choose; else None."""
    return max(next(iter(dataset.protocols.values())).test or ()) if dataset.test_views else None


def field_count(protocol: Protocol, ratio: float, train_clips: int, classes: int) -> int | None:
    """The field's number of labelled clips a class for ``ratio``, or None where it has none that fits.

    The field's counts stand for the whole dataset (33 of about 660 clips a class in NTU 60). A train set of
    less than half that size is a part of the dataset, where they would not be the ratio that was asked for.
    """
    count = protocol.label_counts.get(ratio)
    return None if count is None or train_clips < classes * count / ratio / 2 else count


def differences(found: Split, made: Split) -> list[str]:
    """What of ``found`` is not as it would be made now, a line each; the tool's version does not count."""
    lines = []
    for field in Split.model_fields:
        if field == "tool_version":
            continue
        a, b = getattr(found, field), getattr(made, field)
        if a == b:
            continue
        if field in ("labelled", "unlabelled", "validation", "test"):
            extra, missing = sorted(set(a) - set(b)), sorted(set(b) - set(a))
            lines.append(f"{field}: {_some(extra)} too many, {_some(missing)} missing")
        else:
            lines.append(f"{field}: found {a}, expected {b}")
    return lines


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most]) + (", …" if len(names) > most else "")
    return f"{len(names)} ({shown})" if names else "0"


def _sides(
    dataset: Dataset, protocol: Protocol, clips: Mapping[str, ClipKey]
) -> tuple[dict[str, ClipKey], dict[str, ClipKey]]:
    """The clips for training and for test."""
    train = {name: key for name, key in clips.items() if getattr(key, protocol.field) in protocol.train}
    test = {
        name: key
        for name, key in clips.items()
        if name not in train and (protocol.test is None or getattr(key, protocol.field) in protocol.test)
    }
    for part, names, values in (("train", train, protocol.train), ("test", test, protocol.test)):
        if not names:
            there = sorted({getattr(key, protocol.field) for key in clips.values()})
            wanted = "any other" if values is None else ", ".join(map(str, sorted(values)))
            raise PspError(
                f"the {part} set of {dataset.name} {protocol.name} is empty",
                f"{protocol.field}s {', '.join(map(str, there)) or 'none'} in the dataset",
                f"{protocol.field} {wanted}",
                "Choose another --protocol, or prepare the rest of the dataset.",
            )
    return train, test


def _draw(
    dataset: Dataset, protocol: Protocol, train_clips: int, pool: Mapping[str, int], request: SplitRequest
) -> tuple[set[str], str]:
    """The labelled names, and in words how many there are of a class and why."""
    sizes = {label: len(names) for label, names in by_label(pool).items()}
    ratio = request.ratio
    if ratio is not None and request.family == "global":
        labelled = draw_global(pool, global_share(ratio, len(pool)), request.seed)
        how = f"int(N * {ratio}) of the whole train set, classes not balanced, as CMD and MAMP count"
    elif ratio is not None and request.family == "per-class-ratio":
        counts = {label: aimclr_share(ratio, size) for label, size in sizes.items()}
        labelled = draw_per_class(pool, counts, request.seed)
        how = f"round({ratio} * clips) of each class, as AimCLR counts"
    else:
        counts, how = _per_class_counts(dataset, protocol, train_clips, sizes, request)
        labelled = draw_per_class(pool, counts, request.seed)
    if not labelled:
        raise PspError(
            f"--ratio {ratio} with --family {request.family} labels no clip",
            f"{len(pool)} clips to draw from",
            fix="Ask for a larger ratio.",
        )
    return labelled, how


def _per_class_counts(
    dataset: Dataset, protocol: Protocol, train_clips: int, sizes: Mapping[int, int], request: SplitRequest
) -> tuple[dict[int, int], str]:
    """Labelled clips by label for family per-class, and whose count it is.

    Raises:
        PspError: A class has fewer clips than are to be labelled.
    """
    if request.ratio is None:
        count, how = request.count, f"{request.count} of each class, as asked"
    else:
        count = field_count(protocol, request.ratio, train_clips, len(dataset.class_names))
        how = f"{count} of each class, the field's count for ratio {request.ratio} (ASSL and its successors)"
    if count is None:
        assert request.ratio is not None
        how = f"{request.ratio} of each class's clips, rounded half up, at least 1"
        return {label: share(request.ratio, size) for label, size in sizes.items()}, how
    short = [label for label, size in sizes.items() if size < count]
    if short:
        listed = "; ".join(f"{dataset.class_names[label]} has {sizes[label]}" for label in short[:5])
        more = f"; and {len(short) - 5} more classes" if len(short) > 5 else ""
        raise PspError(
            f"{count} labelled clips of each class are more than {len(short)} of {len(sizes)} classes have",
            listed + more,
            f"at least {count} clips to draw from in each",
            f"Ask for --count {min(sizes.values())} or fewer.",
        )
    return dict.fromkeys(sizes, count), how


def _warnings(dataset: Dataset, labelled: Mapping[int, int], test: Mapping[str, ClipKey]) -> tuple[str, ...]:
    """Classes that cannot be learned or recognised, by name."""
    lines = []
    none = [dataset.class_names[label] for label, count in labelled.items() if count == 0]
    if none:
        lines.append(f"{len(none)} classes have no labelled clip: {', '.join(none)}")
    only = sorted({key.label for key in test.values()} - labelled.keys())
    if only:
        names = ", ".join(dataset.class_names[label] for label in only)
        lines.append(f"{len(only)} classes are in the test set alone: {names}")
    return tuple(lines)
