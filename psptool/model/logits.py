"""A model's logits on clips of a dataset that lies on the device; what evaluation, prediction and validation share."""

from __future__ import annotations

import torch
from torch import Tensor

from psptool.data.batches.ragged import Batcher
from psptool.model.network import Network
from psptool.model.precision import computing_in


@torch.inference_mode()
def clip_logits(
    model: Network, batcher: Batcher, chosen: Tensor, precision: torch.dtype = torch.float32, batch: int = 64
) -> dict[str, Tensor]:
    """Logits by stream, without computing the branch of the contrastive loss.

    Args:
        model: Left in the mode, training or evaluation, that it came in.
        batcher: Gathers the clips.
        chosen: int64 (N,), clip numbers, on the host.
        precision: Of the forward pass.
        batch: Clips computed at once.

    Returns:
        By stream float32 (N, classes); their sum is the prediction.
    """
    was_training = model.training
    model.eval()
    parts: list[dict[str, Tensor]] = []
    with computing_in(precision, batcher.clips.device):
        for some in torch.split(chosen, batch):
            found = model(batcher.test(some)).by_stream
            parts.append({name: logits.float() for name, logits in found.items()})
    model.train(was_training)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
