"""The scores of a run, ``scores.json``, with the same keys as ``psptool evaluate --json``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from psptool.common.errors import PspError
from psptool.schemas.base import Artefact, Strict
from psptool.schemas.skeleton import Name
from psptool.schemas.split import Family, ProtocolName

_ROUNDING = 1e-9
"""Largest difference of equal accuracies; one clip of any dataset is more."""
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
    dataset: Name
    split: str = Field(description="File name of the split")
    method: str
    preset: str = Field(description="Preset of the training; empty for predictions of another program")
    seed: int = Field(description="Random seed of the training")
    weights: Weights = Field(description="Checkpoint: the last one, or the best one on the validation clips")
    part: Part = "test"
    top1: float = Field(ge=0, le=1, description="Top-1 of the fusion of all streams (sum of logits)")
    top5: float | None = Field(
        ge=0,
        le=1,
        description="Top-5 of the fusion of all streams; null for predictions of another program that are one class",
    )
    streams: dict[str, StreamScores] = Field(description="Accuracy of each stream, by name")
    clips: int = Field(ge=1, lt=2**53, description="Number of clips")
    top1_unseen: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Top-1 on the clips without a duplicate in the training set; null if there are none",
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
    leave_one_out: ProtocolName | None = Field(
        None, description="The leave-one-out protocol, if `protocol` is one fold of it; otherwise null"
    )
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

    @property
    def accuracies(self) -> dict[str, tuple[float, ...]]:
        """Top-1 and top-5 of the fusion and each stream, by name in tables; without top-5 if it is redundant."""
        found = {"fusion of all streams": (self.top1, self.top5)}
        found |= {f"{name} stream": (own.top1, own.top5) for name, own in self.streams.items()}
        if self.shown_top5 is None:
            return {name: (top1,) for name, (top1, _) in found.items()}
        return {name: (top1, top5) for name, (top1, top5) in found.items() if top5 is not None}

    @property
    def shown_top5(self) -> float | None:
        """Top-5, or None if it is unknown or redundant."""
        return None if "top5" in self.redundant else self.top5

    @property
    def redundant(self) -> set[str]:
        """Names of accuracies without information: `top5` if unknown or of at most 5 classes, `top1_unseen` of no clip
        or of all.
        """
        few = self.top5 is None or len(self.confusion) <= 5
        found = {"top5": few, "top1_unseen": self.clips_unseen in (0, self.clips)}
        return {name for name, is_redundant in found.items() if is_redundant}

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
        fused = StreamScores(top1=self.top1, top5=1 if self.top5 is None else self.top5)
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
    """Names of the accuracies of a table: fusion of all streams, each stream, clips without a duplicate in training."""
    return ("top1", "top5", *(f"top1_{name}" for name in streams), "top1_unseen")
