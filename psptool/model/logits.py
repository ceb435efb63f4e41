"""Logits of a model on clips of a dataset, for evaluation, prediction and validation."""

from __future__ import annotations

import torch
from torch import Tensor

from psptool.data.batches.ragged import Batcher
from psptool.model.network import Network
from psptool.model.precision import run_in


@torch.inference_mode()
def clip_logits(
    model: Network, batcher: Batcher, chosen: Tensor, precision: torch.dtype = torch.float32, batch: int = 64
) -> dict[str, Tensor]:
    """Logits by stream in evaluation mode, without the branch of the contrastive loss.

    Args:
        model: Its mode (training or evaluation) is restored afterwards.
        batcher: Gathers the clips.
        chosen: int64 (N,), clip numbers, on the host.
        precision: Precision of the forward pass.
        batch: Number of clips per forward pass.

    Returns:
        float32 (N, K) by stream; their sum is the prediction.
    """
    was_training = model.training
    model.eval()
    parts: list[dict[str, Tensor]] = []
    for numbers in torch.split(chosen, batch):
        by_stream = run_in(precision, batcher.clips.device, model, batcher.test(numbers)).by_stream
        parts.append({name: logits.float() for name, logits in by_stream.items()})
    model.train(was_training)
    # Parts of (batch, K), the last one smaller, -> (N, K) per stream
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
