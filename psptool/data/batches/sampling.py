"""Frame sampling, as batched tensor operations without a loop over clips.

Notation for tensor shapes: N clips of a batch, T sampled frames, L frames of the longest clip after repetition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from psptool.schemas.training import SamplingSettings


def uniform_frames(counts: Tensor, frames: int) -> Tensor:
    """Evenly spaced frames for test batches: ``i * count // frames`` for i = 0 … frames - 1.

    Args:
        counts: int64 (N,), number of frames of each clip.
        frames: T.

    Returns:
        int64 (N, T), frame numbers.
    """
    return torch.arange(frames, device=counts.device)[None, :] * counts[:, None] // frames


def draw_released(counts: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """Repeat every frame ceil(frames / count) times and sample ``frames`` of them without replacement, in order.

    A clip of exactly ``frames`` frames is unchanged. Arguments and result as in `uniform_frames`.
    """
    repeats = (frames + counts - 1) // counts  # ceil(frames / count), (N,)
    repeated = counts * repeats  # number of frames after repetition, (N,)
    longest = int(repeated.max())
    # The T largest of random keys (N, L) are a sample without replacement. Padding has the lowest key.
    keys = torch.rand(len(counts), longest, generator=generator, device=counts.device)
    keys = keys.masked_fill(torch.arange(longest, device=counts.device)[None, :] >= repeated[:, None], -1.0)
    chosen = keys.topk(frames, dim=1).indices.sort(dim=1).values  # (N, L) -> (N, T)
    return chosen // repeats[:, None]


def draw_crop(counts: Tensor, frames: int, shortest: float, generator: torch.Generator) -> Tensor:
    """One random frame from each of ``frames`` equal segments of a random crop, in order.

    The length of the crop is uniform between the fraction ``shortest`` and the whole clip; its position is uniform.
    Arguments and result as in `uniform_frames`.
    """
    clips, device = len(counts), counts.device
    length = counts * (shortest + (1 - shortest) * torch.rand(clips, generator=generator, device=device))
    start = (counts - length) * torch.rand(clips, generator=generator, device=device)
    within = torch.arange(frames, device=device) + torch.rand(
        clips, frames, generator=generator, device=device
    )
    position = within / frames  # in the crop, 0 to 1, (N, T)
    chosen = (start[:, None] + position * length[:, None]).long()  # (N, T)
    return torch.minimum(chosen, counts[:, None] - 1)  # rounding may give the frame after the last one


def draw_frames(counts: Tensor, settings: SamplingSettings, generator: torch.Generator) -> Tensor:
    """Random frames for training batches, int64 (N, T), by the method of ``settings``."""
    if settings.draw == "released":
        return draw_released(counts, settings.frames, generator)
    return draw_crop(counts, settings.frames, settings.crop, generator)
