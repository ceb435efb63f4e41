"""The scores of a run on the test set, ``scores.json``; the keys are those of ``evaluate --json``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from psptool.common.errors import PspError
from psptool.schemas.base import Artefact, Strict
from psptool.schemas.dataset import DatasetName
from psptool.schemas.split import Family, ProtocolName

_ROUNDING = 1e-9
"""Largest difference of equal accuracies; one clip of any dataset is more."""
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

    def inconsistencies(self) -> list[str]:
        """Values that contradict the confusion matrix or each other, such as after damage; empty if there are none."""
        rows, clips = [sum(row) for row in self.confusion], self.clips
        if any(len(row) != len(rows) or min(row) < 0 for row in self.confusion):
            return ["confusion: not a square matrix of counts"]
        if sum(rows) != clips:
            return [f"clips: found {clips}, expected {sum(rows)} from the confusion matrix"]
        right = [row[label] for label, row in enumerate(self.confusion)]
        found = []
        if not _equal(self.top1, sum(right) / clips):
            found.append(
                f"top1: found {self.top1:.6g}, expected {sum(right) / clips:.6g} from the confusion matrix"
            )
        shares = [hits / row for hits, row in zip(right, rows, strict=True) if row]
        if len(shares) != len(self.per_class) or not all(map(_equal, shares, self.per_class.values())):
            found.append("per_class: differs from the confusion matrix")
        fused = StreamScores(top1=self.top1, top5=self.top5)
        for name, own in {"fusion": fused, **self.streams}.items():
            if own.top5 < own.top1 or not (_is_share(own.top1, clips) and _is_share(own.top5, clips)):
                found.append(
                    f"{name}: top1 {own.top1:.6g} and top5 {own.top5:.6g} are not those of {clips} clips"
                )
        unseen = self.top1_unseen
        if self.clips_unseen > clips or (unseen is None) != (self.clips_unseen == 0):
            found.append(
                f"clips_unseen: found {self.clips_unseen} of {clips} clips, with top1_unseen {unseen}"
            )
        elif unseen is not None and not _is_share(unseen, self.clips_unseen):
            found.append(f"top1_unseen: {unseen:.6g} is not a share of {self.clips_unseen} clips")
        if odd := [name for name in self.classes_unseen if name not in self.per_class]:
            found.append(f"classes_unseen: {odd[0]!r:.60} has no clips")
        return found

    @classmethod
    def load_consistent(cls, path: Path) -> Scores:
        """`load`, and refuse values that contradict each other.

        Raises:
            PspError: As `load`; or `inconsistencies` finds something.
        """
        scores = cls.load(path)
        if found := scores.inconsistencies():
            raise PspError(
                f"{path}: damaged or altered: {'; '.join(found)}",
                fix="Evaluate the run again with psptool evaluate.",
            )
        return scores


def _equal(first: float, second: float) -> bool:
    return abs(first - second) < _ROUNDING


def _is_share(value: float, of: int) -> bool:
    """Whether ``value`` is an integer over ``of``."""
    return _equal(value, round(value * of) / of)


def measure_names(streams: Iterable[str]) -> tuple[str, ...]:
    """The accuracies that a table shows: all streams fused, then each of ``streams`` by itself, then unseen clips."""
    return ("top1", "top5", *(f"top1_{name}" for name in streams), "top1_unseen")
