"""The labelled draw: which clips of a train set keep their label, from names and labels alone.

A clip's rank is a hash of the seed and its name, so that a draw needs no random generator and no file order,
can be made again anywhere, and a smaller set lies inside a larger one of the same seed, family and pool.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction

LABELLED_TAG = "psptool-split-1"
VALIDATION_TAG = "psptool-validation-1"


def ranked(names: Iterable[str], seed: int, tag: str = LABELLED_TAG) -> list[str]:
    """The names by the SHA-256 of tag, seed (decimal) and name, joined by newlines, as UTF-8 bytes."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{tag}\n{seed}\n{name}".encode()).digest())


def by_label(labels: Mapping[str, int]) -> dict[int, list[str]]:
    """Clip names by label, labels ascending."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, label in labels.items():
        groups[label].append(name)
    return dict(sorted(groups.items()))


def draw_per_class(
    labels: Mapping[str, int], counts: Mapping[int, int], seed: int, tag: str = LABELLED_TAG
) -> set[str]:
    """The first ``counts[label]`` clips of every class by rank.

    Args:
        labels: Label by clip name; the pool that is drawn from.
        counts: Clips to take by label; every label of the pool has one.
        seed: The draw's number.
        tag: What the draw is for; draws with different tags are independent.
    """
    return {
        name
        for label, names in by_label(labels).items()
        for name in ranked(names, seed, tag)[: counts[label]]
    }


def draw_global(labels: Mapping[str, int], count: int, seed: int) -> set[str]:
    """The first ``count`` clips of the whole pool by rank, whatever their class."""
    return set(ranked(labels, seed)[:count])


def share(ratio: float, clips: int) -> int:
    """``ratio * clips``, rounded half up, at least 1; exact for the ratio as it is written in decimal."""
    return max(1, int(Fraction(str(ratio)) * clips + Fraction(1, 2)))


def aimclr_share(ratio: float, clips: int) -> int:
    """Labelled clips of a class as AimCLR (Guo et al. 2022) counts them: ``round(ratio * n_class)``."""
    return round(ratio * clips)


def global_share(ratio: float, clips: int) -> int:
    """Labelled clips of the train set as CMD and MAMP (Mao et al.) count them: ``int(N * ratio)``."""
    return int(clips * ratio)
