"""What ``psptool predict`` answers: for each recording the most probable actions, and the files it could not use."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from psptool.schemas.base import Artefact, Strict
from psptool.schemas.dataset import DatasetName
from psptool.schemas.report import LeftOut


class Guess(Strict):
    """One action that a clip may show."""

    # `class` is a word of Python's, so that the attribute has another name than the key.
    model_config = ConfigDict(populate_by_name=True)

    class_name: str = Field(alias="class", description="The action's name")
    label: int = Field(ge=0, description="Its place among `classes`")
    probability: float = Field(ge=0, le=1, description="Softmax of all streams' summed logits")


class PredictedClip(Strict):
    """One recording and its most probable actions."""

    name: str = Field(description="The file's stem, or the folder's name of a recording of many files")
    source: str = Field(
        description="The recording's first file: a path as given, and a member's name in an archive"
    )
    frames: int = Field(ge=1, description="Frames of the recording; the network sees some of them")
    persons: int = Field(ge=1, description="Persons that preparation kept")
    notes: tuple[str, ...] = Field((), description="What preparation noted, such as interpolated joints")
    top: tuple[Guess, ...] = Field(min_length=1, description="Most probable first")
    logits: tuple[float, ...] | None = Field(
        None, description="Of all classes, summed over streams; where asked for"
    )


class Prediction(Artefact):
    """The answer for all recordings that were named, in the order of their names."""

    format_version: Literal[1] = 1
    model: str = Field(description="The run's folder or the model's file")
    weights: Literal["last", "best"]
    dataset: DatasetName = Field(description="What the model was trained on")
    topology: str
    classes: tuple[str, ...] = Field(description="Action names by label")
    clips: tuple[PredictedClip, ...]
    unusable: tuple[LeftOut, ...] = Field(
        (), description="Recordings without an answer, each with the reason"
    )
    tool_version: str
