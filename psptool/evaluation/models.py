"""A trained model wherever it lies: a run's folder, or one safetensors file that says itself what it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from psptool.common.errors import PspError
from psptool.common.paths import readable_name
from psptool.evaluation.scoring import load_model, without_contrast
from psptool.model.network import Network
from psptool.schemas.base import describe
from psptool.schemas.run import RunConfig
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.unfinished import find_weights

Weights = Literal["last", "best"]
CONFIG, WEIGHTS = "psptool.config", "psptool.weights"
"""Keys of a model file's metadata: the run's ``config.json``, and which of its weights these are."""


@dataclass(frozen=True)
class TrainedModel:
    """A network ready to predict, with all that clips must be treated by.

    Attributes:
        path: The run's folder, or the model's file.
        weights: The last ones, or the best on the validation clips.
        config: What was trained.
        net: The network, without the contrastive loss's branch.
        device: Where it is.
    """

    path: Path
    weights: Weights
    config: RunConfig
    net: Network
    device: torch.device


def open_model(path: Path, weights: Weights = "last", device: torch.device | None = None) -> TrainedModel:
    """Load a model from a run's folder, or from a file that `model_bytes` made.

    Args:
        path: The folder, or a ``.safetensors`` file.
        weights: Of a run's folder; a file holds one kind and says which.
        device: Where to compute; the CPU if None.

    Raises:
        PspError: There is no such model, or a file of it is damaged, no psptool model's, or of code.
    """
    device = device or torch.device("cpu")
    if path.is_file():
        config, which = _described(path)
        return TrainedModel(path, which, config, load_model(config, path, device), device)
    folder = RunFolder(path)
    config = folder.read_config()
    return TrainedModel(
        path, weights, config, load_model(config, find_weights(folder, config, weights), device), device
    )


def model_bytes(model: TrainedModel) -> bytes:
    """The model as one safetensors file, with its configuration in the metadata."""
    weights = without_contrast(model.config, model.net.state_dict())
    kept = {name: x.detach().cpu().contiguous() for name, x in weights.items()}
    return save(kept, metadata={CONFIG: model.config.model_dump_json(), WEIGHTS: model.weights})


def _described(path: Path) -> tuple[RunConfig, Weights]:
    """What a model's file says of itself in its metadata."""
    try:
        with readable_name(path) as name, safe_open(name, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise PspError(
            f"{path}: cannot be read as safetensors ({error})",
            expected="a run's folder, or a .safetensors file made by psptool export",
            fix="Checkpoints in other formats may hold code and are not opened.",
        ) from error
    if CONFIG not in metadata or metadata.get(WEIGHTS) not in ("last", "best"):
        raise PspError(
            f"{path}: does not say which network its weights belong to",
            fix="Name the run's folder, or make a file that does with psptool export --safetensors.",
        )
    try:
        config = RunConfig.model_validate_json(metadata[CONFIG])
    except ValidationError as error:
        raise PspError(
            f"{path}: its metadata {CONFIG} is not a run's configuration: {describe(error)}",
            fix="Export the model again with psptool export --safetensors.",
        ) from error
    return config, "best" if metadata[WEIGHTS] == "best" else "last"
