"""The output of ``psptool predict``: the most probable actions per recording, and the files that cannot be used."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from psptool.schemas.base import Artefact, Strict
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.description import DatasetDescription
from psptool.schemas.report import LeftOut
from psptool.schemas.skeleton import Name


class ClassProbability(Strict):
    """Predicted probability of one action."""

    # `class` is a reserved word in Python, so the attribute is named differently from the JSON key.
    model_config = ConfigDict(populate_by_name=True)

    class_name: str = Field(alias="class", description="Name of the action")
    label: int = Field(ge=0, description="Index in `classes`")
    probability: float = Field(ge=0, le=1, description="Softmax of the logits summed over the streams")


class PredictedClip(Strict):
    """One recording and its most probable actions."""

    name: str = Field(description="Stem of the file; for a recording of several files, name of the folder")
    source: str = Field(
        description="First file of the recording: the path as given; for an archive, with the member's name"
    )
    frames: int = Field(ge=1, description="Frames of the recording, before temporal sampling")
    persons: int = Field(ge=1, description="Persons selected by the preparation")
    notes: tuple[str, ...] = Field((), description="Notes of the preparation, such as interpolated joints")
    top: tuple[ClassProbability, ...] = Field(min_length=1, description="Actions, most probable first")
    logits: tuple[float, ...] | None = Field(
        None, description="Logits of all classes, summed over the streams, if requested"
    )


class PredictedBy(Strict):
    """The model of a prediction, and its classes."""

    format_version: Literal[1] = 1
    model: str = Field(description="Run folder or model file")
    weights: Literal["last", "best"]
    dataset: Name = Field(description="Dataset that the model was trained on")
    topology: str
    description: DatasetDescription | None = Field(
        None, description="The dataset, without clip lists; null for a built-in one"
    )
    preparation: PreparationSettings | None = Field(
        None, description="Preparation settings of the recordings; null in files of earlier versions"
    )
    classes: tuple[str, ...] = Field(description="Names of the actions, indexed by label")


class Prediction(PredictedBy, Artefact):
    """Predictions for all given recordings, in the order of their names."""

    clips: tuple[PredictedClip, ...]
    unusable: tuple[LeftOut, ...] = Field((), description="Recordings that cannot be used, with the reason")
    tool_version: str
