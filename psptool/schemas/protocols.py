"""The evaluation protocols of a dataset: which clips are for training and which for test."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from psptool.schemas.base import Strict
from psptool.skeletons import keys

Value = int | str
"""A value of a field: a number, or a name that `ClipNames.values` lists."""

LabelCounts = dict[float, int]


class _Protocol(Strict):
    label_counts: LabelCounts = Field(
        default_factory=dict,
        description="Labelled clips per class by label ratio, where the literature has such numbers",
    )


class FieldProtocol(_Protocol):
    """Training and test clips by the values of a field."""

    field: keys.Field = Field(description="The field that divides the clips")
    train: tuple[Value, ...] = Field(min_length=1, description="Values for training")
    test: tuple[Value, ...] | None = Field(None, description="Values for test; by default all others")

    @property
    def by_camera(self) -> bool:
        """Whether the protocol divides by camera, so that its test view can be chosen."""
        return self.field == "camera"


class ListProtocol(_Protocol):
    """Training and test clips by name."""

    train_clips: tuple[str, ...] = Field(
        min_length=1, description="Clips for training; in YAML also a text file with one name a line"
    )
    test_clips: tuple[str, ...] | None = Field(None, description="Clips for test; by default all others")


class LeaveOneOut(_Protocol):
    """One split for each value of a field, which is the test set; ``NAME-VALUE`` is the protocol of one value."""

    leave_one_out: keys.Field = Field(description="The field, such as subject")


class ShareProtocol(_Protocol):
    """A random share of the clips of each class for training, by the rank of their names' hash."""

    share: float = Field(gt=0, lt=1, description="Share of each class's clips for training")
    seed: int = Field(0, ge=0, lt=2**63, description="Random seed")


# Tags begin with a colon: they are not part of the keys in messages.
_KINDS = {"field": ":field", "train_clips": ":clips", "leave_one_out": ":leave_one_out", "share": ":share"}


def _kind(value: Any) -> str | None:
    if isinstance(value, _Protocol):
        return _KINDS[next(key for key in _KINDS if key in type(value).model_fields)]
    found = [kind for key, kind in _KINDS.items() if isinstance(value, dict) and key in value]
    return found[0] if len(found) == 1 else None


Protocol = Annotated[
    Annotated[FieldProtocol, Tag(":field")]
    | Annotated[ListProtocol, Tag(":clips")]
    | Annotated[LeaveOneOut, Tag(":leave_one_out")]
    | Annotated[ShareProtocol, Tag(":share")],
    Discriminator(
        _kind,
        custom_error_type="protocol",
        custom_error_message="Input should be a mapping with field, train_clips, leave_one_out or share",
    ),
]
