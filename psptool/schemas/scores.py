"""The scores of a run on the test set, ``scores.json``; the keys are those of ``evaluate --json``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from psptool.schemas.base import Artefact, Strict
from psptool.schemas.dataset import DatasetName
from psptool.schemas.split import Family, ProtocolName

Weights = Literal["last", "best"]
Part = Literal["test", "validation"]


def file_name(stem: str, ending: str, part: Part = "test", weights: Weights = "last") -> str:
    """Name of an evaluation's file, such as ``scores.json`` or ``scores-validation-best.json``.

    Anything but the last weights on the test clips has a name of its own, so that it never passes for the result.
    """
    return "-".join([stem, *(word for word in (part, weights) if word not in ("test", "last"))]) + ending


class StreamScores(Strict):
    """Accuracy of one stream by itself, with its auxiliary branch, as fractions."""

    top1: float = Field(ge=0, le=1)
    top5: float = Field(ge=0, le=1)


class Scores(Artefact):
    """Accuracies as fractions. *Unseen* are the test clips whose coordinates stand nowhere in the train set.

    What says how the run came about stands here too, so that a table needs no other file. It is null in scores
    of earlier versions, which did not keep it.
    """

    format_version: Literal[1] = 1
    dataset: DatasetName
    split: str = Field(description="File name of the split")
    method: str
    preset: str
    seed: int = Field(description="The training's seed")
    weights: Weights = Field(description="Which weights: the last, or the best on validation clips")
    part: Part = "test"
    top1: float = Field(ge=0, le=1, description="All streams fused: the sum of their logits")
    top5: float = Field(ge=0, le=1)
    streams: dict[str, StreamScores] = Field(description="Each stream by itself, by name")
    clips: int = Field(ge=1)
    top1_unseen: float | None = Field(None, description="null where no test clip is unseen")
    clips_unseen: int = Field(ge=0)
    classes_unseen: tuple[str, ...] = Field(description="Class names that occur among the unseen clips")
    per_class: dict[str, float] = Field(description="Top-1 of all streams fused, by class name")
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="Counts; rows are true classes, columns predicted ones"
    )
    content_fingerprint: str
    clips_fingerprint: str
    tool_version: str
    protocol: ProtocolName | None = None
    test_view: int | None = Field(
        None, description="The camera kept for test, where the protocol lets one choose"
    )
    validation_rule: str | None = Field(
        None, description="Which clips the split keeps for validation, as asked"
    )
    family: Family | None = Field(None, description="How the split counts labels")
    ratio: float | None = Field(None, description="Share of labels asked for; null where a count was")
    count: int | None = Field(None, description="Labelled clips a class asked for; null where a ratio was")
    labelled: int | None = Field(None, description="Labelled clips in all")
    draw: int | None = Field(None, description="The split's seed")
    split_digest: str | None = Field(None, description="Of which clip stands in which part")
    scored_digest: str | None = Field(None, description="Of the names of the clips that were scored")
    changes: tuple[str, ...] | None = Field(
        None, description="Values of the recipe that are not its preset's, as key=value"
    )
    recipe_digest: str | None = Field(None, description="Of every value of the recipe but the seed")
    seconds: float | None = Field(None, description="That the training took, first step to last")
    device: str | None = Field(None, description="That the training ran on, as PyTorch calls it")
    hardware: str | None = Field(None, description="The same by model, with the threads used")
    precision: str | None = Field(None, description="Of the training's forward pass")
    commit: str | None = Field(None, description="Of the source that trained")

    def measure(self, name: str) -> float | None:
        """One of the accuracies that `measure_names` lists; None where these scores lack it."""
        own = {f"top1_{stream}": found.top1 for stream, found in self.streams.items()}
        return {"top1": self.top1, "top5": self.top5, **own, "top1_unseen": self.top1_unseen}.get(name)


def measure_names(streams: Iterable[str]) -> tuple[str, ...]:
    """The accuracies that a table shows: all streams fused, then each of ``streams`` by itself, then unseen clips."""
    return ("top1", "top5", *(f"top1_{name}" for name in streams), "top1_unseen")
