"""Random selection of the clips of a training set that keep their label.

Clips are ranked by a hash of the seed and the clip name. The selection depends on no random generator and no file
order, is the same on every machine, and is nested: with the same seed, family and training set, a smaller selection is
a subset of a larger one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction

from psptool.skeletons.keys import NO_LABEL, ClipKey

LABELLED_TAG = "psptool-split-1"
VALIDATION_TAG = "psptool-validation-1"


def ranked(names: Iterable[str], seed: int, tag: str = LABELLED_TAG) -> list[str]:
    """``names`` sorted by the SHA-256 of tag, seed (decimal) and name, joined by newlines and encoded as UTF-8."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{tag}\n{seed}\n{name}".encode()).digest())


def labels_of(clips: Mapping[str, ClipKey]) -> dict[str, int]:
    """Label by clip name, without clips that have no label."""
    return {name: key.label for name, key in clips.items() if key.label != NO_LABEL}


def by_label(labels: Mapping[str, int]) -> dict[int, list[str]]:
    """Clip names by label, in ascending order of the labels."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, label in labels.items():
        groups[label].append(name)
    return dict(sorted(groups.items()))


def draw_per_class(
    labels: Mapping[str, int], counts: Mapping[int, int], seed: int, tag: str = LABELLED_TAG
) -> set[str]:
    """The first ``counts[label]`` clips by rank of each class.

    Args:
        labels: Label by clip name, of all clips to select from.
        counts: Number of clips to select, for every label in ``labels``.
        seed: Random seed.
        tag: Purpose of the selection; selections with different tags are independent.
    """
    return {
        name
        for label, names in by_label(labels).items()
        for name in ranked(names, seed, tag)[: counts[label]]
    }


def draw_global(labels: Mapping[str, int], count: int, seed: int) -> set[str]:
    """The first ``count`` clips by rank, regardless of class."""
    return set(ranked(labels, seed)[:count])


def share(ratio: float, clips: int) -> int:
    """``ratio * clips``, rounded half up, at least 1. Computed exactly from the decimal digits of ``ratio``."""
    return max(1, int(Fraction(str(ratio)) * clips + Fraction(1, 2)))


def aimclr_share(ratio: float, clips: int) -> int:
    """Labelled clips per class in AimCLR (Guo et al. 2022): ``round(ratio * n_class)``."""
    return round(ratio * clips)


def global_share(ratio: float, clips: int) -> int:
    """Labelled clips of the training set in CMD and MAMP (Mao et al.): ``int(N * ratio)``."""
    return int(clips * ratio)
