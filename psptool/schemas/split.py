"""A split: the names of the labelled, unlabelled, validation and test clips."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator
from typing_extensions import Self

from psptool.schemas.base import Artefact
from psptool.schemas.skeleton import Name

Family = Literal["per-class", "per-class-ratio", "global"]
LONGEST_PROTOCOL_NAME = 81
ProtocolName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=LONGEST_PROTOCOL_NAME)
]
"""Name of a protocol; for one value of leave-one-out followed by a hyphen and the value, such as ``loso-3``."""


SPLIT_PARTS = ("labelled", "unlabelled", "validation", "test")


class Split(Artefact):
    """A label split: one random selection of labelled clips for one protocol of one dataset."""

    format_version: Literal[1] = 1
    dataset: Name
    protocol: ProtocolName
    test_view: int | None = Field(
        None, description="Test camera, if the protocol lets you choose it; otherwise null"
    )
    family: Family = Field(
        description="Counting of labelled clips: `per-class` (ASSL), `per-class-ratio` (AimCLR), `global` (CMD, MAMP)"
    )
    ratio: float | None = Field(
        None, gt=0, le=1, description="Requested fraction of labels; null if a count was requested"
    )
    count: int | None = Field(
        None, ge=1, description="Requested labelled clips per class; null if a ratio was requested"
    )
    seed: int = Field(ge=0, lt=2**63, description="Random seed of the selection")
    validation_rule: str | None = Field(None, description="The rule given with --validation, such as view=2")
    clips_fingerprint: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Clips fingerprint of the dataset that the split belongs to"
    )
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...]
    labelled_per_class: dict[str, int] | None = Field(
        None, description="Labelled clips by class name; null in files of earlier versions"
    )
    performances: int | None = Field(
        None,
        ge=0,
        description="Distinct performances among the labelled clips; null in files of earlier versions",
    )
    tool_version: str

    @model_validator(mode="after")
    def _parts_are_disjoint(self) -> Self:
        parts = tuple(getattr(self, part) for part in SPLIT_PARTS)
        if len(set().union(*parts)) != sum(len(part) for part in parts):
            raise ValueError("labelled, unlabelled, validation and test must not contain a clip twice")
        return self

    @model_validator(mode="after")
    def _ratio_or_count(self) -> Self:
        if (self.ratio is None) == (self.count is None):
            raise ValueError("exactly one of ratio and count must be given")
        return self

    def pool(self, with_labelled: bool) -> tuple[str, ...]:
        """The clips that are used without their labels: the unlabelled ones, and the labelled ones if asked."""
        return self.unlabelled + (self.labelled if with_labelled else ())

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the clip names in each part, independent of their order. Stored in runs."""
        parts = {part: sorted(getattr(self, part)) for part in SPLIT_PARTS}
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
