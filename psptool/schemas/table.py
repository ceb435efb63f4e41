"""The output of ``psptool table --json``: mean and standard deviation of evaluated runs over label splits.

With leave-one-out, a fold takes the place of a label split: its value is the mean of its runs.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from psptool.schemas.base import Artefact, Strict
from psptool.schemas.scores import Part, Weights, measure_names
from psptool.schemas.skeleton import Name


class Spread(Strict):
    """An accuracy over label splits, as fractions."""

    mean: float
    deviation: float | None = Field(None, description="Sample standard deviation; null for one label split")
    error: float | None = Field(None, description="Standard error of the mean; null for one label split")
    values: tuple[float, ...] = Field(
        description="One value per label split; several runs of a label split are averaged"
    )


class Group(Strict):
    """Runs that differ only in their label split."""

    labels: str = Field(description="Number or fraction of labels")
    name: str = Field(description="Method, preset and changed values")
    draws: tuple[str, ...] = Field(
        description="Seeds or file names of the label splits, or the folds, in the order of `Spread.values`"
    )
    runs: tuple[str, ...] = Field(description="Paths of the runs or scores files")
    measures: dict[str, Spread] = Field(description="Accuracies that all runs have, by name")
    seconds: float | None = Field(None, description="Mean training time; null if a run has none")
    computed_on: tuple[str, ...] = Field((), description="Hardware and precision of the trainings")
    commits: tuple[str, ...] = Field((), description="Git commits of psptool's source")


class Difference(Strict):
    """Difference of two groups, paired by label split, over the label splits that both have."""

    labels: str
    name: str
    against: str
    draws: tuple[str, ...]
    measures: dict[str, Spread]
    closed: float | None = Field(
        None,
        description="Share of the gap to full supervision: mean difference in top-1, divided by the gap between "
        "`against` and `against` with all labels; null if the gap is at most twice its standard error",
    )


class ScoreTable(Artefact):
    """Mean and standard deviation over label splits, of groups of comparable runs."""

    format_version: Literal[1] = 1
    dataset: Name
    protocol: str | None = Field(description="The protocol; with leave-one-out, that of all folds")
    folds: tuple[str, ...] = Field((), description="Leave-one-out: the protocols of the folds")
    test_view: int | None
    part: Part
    weights: Weights
    clips: int = Field(description="Number of evaluated clips, in all folds")
    clips_unseen: int = Field(
        description="Number of evaluated clips without a duplicate in the training set, in all folds"
    )
    streams: tuple[str, ...] = Field(description="Streams of any run; the accuracy of each is a column")
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...] = ()
    redundant: tuple[str, ...] = Field(
        (), description="Accuracies that tell nothing about these clips, such as top-5 of up to 5 classes"
    )
    warnings: tuple[str, ...] = Field((), description="Warnings about the comparison")

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the accuracies, in the order of the columns."""
        return measure_names(self.streams)

    @property
    def shown(self) -> tuple[str, ...]:
        """The `measures` that a group has and that are not `redundant`."""
        present = {name for group in self.groups for name in group.measures} - {*self.redundant}
        return tuple(name for name in self.measures if name in present)
