"""The loss of a training step: cross-entropy of the labelled clips, CCL and teacher loss of the pool.

A further loss is one file, its settings in `LossSettings`, and its term here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from psptool.common.distributed import SINGLE, ProcessGroup
from psptool.data.batches.streams import Batch, any_stream
from psptool.losses.contrast import coarse_to_fine
from psptool.model.network import Network, Output, add_up
from psptool.model.precision import computing_in
from psptool.schemas.training import TrainingConfig


def total_loss(
    model: Network,
    batch: Batch,
    labels: Tensor,
    config: TrainingConfig,
    precision: torch.dtype,
    ranks: ProcessGroup = SINGLE,
    pool: int = 0,
    taught: Tensor | None = None,
    weight: float = 0.0,
) -> dict[str, Tensor]:
    """The loss and its terms by name (``loss``, ``ce``, one per contrasted level, ``teacher``), scalars.

    ``ce`` and ``teacher`` are cross-entropies of the streams' summed logits, plus those of auxiliary logits.
    Over several ranks they are those of the global batch, the same on each; the gradients are to be added up.

    Args:
        model: In training mode.
        batch: The labelled clips first, then the pool.
        labels: int64 (labelled,).
        config: The training configuration.
        precision: Of the forward pass; losses are float32.
        ranks: The processes among which the clips are dealt.
        pool: The pool's clips on all ranks; needed where there are several.
        taught: The teacher's labels (n, K) of this rank's n clips of the pool; None where there are none yet.
        weight: Of the cross-entropy with them.
    """
    labelled = len(labels)
    with computing_in(precision, any_stream(batch).x.device):
        output: Output = model(batch, embed=config.contrast_streams, pool_from=labelled)
        # Each has its own cross-entropy: of a sum, the one that learns faster leaves the other nothing to learn.
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
            if taught is None
            else _sum(_mean_cross_entropy(logits[labelled:], taught, pool, ranks) for logits in heads)
        )
        total = total + weight * terms["teacher"]
    return {"loss": total, **terms}


def _contrast(output: Output, config: TrainingConfig, ranks: ProcessGroup, pool: int) -> dict[str, Tensor]:
    """CCL by level, summed over the pairs of streams."""
    vectors: dict[str, dict[str, Tensor]] = {name: {} for name in config.contrast_streams}
    for name in vectors:
        for level in config.contrast_levels:
            vectors[name][level] = ranks.all_gather(_exact(output.embeddings[name][level]), pool)
    terms: dict[str, list[Tensor]] = defaultdict(list)
    for first, second in config.loss.contrast_pairs:
        pair = coarse_to_fine(vectors[first], vectors[second], config.loss.temperature)
        for key, term in pair.items():
            terms[key].append(term)
    return {level: add_up(found) for level, found in terms.items()}


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
