"""A model's logits on clips of a dataset that lies on the device; what evaluation, prediction and validation share."""

from __future__ import annotations

import torch
from torch import Tensor

from psptool.data.batches.ragged import Batcher
from psptool.model.classifier import PSPNet
from psptool.model.precision import computing_in


@torch.inference_mode()
def clip_logits(
    model: PSPNet, batcher: Batcher, chosen: Tensor, precision: torch.dtype = torch.float32, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Logits of the joint and of the motion stream, computing neither PPA nor the projection.

    Args:
        model: Left in the mode, training or evaluation, that it came in.
        batcher: Gathers the clips.
        chosen: int64 (N,), clip numbers, on the host.
        precision: Of the forward pass.
        batch: Clips computed at once.

    Returns:
        Two float32 tensors (N, classes); their sum is the prediction.
    """
    was_training = model.training
    model.eval()
    parts: list[tuple[Tensor, Tensor]] = []
    with computing_in(precision, batcher.clips.device):
        for some in torch.split(chosen, batch):
            joint, motion = model(batcher.test(some))
            parts.append((joint.float(), motion.float()))
    model.train(was_training)
    return torch.cat([joint for joint, _ in parts]), torch.cat([motion for _, motion in parts])
