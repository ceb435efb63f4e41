"""Rules that move clips from the training set to the validation set, before labelled clips are selected.

A rule is a field with values, such as ``view=2`` or ``subject=3,7``, or ``fraction=0.1`` (of each class, by hash rank).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psptool.common.errors import PspError
from psptool.data.splits.draw import VALIDATION_TAG, by_label, draw_per_class, labels_of, share
from psptool.skeletons.keys import NO_LABEL, ClipKey

_FIELDS = {"view": "camera", **{name: name for name in ("subject", "camera", "setup", "repetition")}}
_FIX = "Examples: --validation view=2, --validation subject=3,7, --validation fraction=0.1."


@dataclass(frozen=True)
class ValidationRule:
    """A parsed validation rule.

    Attributes:
        kind: ``view`` or ``camera``, ``subject``, ``setup``, ``repetition``, or ``fraction``.
        values: Values of the field for validation, ascending; empty for a fraction.
        fraction: Fraction of each class for validation; None for the other kinds.
    """

    kind: str
    values: tuple[int, ...] = ()
    fraction: float | None = None

    def __str__(self) -> str:
        what = ",".join(map(str, self.values)) if self.fraction is None else str(self.fraction)
        return f"{self.kind}={what}"

    def pick(self, train: Mapping[str, ClipKey], seed: int) -> set[str]:
        """Names of the training clips for validation. A fraction leaves at least one training clip per class.

        The values of a field also select clips without a label, so that a view held out for validation is not used in
        training.

        Raises:
            PspError: The rule selects no clip or all clips.
        """
        if self.fraction is not None:
            labels = labels_of(train)
            sizes = {label: len(names) for label, names in by_label(labels).items()}
            counts = {label: min(size - 1, share(self.fraction, size)) for label, size in sizes.items()}
            taken = draw_per_class(labels, counts, seed, VALIDATION_TAG)
            there = f"classes with at most {max(sizes.values(), default=0)} training clips"
        else:
            field = _FIELDS[self.kind]
            taken = {name for name, key in train.items() if getattr(key, field) in self.values}
            seen = sorted({getattr(key, field) for key in train.values()} - {-1})
            there = f"{self.kind}s {', '.join(map(str, seen)) or 'none'} in the training set"
        has_labels = any(train[name].label != NO_LABEL for name in taken)
        if not has_labels or len(taken) == len(train):
            how_much = "every" if has_labels else "no"
            raise PspError(
                f"--validation {self}: selects {how_much} training clip",
                there,
                "a rule that selects some of the training clips",
                "Choose another value.",
            )
        return taken


def parse_validation(text: str) -> ValidationRule:
    """Parse a rule such as ``view=2``, ``subject=3,7`` or ``fraction=0.1``.

    Raises:
        PspError: ``text`` has another form.
    """
    kind, _, value = text.partition("=")
    try:
        if kind == "fraction" and 0 < float(value) < 1:
            return ValidationRule(kind, fraction=float(value))
        if kind in _FIELDS and min(values := sorted({int(part) for part in value.split(",")})) >= 0:
            return ValidationRule(kind, tuple(values))
    except ValueError:
        pass
    expected = f"numbers of {', '.join(_FIELDS)}, or a fraction between 0 and 1"
    raise PspError("--validation", repr(text), expected, _FIX)
