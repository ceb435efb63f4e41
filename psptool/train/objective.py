"""One step's loss: cross-entropy on the labelled clips and the coarse-to-fine contrast on the pool."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from psptool.batches.streams import Streams
from psptool.losses.contrast import coarse_to_fine
from psptool.model.classifier import PSPNet
from psptool.schemas.training import Level, TrainingConfig
from psptool.train.ranks import ALONE, Ranks


def objective(
    model: PSPNet,
    streams: Streams,
    labels: Tensor,
    config: TrainingConfig,
    precision: torch.dtype,
    ranks: Ranks = ALONE,
    pool: int = 0,
) -> dict[str, Tensor]:
    """The loss and its terms by name (``loss``, ``ce``, and one a contrasted level), scalars.

    Over several ranks they are those of the global batch, the same on each; the gradients are to be added up.

    Args:
        model: In training mode.
        streams: The labelled clips first, then the contrast's pool.
        labels: int64 (labelled,).
        config: The recipe.
        precision: Of the forward pass; losses are float32.
        ranks: The processes among which the clips are dealt.
        pool: The contrast's clips on all ranks; needed where there are several.
    """
    labelled = len(labels)
    device = streams.joint.x.device.type
    with torch.autocast(device, precision, enabled=precision == torch.bfloat16):
        joint, motion = model.features(streams)
        logits = model.logits(joint, streams.joint.average) + model.logits(motion, streams.motion.average)
        first: dict[Level, Tensor] = {}
        second: dict[Level, Tensor] = {}
        if config.contrast_levels:
            first = model.embeddings(joint, streams.joint.average)
            second = model.embeddings(motion, streams.motion.average)
    # A rank may hold none of the labelled clips: with several, the mean is taken over those of all.
    several = ranks.size > 1
    ce = F.cross_entropy(
        _exact(logits[:labelled]),
        labels,
        label_smoothing=config.loss.label_smoothing,
        reduction="sum" if several else "mean",
    )
    ce = ranks.sum(ce / config.optim.labelled) if several else ce
    terms = {"ce": ce}
    total = ce
    if config.contrast_levels:
        levels = config.contrast_levels
        contrast = coarse_to_fine(
            {level: ranks.gather(_exact(first[level][labelled:]), pool) for level in levels},
            {level: ranks.gather(_exact(second[level][labelled:]), pool) for level in levels},
            config.loss.temperature,
        )
        total = total + config.loss.contrast_weight * torch.stack(list(contrast.values())).sum()
        terms |= contrast
    return {"loss": total, **terms}


def _exact(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
