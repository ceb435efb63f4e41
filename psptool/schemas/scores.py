"""The scores of a run, ``scores.json``, with the same keys as ``psptool evaluate --json``."""

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

    Only scores of the last checkpoint on the test clips have the plain name.
    """
    return "-".join([stem, *(word for word in (part, weights) if word not in ("test", "last"))]) + ending


class StreamScores(Strict):
    """Accuracy of a single stream, with its auxiliary branch, as fractions."""

    top1: float = Field(ge=0, le=1)
    top5: float = Field(ge=0, le=1)


class Scores(Artefact):
    """Accuracies as fractions, and the provenance of the run, so that ``psptool table`` needs no other file.

    Keys with *unseen* are about the clips without a duplicate in the training set. Provenance is null if the version of
    psptool did not record it.
    """

    format_version: Literal[1] = 1
    dataset: DatasetName
    split: str = Field(description="File name of the split")
    method: str
    preset: str
    seed: int = Field(description="Random seed of the training")
    weights: Weights = Field(description="Checkpoint: the last one, or the best one on the validation clips")
    part: Part = "test"
    top1: float = Field(ge=0, le=1, description="Top-1 of the fusion of all streams (sum of logits)")
    top5: float = Field(ge=0, le=1, description="Top-5 of the fusion of all streams")
    streams: dict[str, StreamScores] = Field(description="Accuracy of each stream, by name")
    clips: int = Field(ge=1, description="Number of clips")
    top1_unseen: float | None = Field(
        None, description="Top-1 on the clips without a duplicate in the training set; null if there are none"
    )
    clips_unseen: int = Field(ge=0, description="Number of clips without a duplicate in the training set")
    classes_unseen: tuple[str, ...] = Field(
        description="Names of the classes with clips without a duplicate in the training set"
    )
    per_class: dict[str, float] = Field(description="Top-1 of the fusion of all streams, by class name")
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="Number of clips; rows are true classes, columns predicted classes"
    )
    content_fingerprint: str
    clips_fingerprint: str
    tool_version: str
    protocol: ProtocolName | None = None
    test_view: int | None = Field(
        None, description="Test camera, if the protocol lets you choose it; otherwise null"
    )
    validation_rule: str | None = Field(
        None, description="The rule given to psptool split --validation, such as view=2"
    )
    family: Family | None = Field(None, description="Counting of labelled clips, as in the split")
    ratio: float | None = Field(
        None, description="Requested fraction of labels; null if a count was requested"
    )
    count: int | None = Field(
        None, description="Requested labelled clips per class; null if a ratio was requested"
    )
    labelled: int | None = Field(None, description="Number of labelled clips")
    draw: int | None = Field(None, description="Seed of the label split")
    split_digest: str | None = Field(None, description="Digest of the clip names in each part of the split")
    scored_digest: str | None = Field(None, description="Digest of the names of the scored clips")
    changes: tuple[str, ...] | None = Field(
        None, description="Values that differ from the preset, as key=value"
    )
    recipe_digest: str | None = Field(
        None, description="Digest of the training configuration without its seed"
    )
    seconds: float | None = Field(None, description="Training time in seconds, first to last step")
    device: str | None = Field(None, description="Device of the training, by its PyTorch name")
    hardware: str | None = Field(None, description="GPU model, or processor model and number of threads")
    precision: str | None = Field(None, description="Precision of the forward pass in training")
    commit: str | None = Field(None, description="Git commit of psptool's source")

    def measure(self, name: str) -> float | None:
        """The accuracy with a name from `measure_names`; None if these scores do not have it."""
        own = {f"top1_{stream}": found.top1 for stream, found in self.streams.items()}
        return {"top1": self.top1, "top5": self.top5, **own, "top1_unseen": self.top1_unseen}.get(name)


def measure_names(streams: Iterable[str]) -> tuple[str, ...]:
    """Names of the accuracies of a table: fusion of all streams, each stream, clips without a duplicate in training."""
    return ("top1", "top5", *(f"top1_{name}" for name in streams), "top1_unseen")
