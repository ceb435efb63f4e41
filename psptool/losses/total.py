"""Total loss of a training step: cross-entropy of the labelled clips, CCL and teacher loss of the pool.

To add a loss, add a file with the function, its settings to `LossSettings`, and its term to `total_loss`.

Notation for tensor shapes: L labelled clips and U clips of the pool on this rank, K classes, C channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from psptool.common.distributed import SINGLE, ProcessGroup
from psptool.common.errors import PspError
from psptool.data.batches.streams import Batch, any_stream
from psptool.losses.contrast import coarse_to_fine
from psptool.model.network import Network, Output, add_up
from psptool.model.precision import run_in
from psptool.schemas.training import TrainingConfig


def total_loss(
    model: Network,
    batch: Batch,
    labels: Tensor,
    config: TrainingConfig,
    precision: torch.dtype,
    ranks: ProcessGroup = SINGLE,
    pool: int = 0,
    teacher_labels: Tensor | None = None,
    teacher_weight: float | Tensor = 0.0,
) -> dict[str, Tensor]:
    """Total loss (``loss``) and its terms (``ce``, one per level of the contrastive loss, ``teacher``), scalars.

    ``ce`` and ``teacher`` are cross-entropies of the summed logits of all streams, plus those of auxiliary logits.
    With several ranks, all values are those of the global batch and equal on every rank. The gradients are those of
    this rank's clips and must be summed over the ranks.

    Args:
        model: In training mode.
        batch: L labelled clips, followed by U clips of the pool.
        labels: int64 (L,).
        config: The training configuration.
        precision: Precision of the forward pass; losses are float32.
        ranks: The processes that share the global batch.
        pool: Number of clips of the pool on all ranks; required with several ranks.
        teacher_labels: (U, K), label distributions predicted by the teacher; None before the teacher starts.
        teacher_weight: Weight of the teacher loss; as a tensor, a scalar on the device of the batch.

    Raises:
        PspError: The network has no embeddings for the contrastive loss.
    """
    labelled = len(labels)
    output: Output = run_in(
        precision, any_stream(batch).x.device, model, batch, embed=config.contrast_streams, pool_from=labelled
    )
    # (L + U, K) each. Each head has its own cross-entropy: with one cross-entropy of their sum, the head that learns
    # faster would leave the other little gradient.
    heads = (add_up(output.logits.values()), *output.auxiliary.values())
    smoothing = config.loss.label_smoothing
    ce = _sum(
        _mean_cross_entropy(logits[:labelled], labels, config.optim.labelled_batch, ranks, smoothing)
        for logits in heads
    )
    terms = {"ce": ce}
    total = ce
    if config.contrast_levels:
        contrast = _contrast(output, config, ranks, pool)
        total = total + config.loss.contrast_weight * _sum(contrast.values())
        terms |= contrast
    if config.has_teacher:
        terms["teacher"] = (
            torch.zeros_like(ce)
            if teacher_labels is None
            else _sum(_mean_cross_entropy(logits[labelled:], teacher_labels, pool, ranks) for logits in heads)
        )
        # A scalar of a wider type would change the type of the loss, which is a scalar too.
        weight = teacher_weight.to(ce.dtype) if isinstance(teacher_weight, Tensor) else teacher_weight
        total = total + weight * terms["teacher"]
    return {"loss": total, **terms}


def _contrast(output: Output, config: TrainingConfig, ranks: ProcessGroup, pool: int) -> dict[str, Tensor]:
    """CCL by level, summed over the pairs of streams.

    Raises:
        PspError: The network has no embeddings of a stream and level.
    """
    vectors: dict[str, dict[str, Tensor]] = {name: {} for name in config.contrast_streams}
    for name in vectors:
        for level in config.contrast_levels:
            if level not in output.embeddings.get(name, {}):
                raise PspError(
                    f"model.network={config.model.network}: has no embeddings for the contrastive loss",
                    f"none of stream {name} at level {level}",
                    fix="Train with --method supervised or --set loss.contrast_weight=0, or use another network.",
                )
            # (U, C) of this rank -> (pool, C) of all ranks, so that the clips of other ranks are negatives too
            vectors[name][level] = ranks.all_gather(_at_least_float32(output.embeddings[name][level]), pool)
    terms: dict[str, list[Tensor]] = defaultdict(list)
    for first, second in config.loss.contrast_pairs:
        pair = coarse_to_fine(vectors[first], vectors[second], config.loss.temperature)
        for key, term in pair.items():
            terms[key].append(term)
    return {level: add_up(of_pairs) for level, of_pairs in terms.items()}


def _sum(terms: Iterable[Tensor]) -> Tensor:
    """Sum of scalars."""
    return torch.stack(list(terms)).sum()


def _mean_cross_entropy(
    logits: Tensor, target: Tensor, clips: int, ranks: ProcessGroup, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy over the clips of all ranks.

    Args:
        logits: (n, K), of this rank; n may be 0 with several ranks.
        target: int64 (n,) class indices, or (n, K) probabilities.
        clips: Number of clips on all ranks.
        ranks: The processes that share the clips.
        smoothing: Label smoothing.
    """
    logits = _at_least_float32(logits)
    if ranks.size == 1:
        return F.cross_entropy(logits, target, label_smoothing=smoothing)
    # Divided by the clips of all ranks, so that the sum over ranks is the mean over the global batch.
    return ranks.sum(F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="sum") / clips)


def _at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or in its own type if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
