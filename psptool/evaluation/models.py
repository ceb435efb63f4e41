"""Loads and saves trained models: from a run folder, or as one safetensors file with its configuration.

The folder ``psptool/models`` has trained models that are part of the package, each with its model card.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from psptool.common.errors import PspError, suggest
from psptool.evaluation.scoring import load_model, without_contrast
from psptool.model.network import Network
from psptool.schemas.base import describe
from psptool.schemas.run import RunConfig
from psptool.schemas.scores import Weights
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.unfinished import find_weights
from psptool.training.runs.weights import read_weights, weights_bytes

CONFIG, WEIGHTS = "psptool.config", "psptool.weights"
"""Metadata keys of a model file: the run's ``config.json``, and the checkpoint (`Weights`)."""


INCLUDED = {path.stem: path for path in sorted((Path(__file__).parents[1] / "models").glob("*.safetensors"))}
"""Files of the models that are part of the package, by name."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained network in evaluation mode, with its configuration.

    Attributes:
        path: The run folder, the model file, or the name of an included model.
        weights: Checkpoint: the last one, or the best on the validation clips.
        config: Configuration of the run.
        net: The network, without the branch of the contrastive loss.
        device: Device of the network.
    """

    path: Path
    weights: Weights
    config: RunConfig
    net: Network
    device: torch.device


def open_model(path: Path, weights: Weights = "last", device: torch.device | None = None) -> TrainedModel:
    """Load a model from a run folder, or from a file made by `model_bytes`.

    Args:
        path: The folder, a ``.safetensors`` file, or a name in `INCLUDED`. A run folder of that name takes precedence.
        weights: Checkpoint of a run folder. A model file has one checkpoint.
        device: Device of the network; by default the CPU.

    Raises:
        PspError: The path does not exist, is damaged, or is not a psptool model.
    """
    device = device or torch.device("cpu")
    file = included_file(path) or path
    if not file.exists() and len(path.parts) == 1:
        included = f"a run folder, a model file, or an included model ({', '.join(INCLUDED)})"
        raise PspError(
            f"{path}: there is no such run or model", expected=included, fix=suggest(str(path), INCLUDED)
        )
    if file.is_file():
        config, checkpoint = _read_metadata(file)
        return TrainedModel(path, checkpoint, config, load_model(config, file, device), device)
    folder = RunFolder(path)
    config = folder.read_config()
    return TrainedModel(
        path, weights, config, load_model(config, find_weights(folder, config, weights), device), device
    )


def included_file(path: Path) -> Path | None:
    """The file of an included model; None if ``path`` is not a name in `INCLUDED`, or a run folder of that name."""
    # A folder of that name may be something else, such as the output of psptool export.
    return None if RunFolder(path).config.exists() else INCLUDED.get(str(path))


def model_bytes(model: TrainedModel) -> bytes:
    """Content of a safetensors file with the model's weights, and its configuration in the metadata."""
    weights = without_contrast(model.config, model.net.state_dict())
    return weights_bytes(weights, {CONFIG: model.config.model_dump_json(), WEIGHTS: model.weights})


def _read_metadata(path: Path) -> tuple[RunConfig, Weights]:
    """Configuration and checkpoint name from the metadata of a model file."""
    _, metadata = read_weights(path)
    if CONFIG not in metadata or metadata.get(WEIGHTS) not in ("last", "best"):
        raise PspError(
            f"{path}: has no psptool configuration in its metadata",
            fix="Give the run folder, or a file made by psptool export --safetensors.",
        )
    try:
        config = RunConfig.model_validate_json(metadata[CONFIG])
    except ValidationError as error:
        raise PspError(
            f"{path}: metadata {CONFIG} is not the configuration of a run: {describe(error)}",
            fix="Export the model again with psptool export --safetensors.",
        ) from error
    return config, "best" if metadata[WEIGHTS] == "best" else "last"
