"""The output of ``psptool predict --window``: the most probable actions in each window of long recordings."""

from __future__ import annotations

from pydantic import Field

from psptool.schemas.base import Artefact, Strict
from psptool.schemas.prediction import ClassProbability, PredictedBy
from psptool.schemas.report import LeftOut


class PredictedWindow(Strict):
    """One window of a recording, and its most probable actions."""

    first: int = Field(description="First frame, in the recording's own numbers, as in a clip table")
    last: int = Field(description="Last frame, included")
    start: float = Field(ge=0, description="Start of the first frame, in seconds from the recording's start")
    end: float = Field(gt=0, description="End of the last frame, in seconds")
    persons: int = Field(ge=0, description="Persons selected by the preparation")
    notes: tuple[str, ...] = Field((), description="Notes of the preparation, such as interpolated joints")
    reason: str = Field("", description="Reason why the window has no prediction, such as `no body`")
    top: tuple[ClassProbability, ...] = Field(
        (), description="Actions, most probable first; empty with a reason"
    )
    logits: tuple[float, ...] | None = Field(
        None, description="Logits of all classes, summed over the streams, if requested"
    )


class Timeline(Strict):
    """One recording and its windows in the order of time."""

    name: str = Field(description="Stem of the file; for a recording of several files, name of the folder")
    source: str = Field(
        description="First file of the recording: the path as given; for an archive, with the member's name"
    )
    frames: int = Field(ge=1, description="Frames of the recording")
    notes: tuple[str, ...] = Field((), description="Notes on the whole recording")
    windows: tuple[PredictedWindow, ...] = Field(min_length=1)


class Timelines(PredictedBy, Artefact):
    """Predictions for the windows of all given recordings, in the order of their names."""

    frame_rate: float = Field(gt=0, description="Frames per second, as in the description of the dataset")
    window: int = Field(ge=1, description="Frames of a window; a shorter recording is one window")
    stride: int = Field(
        ge=1, description="Frames from one window to the next; the last window ends with the recording"
    )
    recordings: tuple[Timeline, ...]
    unusable: tuple[LeftOut, ...] = Field((), description="Recordings that cannot be used, with the reason")
    tool_version: str
