"""One step's loss: cross-entropy on the labelled clips; coarse-to-fine contrast and a teacher's labels on the pool."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from psptool.common.distributed import SINGLE, ProcessGroup
from psptool.data.batches.streams import Stream, Streams
from psptool.losses.contrast import coarse_to_fine
from psptool.model.classifier import PSPNet
from psptool.model.precision import computing_in
from psptool.schemas.training import Level, TrainingConfig


def total_loss(
    model: PSPNet,
    streams: Streams,
    labels: Tensor,
    config: TrainingConfig,
    precision: torch.dtype,
    ranks: ProcessGroup = SINGLE,
    pool: int = 0,
    taught: Tensor | None = None,
    weight: float = 0.0,
) -> dict[str, Tensor]:
    """The loss and its terms by name (``loss``, ``ce``, one a contrasted level, ``teacher``), scalars.

    ``ce`` and ``teacher`` are cross-entropies of both streams' summed logits, and of the pose branch's beside it.
    Over several ranks they are those of the global batch, the same on each; the gradients are to be added up.

    Args:
        model: In training mode.
        streams: The labelled clips first, then the pool.
        labels: int64 (labelled,).
        config: The recipe.
        precision: Of the forward pass; losses are float32.
        ranks: The processes among which the clips are dealt.
        pool: The pool's clips on all ranks; needed where there are several.
        taught: The teacher's labels (n, K) of this rank's n clips of the pool; None where there are none yet.
        weight: Of the cross-entropy with them.
    """
    labelled = len(labels)
    with computing_in(precision, streams.joint.x.device):
        joint, motion = model.features(streams)
        both = model.logits(joint, streams.joint.average) + model.logits(motion, streams.motion.average)
        of_pose = model.pose_logits(streams)
        # Each learns by itself: of a sum, the one that learns faster leaves the other nothing to learn.
        heads = (both,) if of_pose is None else (both, of_pose)
        first: dict[Level, Tensor] = {}
        second: dict[Level, Tensor] = {}
        if config.contrast_levels:
            first = model.embeddings(*_pool(joint, streams.joint, labelled))
            second = model.embeddings(*_pool(motion, streams.motion, labelled))
    smoothing = config.loss.label_smoothing
    ce = _sum(
        _mean_cross_entropy(logits[:labelled], labels, config.optim.labelled_batch, ranks, smoothing)
        for logits in heads
    )
    terms = {"ce": ce}
    total = ce
    if config.contrast_levels:
        levels = config.contrast_levels
        contrast = coarse_to_fine(
            {level: ranks.all_gather(_exact(first[level]), pool) for level in levels},
            {level: ranks.all_gather(_exact(second[level]), pool) for level in levels},
            config.loss.temperature,
        )
        total = total + config.loss.contrast_weight * _sum(contrast.values())
        terms |= contrast
    if config.has_teacher:
        terms["teacher"] = (
            torch.zeros_like(ce)
            if taught is None
            else _sum(_mean_cross_entropy(logits[labelled:], taught, pool, ranks) for logits in heads)
        )
        total = total + weight * terms["teacher"]
    return {"loss": total, **terms}


def _pool(features: Tensor, stream: Stream, labelled: int) -> tuple[Tensor, Tensor]:
    """The pool's persons of ``features`` (P, C, T, V), and their average over clips (N, P).

    The pyramid must not see labelled clips: they would enter the statistics of its batch norms (released code).
    """
    first = stream.first_person(labelled)
    return features[first:], stream.average[labelled:, first:]


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def _mean_cross_entropy(
    logits: Tensor, target: Tensor, clips: int, ranks: ProcessGroup, smoothing: float = 0.0
) -> Tensor:
    """The mean over the clips of all ranks, of which there are ``clips``; a rank may hold none of them."""
    exact = _exact(logits)
    if ranks.size == 1:
        return F.cross_entropy(exact, target, label_smoothing=smoothing)
    return ranks.sum(F.cross_entropy(exact, target, label_smoothing=smoothing, reduction="sum") / clips)


def _exact(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
