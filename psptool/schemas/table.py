"""A table over scored runs, as ``psptool table --json`` prints it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from psptool.schemas.base import Artefact, Strict
from psptool.schemas.dataset import DatasetName
from psptool.schemas.scores import Part, Weights, measure_names


class Spread(Strict):
    """A measure over draws, in fractions."""

    mean: float
    deviation: float | None = Field(None, description="Sample standard deviation; null for one draw")
    error: float | None = Field(None, description="Standard error of the mean; null for one draw")
    values: tuple[float, ...] = Field(description="By draw; of a draw with several runs their mean")


class Group(Strict):
    """Runs that differ in their draw alone."""

    labels: str = Field(description="How many labels the split keeps")
    name: str = Field(description="Method, preset, and what the recipe changes of it")
    draws: tuple[str, ...] = Field(
        description="In the order of the values; the split's seed or its file name"
    )
    runs: tuple[str, ...] = Field(description="Where the scores lay")
    measures: dict[str, Spread] = Field(description="By measure; one that a run lacks is left out")
    seconds: float | None = Field(None, description="Mean time of a training; null where a run says none")
    computed_on: tuple[str, ...] = Field((), description="Device and precision of the trainings")
    commits: tuple[str, ...] = Field((), description="Of the source that trained")


class Difference(Strict):
    """One group minus another, draw by draw, over the draws that both have."""

    labels: str
    name: str
    against: str
    draws: tuple[str, ...]
    measures: dict[str, Spread]
    closed: float | None = Field(
        None,
        description="Share of the gap between the mean top-1 of `against` and its mean with all labels that the mean "
        "difference closes; null where that gap is not over twice its standard error",
    )


class ScoreTable(Artefact):
    """Mean and standard deviation over draws of groups of runs that may be compared."""

    format_version: Literal[1] = 1
    dataset: DatasetName
    protocol: str | None
    test_view: int | None
    part: Part
    weights: Weights
    clips: int
    clips_unseen: int
    streams: tuple[str, ...] = Field(description="Streams of any run, whose accuracy is a measure of its own")
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = Field((), description="What a reader of the table should know")

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures of the table's columns, in their order."""
        return measure_names(self.streams)
