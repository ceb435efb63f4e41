"""One step's loss: cross-entropy on the labelled clips and the coarse-to-fine contrast on the pool."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from psptool.batches.streams import Streams
from psptool.losses.contrast import coarse_to_fine
from psptool.model.classifier import PSPNet
from psptool.schemas.training import Level, TrainingConfig


def objective(
    model: PSPNet, streams: Streams, labels: Tensor, config: TrainingConfig, precision: torch.dtype
) -> dict[str, Tensor]:
    """The loss and its terms by name (``loss``, ``ce``, and one a contrasted level), scalars.

    Args:
        model: In training mode.
        streams: The labelled clips first, then the contrast's pool.
        labels: int64 (labelled,).
        config: The recipe.
        precision: Of the forward pass; losses are float32.
    """
    labelled = len(labels)
    device = streams.joint.x.device.type
    with torch.autocast(device, precision, enabled=precision != torch.float32):
        joint, motion = model.features(streams)
        logits = model.logits(joint, streams.joint.average) + model.logits(motion, streams.motion.average)
        first: dict[Level, Tensor] = {}
        second: dict[Level, Tensor] = {}
        if config.contrast_levels:
            first = model.embeddings(joint, streams.joint.average)
            second = model.embeddings(motion, streams.motion.average)
    ce = F.cross_entropy(logits[:labelled].float(), labels, label_smoothing=config.loss.label_smoothing)
    terms = {"ce": ce}
    total = ce
    if config.contrast_levels:
        levels = config.contrast_levels
        contrast = coarse_to_fine(
            {level: first[level][labelled:].float() for level in levels},
            {level: second[level][labelled:].float() for level in levels},
            config.loss.temperature,
        )
        total = total + config.loss.contrast_weight * torch.stack(list(contrast.values())).sum()
        terms |= contrast
    return {"loss": total, **terms}
