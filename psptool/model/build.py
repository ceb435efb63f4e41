"""Builds the network of a training configuration. Training, evaluation, export and the memory estimate all use it."""

from __future__ import annotations

from psptool.data.skeletons.topology import Topology
from psptool.model.classifier import PSPNet
from psptool.model.network import Network
from psptool.schemas.training import TrainingConfig

NETWORKS: dict[str, type[Network]] = {"psp": PSPNet}
"""By `ModelSettings.network`."""


def build_model(
    training: TrainingConfig, topology: Topology, classes: int, contrast: bool | None = None
) -> Network:
    """The network of ``training`` with fresh weights from torch's global random generator.

    Args:
        training: Its model and streams.
        topology: The joints.
        classes: Number of classes.
        contrast: Whether to build the branch of the contrastive loss; None builds it where the loss uses it.
    """
    contrast = bool(training.contrast_levels) if contrast is None else contrast
    return NETWORKS[training.model.network](
        training.model, topology, classes, contrast=contrast, streams=training.streams.names
    )
