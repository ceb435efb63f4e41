"""Rules that take validation clips out of the train set before the draw.

``view=2``, ``subject=3,7``, or ``fraction=0.1`` of each class by hash rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psptool.common.errors import PspError
from psptool.data.skeletons.datasets import ClipKey
from psptool.data.splits.draw import VALIDATION_TAG, by_label, draw_per_class, share

_FIELDS = {"view": "camera", "subject": "subject"}
_FIX = "Write it as view=2, subject=3,7 or fraction=0.1."


@dataclass(frozen=True)
class ValidationRule:
    """One parsed rule.

    Attributes:
        kind: ``view``, ``subject`` or ``fraction``.
        values: The views or subjects that leave, ascending; empty for a fraction.
        fraction: The share of each class that leaves; None for the other kinds.
    """

    kind: str
    values: tuple[int, ...] = ()
    fraction: float | None = None

    def __str__(self) -> str:
        what = ",".join(map(str, self.values)) if self.fraction is None else str(self.fraction)
        return f"{self.kind}={what}"

    def pick(self, train: Mapping[str, ClipKey], seed: int) -> set[str]:
        """The names of the train clips that the rule takes; of a fraction's classes at least one clip stays.

        Raises:
            PspError: The rule takes no clip, or all of them.
        """
        if self.fraction is not None:
            labels = {name: key.label for name, key in train.items()}
            sizes = {label: len(names) for label, names in by_label(labels).items()}
            counts = {label: min(size - 1, share(self.fraction, size)) for label, size in sizes.items()}
            taken = draw_per_class(labels, counts, seed, VALIDATION_TAG)
            there = f"classes of at most {max(sizes.values(), default=0)} train clips"
        else:
            field = _FIELDS[self.kind]
            taken = {name for name, key in train.items() if getattr(key, field) in self.values}
            seen = sorted({getattr(key, field) for key in train.values()})
            there = f"{self.kind}s {', '.join(map(str, seen))} in the train set"
        if not taken or len(taken) == len(train):
            how_much = "no" if not taken else "every"
            raise PspError(
                f"--validation {self} takes {how_much} train clip",
                there,
                "a rule that takes some and leaves some",
                "Choose another value.",
            )
        return taken


def parse_validation(text: str) -> ValidationRule:
    """Parse ``view=2``, ``subject=3,7`` or ``fraction=0.1``.

    Raises:
        PspError: The text is none of these.
    """
    kind, _, value = text.partition("=")
    try:
        if kind == "fraction" and 0 < float(value) < 1:
            return ValidationRule(kind, fraction=float(value))
        if kind in _FIELDS:
            return ValidationRule(kind, tuple(sorted({int(part) for part in value.split(",")})))
    except ValueError:
        pass
    raise PspError("--validation", repr(text), "a view, subjects or a fraction between 0 and 1", _FIX)
