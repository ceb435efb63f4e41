"""A run folder's ``config.json``: what was trained, on what, with which resolved recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from psptool.schemas.base import Artefact
from psptool.schemas.dataset import DatasetName, PreparationSettings
from psptool.schemas.training import TrainingConfig


class RunConfig(Artefact):
    """Written before the first step; a run is bound to its dataset's content and its split by fingerprints."""

    format_version: Literal[1] = 1
    dataset: DatasetName
    topology: str
    class_names: tuple[str, ...]
    preparation: PreparationSettings = Field(
        description="How the dataset's clips were prepared, so that new recordings get the same treatment"
    )
    data_path: str = Field(description="Where the dataset lay")
    split_path: str = Field(description="Where the split lay")
    split_name: str = Field(description="The split's file name without its ending")
    split_digest: str = Field(
        description="Of the names in the split's parts: evaluation refuses another draw",
        pattern=r"^[0-9a-f]{64}$",
    )
    clips_fingerprint: str
    content_fingerprint: str
    seed: int = Field(description="The training's seed, resolved")
    device: str
    hardware: str | None = Field(None, description="The processor with the threads used, or the GPU")
    precision: Literal["float32", "bfloat16"]
    clips_on: Literal["device", "host"] = Field(
        "device",
        description="Where the clips lay: on the device, or in host memory where they did not fit there",
    )
    training: TrainingConfig
    tool_version: str
    commit: str | None = Field(
        None, description="Of psptool's source, + where it was changed; null for an installed package"
    )
