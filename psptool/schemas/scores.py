"""The scores of a run on the test set, ``scores.json``; the keys are those of ``evaluate --json``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from psptool.schemas.base import Artefact
from psptool.schemas.dataset import DatasetName

Accuracy = float


class Scores(Artefact):
    """Accuracies as fractions. *Unseen* are the test clips whose coordinates stand nowhere in the train set."""

    format_version: Literal[1] = 1
    dataset: DatasetName
    split: str = Field(description="File name of the split")
    method: str
    preset: str
    seed: int = Field(description="The training's seed")
    weights: Literal["last", "best"] = Field(
        description="Which weights: the last, or the best on validation clips"
    )
    part: Literal["test", "validation"] = "test"
    top1: float = Field(ge=0, le=1, description="Both streams")
    top5: float = Field(ge=0, le=1)
    top1_joint: float = Field(ge=0, le=1, description="The joint stream alone")
    top5_joint: float = Field(ge=0, le=1)
    top1_motion: float = Field(ge=0, le=1, description="The motion stream alone")
    top5_motion: float = Field(ge=0, le=1)
    clips: int = Field(ge=1)
    top1_unseen: float | None = Field(None, description="null where no test clip is unseen")
    clips_unseen: int = Field(ge=0)
    classes_unseen: tuple[str, ...] = Field(description="Class names that occur among the unseen clips")
    per_class: dict[str, float] = Field(description="Top-1 of both streams by class name")
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="Counts; rows are true classes, columns predicted ones"
    )
    content_fingerprint: str
    clips_fingerprint: str
    tool_version: str
