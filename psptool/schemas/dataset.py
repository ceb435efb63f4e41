"""The manifest of a prepared dataset: the JSON attribute ``manifest`` of the HDF5 file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from psptool.schemas.base import Artefact, Strict

DatasetName = Literal["ntu60", "ntu120", "ucla"]
Align = Literal["body", "released", "none"]


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
        description="Of several tracks, those under this share of the largest energy must be upright",
    )
    upright_ratio: float = Field(
        0.8, gt=0, description="A track is upright when its extent in y times this exceeds its extent in x"
    )


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
        0, ge=0, description="Joints given as exactly (0, 0, 0), whose position was interpolated over time"
    )
    unscaled: int = Field(
        0, ge=0, description="Clips whose reference bone has no length, so that their scale is 1"
    )


class DatasetManifest(Artefact):
    """What a prepared HDF5 file says of itself."""

    format_version: Literal[1] = 1
    dataset: DatasetName
    topology: str = Field(description="Name of the skeleton's topology, such as ntu25")
    class_names: tuple[str, ...] = Field(description="Indexed by label")
    settings: PreparationSettings
    fingerprints: Fingerprints
    counts: Counts
    tool_version: str
