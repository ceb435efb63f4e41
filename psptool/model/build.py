"""The network of a training configuration, as used by training, evaluation, export and the memory estimate."""

from __future__ import annotations

from psptool.common.errors import PspError
from psptool.model.classifier import PSPNet
from psptool.model.network import Network
from psptool.schemas.training import TrainingConfig
from psptool.skeletons.topology import Topology

NETWORKS: dict[str, type[Network]] = {"psp": PSPNet}
"""Network class by `ModelSettings.network`."""


def require_embeddings(training: TrainingConfig) -> None:
    """Check that the network of ``training`` fits its loss, before a run folder is created.

    Raises:
        PspError: The loss contrasts embeddings, which the network does not have.
    """
    name = training.model.network
    if training.contrast_levels and not NETWORKS[name].has_embeddings:
        raise PspError(
            f"model.network={name}: has no embeddings for the contrastive loss",
            f"method {training.method} with loss.contrast_weight={training.loss.contrast_weight:g}",
            fix="Train with --method supervised or --set loss.contrast_weight=0, or set has_embeddings in the class "
            "of a network that returns them.",
        )


def build_model(
    training: TrainingConfig, topology: Topology, classes: int, contrast: bool | None = None
) -> Network:
    """Build the network of ``training`` with initial weights from PyTorch's global random generator.

    Args:
        training: The training configuration; its model and stream settings are used.
        topology: Joints and joint groups of the skeleton.
        classes: Number of classes.
        contrast: Whether to build the branch of the contrastive loss. None builds it if the loss uses it.
    """
    contrast = bool(training.contrast_levels) if contrast is None else contrast
    return NETWORKS[training.model.network](
        training.model, topology, classes, contrast=contrast, streams=training.streams.names
    )
