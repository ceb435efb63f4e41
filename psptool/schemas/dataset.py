"""The manifest of a prepared dataset: its metadata, stored as JSON in the attribute ``manifest`` of the HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from pydantic import Field, ValidationInfo, model_validator

from psptool.schemas import builtin, builtin_skeletons
from psptool.schemas.base import Artefact, Strict
from psptool.schemas.description import DatasetDescription
from psptool.skeletons.keys import UpAxis
from psptool.skeletons.topology import Topology

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
    unlabelled: int = Field(0, ge=0, description="Clips without a label")
    interpolated_joints: int = Field(
        0, ge=0, description="Missing joints, recorded as (0, 0, 0) or NaN, that were interpolated over time"
    )
    unscaled: int = Field(0, ge=0, description="Clips with scale 1, because their reference length is zero")
    joined_tracks: int = Field(0, ge=0, description="Body tracks joined to another track of the same person")
    dropped_tracks: int = Field(0, ge=0, description="Body tracks that do not belong to a person")


class DatasetManifest(Artefact):
    """Metadata of a prepared dataset: its whole description, so that no other file is needed."""

    format_version: Literal[2] = 2
    description: DatasetDescription
    settings: PreparationSettings
    up: UpAxis = Field("z", description="Vertical axis of the positions in the file")
    fingerprints: Fingerprints
    counts: Counts
    tool_version: str

    @model_validator(mode="before")
    @classmethod
    def _from_version_1(cls, data: Any) -> Any:
        """Convert format 1, which had the name of a built-in dataset instead of a description."""
        if not isinstance(data, Mapping) or "description" in data or data.get("format_version", 1) != 1:
            return data
        description = description_of_version_1(data)
        rest = {key: value for key, value in data.items() if key not in FORMER_KEYS}
        found = {**rest, "format_version": 2, "description": description}
        settings = data.get("settings")
        align = settings.get("align", "body") if isinstance(settings, Mapping) else ""
        if "up" not in data and align in get_args(Align):
            found["up"] = prepared_up(description.up, cast(Align, align))
        return found

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.description.name

    @property
    def topology(self) -> Topology:
        """The joints and bones of the clips."""
        return self.description.topology

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, indexed by label."""
        return self.description.class_names


FORMER_KEYS = ("dataset", "topology", "class_names")
"""Keys of files of earlier versions that described the dataset, which was a built-in one."""


def description_of_version_1(data: Mapping[str, Any]) -> DatasetDescription:
    """The description for the keys `FORMER_KEYS` of a file of an earlier version.

    Raises:
        ValueError: It is no built-in dataset, or has another skeleton or another number of classes.
    """
    name, skeleton, classes = (data.get(key) for key in FORMER_KEYS)
    if name not in builtin.dataset_names():
        raise ValueError(f"dataset: found {name!r:.60}, expected one of {', '.join(builtin.dataset_names())}")
    found = builtin.builtin_dataset(str(name)).complete()
    expected = found.topology.name
    if builtin_skeletons.current_skeleton_name(str(skeleton)) != expected:
        raise ValueError(f"topology of {name}: found {skeleton!r:.60}, expected {expected}")
    if not isinstance(classes, (list, tuple)) or len(classes) != len(found.class_names):
        number = len(classes) if isinstance(classes, (list, tuple)) else "none"
        raise ValueError(f"class names: found {number}, expected {len(found.class_names)}")
    return found
