"""A split: which clips are labelled, unlabelled, for validation and for test, by name."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from psptool.schemas.base import Artefact
from psptool.schemas.dataset import DatasetName

Family = Literal["per-class", "per-class-ratio", "global"]
ProtocolName = Literal["xsub", "xview", "xset"]


SPLIT_PARTS = ("labelled", "unlabelled", "validation", "test")


class Split(Artefact):
    """One labelled draw over one protocol of one dataset."""

    format_version: Literal[1] = 1
    dataset: DatasetName
    protocol: ProtocolName
    test_view: int | None = Field(
        None, description="The camera kept for test, where the protocol lets one choose"
    )
    family: Family
    ratio: float | None = Field(
        None, gt=0, le=1, description="Share of labels asked for; null where a count was"
    )
    count: int | None = Field(
        None, ge=1, description="Labelled clips a class asked for; null where a ratio was"
    )
    seed: int = Field(ge=0)
    validation_rule: str | None = Field(None, description="What --validation said, such as view=2")
    clips_fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...]
    tool_version: str

    @model_validator(mode="after")
    def _parts_are_disjoint(self) -> Self:
        parts = tuple(getattr(self, part) for part in SPLIT_PARTS)
        if len(set().union(*parts)) != sum(len(part) for part in parts):
            raise ValueError("labelled, unlabelled, validation and test overlap or name a clip twice")
        return self

    @model_validator(mode="after")
    def _ratio_or_count(self) -> Self:
        if (self.ratio is None) == (self.count is None):
            raise ValueError("exactly one of ratio and count is given")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal of which clip stands in which part; what a run is bound to. Order does not count."""
        parts = {part: sorted(getattr(self, part)) for part in SPLIT_PARTS}
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
