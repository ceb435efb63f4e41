"""The manifest of a prepared dataset: the JSON attribute ``manifest`` of the HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from pydantic import Field, ValidationInfo, model_validator

from psptool.data.skeletons.datasets import DATASETS, UpAxis
from psptool.schemas.base import Artefact, Strict

DatasetName = Literal["ntu60", "ntu120", "ucla"]
Align = Literal["body", "released", "none"]
TrackRules = Literal["joined", "released"]


def prepared_up(recorded: UpAxis, align: Align) -> UpAxis:
    """Vertical axis of prepared coordinates.

    ``body`` and ``released`` put the spine on z; ``none`` keeps the axes of the recording.

    Args:
        recorded: Vertical axis of the recorded coordinates.
        align: How the clips are aligned.
    """
    return recorded if align == "none" else "z"


class PreparationSettings(Strict):
    """How raw clips became stored ones; what two datasets must share to be compared."""

    align: Align = Field(
        "body", description="Axes that positions are turned to: body's, released code's, camera's"
    )
    align_frames: int = Field(
        5, ge=1, description="Present frames of the leading person that `body` averages over"
    )
    max_persons: int = Field(2, ge=1, description="Persons kept of a clip at most")
    energy_ratio: float = Field(
        0.85,
        ge=0,
        le=1,
        description="`released` rules: tracks below this share of the largest energy must be upright",
    )
    upright_ratio: float = Field(
        0.8,
        gt=0,
        description="`released` rules: a track is upright when its extent in y times this exceeds that in x",
    )
    tracks: TrackRules = Field(
        "joined",
        description="Rules that turn body tracks into persons: `joined` is CTR-GCN's and the default for the "
        "alignments `body` and `none`, `released` is PSP Learning's and the default for `released`",
    )
    short_track: int = Field(
        11, ge=0, description="`joined` rules: tracks of at most so many frames are dropped"
    )
    spread_ratio: float = Field(
        0.8,
        gt=0,
        description="`joined` rules: a frame is spread when its extent in x exceeds its extent in y times this",
    )
    spread_share: float = Field(
        0.69754,
        gt=0,
        description="`joined` rules: tracks with at least this share of spread frames are dropped",
    )

    @model_validator(mode="before")
    @classmethod
    def _choose_tracks(cls, data: Any, info: ValidationInfo) -> Any:
        """Settings in JSON without the key come from before the `joined` rules existed."""
        if not isinstance(data, Mapping) or "tracks" in data:
            return data
        released = info.mode == "json" or data.get("align") == "released"
        return {**data, "tracks": "released" if released else "joined"}


class Fingerprints(Strict):
    """SHA-256 digests in hexadecimal."""

    clips: str = Field(
        description="Of clip names and labels; what a split is bound to", pattern=r"^[0-9a-f]{64}$"
    )
    content: str = Field(description="Of all arrays; what a run is bound to", pattern=r"^[0-9a-f]{64}$")


class Counts(Strict):
    """Sizes of a prepared dataset, and what was left out of it."""

    clips: int = Field(ge=0)
    frames: int = Field(ge=0, description="Sum of the clips' frames")
    rows: int = Field(ge=0, description="Sum of the clips' frames times persons")
    quarantined: int = Field(
        ge=0, description="Clips that could not be used; the report names each with its reason"
    )
    skipped: int = Field(ge=0, description="Clips on a missing-skeleton list, and names that do not parse")
    duplicates: int = Field(ge=0, description="Pairs of clips with the same coordinates; both are kept")
    interpolated_joints: int = Field(
        0, ge=0, description="Joints given as (0, 0, 0) or NaN, whose position was interpolated over time"
    )
    unscaled: int = Field(
        0, ge=0, description="Clips whose reference bone has no length, so that their scale is 1"
    )
    joined_tracks: int = Field(0, ge=0, description="Body tracks joined to another track of the same person")
    dropped_tracks: int = Field(0, ge=0, description="Body tracks not taken for a person, or for part of one")


class DatasetManifest(Artefact):
    """What a prepared HDF5 file says of itself."""

    format_version: Literal[1] = 1
    dataset: DatasetName
    topology: str = Field(description="Name of the skeleton's topology, such as ntu25")
    class_names: tuple[str, ...] = Field(description="Indexed by label")
    settings: PreparationSettings
    up: UpAxis = Field("z", description="Vertical axis of the positions in the file")
    fingerprints: Fingerprints
    counts: Counts
    tool_version: str

    @model_validator(mode="before")
    @classmethod
    def _derive_up(cls, data: Any) -> Any:
        """Files written before the key existed: the axis follows from the dataset and the alignment."""
        if not isinstance(data, Mapping) or "up" in data:
            return data
        dataset, settings = DATASETS.get(str(data.get("dataset"))), data.get("settings")
        align = (
            settings.get("align", "body") if isinstance(settings, Mapping) else getattr(settings, "align", "")
        )
        if dataset is None or align not in get_args(Align):
            return data  # pydantic names what is wrong with them
        return {**data, "up": prepared_up(dataset.up, cast(Align, align))}
