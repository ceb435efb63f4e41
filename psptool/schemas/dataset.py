"""The manifest of a prepared dataset: its metadata, stored as JSON in the attribute ``manifest`` of the HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from pydantic import Field, ValidationInfo, model_validator

from psptool.data.skeletons.datasets import DATASETS, UpAxis
from psptool.schemas.base import Artefact, Strict

DatasetName = Literal["ntu60", "ntu120", "ucla"]
Align = Literal["body", "robust", "released", "none"]
TrackRules = Literal["joined", "released"]


def prepared_up(recorded: UpAxis, align: Align) -> UpAxis:
    """Vertical axis of prepared coordinates.

    ``body``, ``robust`` and ``released`` align the body with z; ``none`` keeps the camera axes.

    Args:
        recorded: Vertical axis of the recorded coordinates.
        align: Alignment of the clips.
    """
    return recorded if align == "none" else "z"


class PreparationSettings(Strict):
    """Settings of the preparation. Two datasets are comparable only with the same settings."""

    align: Align = Field(
        "body",
        description="Target axes of the rotation: `body` (from the first frames), `robust` (axes and unit from all "
        "frames), `released` (original implementation of PSP Learning), `none` (camera)",
    )
    align_frames: int = Field(
        5, ge=1, description="`body`: frames of the first person over which the axes are averaged"
    )
    max_persons: int = Field(2, ge=1, description="Maximum number of persons per clip")
    energy_ratio: float = Field(
        0.85,
        ge=0,
        le=1,
        description="`released` rules: a track below this fraction of the largest energy must be upright",
    )
    upright_ratio: float = Field(
        0.8,
        gt=0,
        description="`released` rules: a track is upright if its extent in y times this ratio exceeds its extent "
        "in x",
    )
    tracks: TrackRules = Field(
        "joined",
        description="Rules that select persons among body tracks: `joined` (CTR-GCN; default for the alignments "
        "`body`, `robust` and `none`) or `released` (PSP Learning; default for the alignment `released`)",
    )
    short_track: int = Field(
        11, ge=0, description="`joined` rules: tracks of at most this many frames are dropped"
    )
    spread_ratio: float = Field(
        0.8,
        gt=0,
        description="`joined` rules: a frame is spread if its extent in x exceeds this ratio times its extent in y",
    )
    spread_share: float = Field(
        0.69754,
        gt=0,
        description="`joined` rules: tracks with at least this fraction of spread frames are dropped",
    )

    @model_validator(mode="before")
    @classmethod
    def _choose_tracks(cls, data: Any, info: ValidationInfo) -> Any:
        """Set the default of `tracks`. JSON without this key was written before the `joined` rules existed."""
        if not isinstance(data, Mapping) or "tracks" in data:
            return data
        released = info.mode == "json" or data.get("align") == "released"
        return {**data, "tracks": "released" if released else "joined"}


class Fingerprints(Strict):
    """SHA-256 digests, in hexadecimal, that identify a dataset."""

    clips: str = Field(
        description="Digest of clip names and labels, stored in splits", pattern=r"^[0-9a-f]{64}$"
    )
    content: str = Field(description="Digest of all arrays, stored in runs", pattern=r"^[0-9a-f]{64}$")


class Counts(Strict):
    """Sizes of a prepared dataset, and numbers of excluded clips, tracks and joints."""

    clips: int = Field(ge=0)
    frames: int = Field(ge=0, description="Frames, summed over the clips")
    rows: int = Field(ge=0, description="Frames times persons, summed over the clips")
    quarantined: int = Field(
        ge=0, description="Malformed clips that were excluded; the report lists each with its reason"
    )
    skipped: int = Field(
        ge=0, description="Clips on the missing-skeleton list, and files whose name is not a clip name"
    )
    duplicates: int = Field(
        ge=0, description="Pairs of clips with identical coordinates; both clips are kept"
    )
    interpolated_joints: int = Field(
        0, ge=0, description="Missing joints, recorded as (0, 0, 0) or NaN, that were interpolated over time"
    )
    unscaled: int = Field(0, ge=0, description="Clips with scale 1, because their reference length is zero")
    joined_tracks: int = Field(0, ge=0, description="Body tracks joined to another track of the same person")
    dropped_tracks: int = Field(0, ge=0, description="Body tracks that do not belong to a person")


class DatasetManifest(Artefact):
    """Metadata of a prepared dataset."""

    format_version: Literal[1] = 1
    dataset: DatasetName
    topology: str = Field(description="Name of the skeleton topology, such as ntu25")
    class_names: tuple[str, ...] = Field(description="Class names, indexed by label")
    settings: PreparationSettings
    up: UpAxis = Field("z", description="Vertical axis of the positions in the file")
    fingerprints: Fingerprints
    counts: Counts
    tool_version: str

    @model_validator(mode="before")
    @classmethod
    def _derive_up(cls, data: Any) -> Any:
        """Derive `up` from the dataset and the alignment, for files written before this key existed."""
        if not isinstance(data, Mapping) or "up" in data:
            return data
        dataset, settings = DATASETS.get(str(data.get("dataset"))), data.get("settings")
        align = (
            settings.get("align", "body") if isinstance(settings, Mapping) else getattr(settings, "align", "")
        )
        if dataset is None or align not in get_args(Align):
            return data  # pydantic reports the invalid values
        return {**data, "up": prepared_up(dataset.up, cast(Align, align))}
