"""Which frames of a clip are drawn: batched integer work on the device, no loop over clips.

Notation for tensor shapes: N clips of a batch, T frames drawn, L slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from psptool.schemas.training import SamplingSettings


def uniform_frames(counts: Tensor, frames: int) -> Tensor:
    """Frame ``int(i * count / frames)`` for i = 0 … frames - 1, the released code's draw at test.

    Args:
        counts: int64 (N,), frames a clip has.
        frames: T.

    Returns:
        int64 (N, T).
    """
    return torch.arange(frames, device=counts.device)[None, :] * counts[:, None] // frames


def draw_released(counts: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """Repeat every frame ceil(frames / count) times and take ``frames`` of them without replacement, in order.

    A clip of exactly ``frames`` frames is taken as it is. Arguments and result as in `uniform_frames`.
    """
    repeats = (frames + counts - 1) // counts  # (N,)
    slots = counts * repeats
    longest = int(slots.max())
    keys = torch.rand(len(counts), longest, generator=generator, device=counts.device)
    keys = keys.masked_fill(torch.arange(longest, device=counts.device)[None, :] >= slots[:, None], -1.0)
    chosen = keys.topk(frames, dim=1).indices.sort(dim=1).values
    return chosen // repeats[:, None]


def draw_crop(
    counts: Tensor, frames: int, shortest: float, generator: torch.Generator, speed: float = 0.0
) -> Tensor:
    """One jittered frame from each of ``frames`` equal stretches of a random crop, in order.

    The crop's length is uniform between ``shortest`` and all of the clip, its place uniform. With ``speed`` the pace
    runs evenly from 1 + a to 1 - a within the crop, a uniform between -``speed`` and ``speed``.
    Arguments and result as in `uniform_frames`.
    """
    clips, device = len(counts), counts.device
    length = counts * (shortest + (1 - shortest) * torch.rand(clips, generator=generator, device=device))
    start = (counts - length) * torch.rand(clips, generator=generator, device=device)
    within = torch.arange(frames, device=device) + torch.rand(
        clips, frames, generator=generator, device=device
    )
    share = within / frames
    if speed:
        pace = speed * (2 * torch.rand(clips, 1, generator=generator, device=device) - 1)
        share = share + pace * share * (1 - share)
    chosen = (start[:, None] + share * length[:, None]).long()
    return torch.minimum(chosen, counts[:, None] - 1)


def draw_frames(counts: Tensor, settings: SamplingSettings, generator: torch.Generator) -> Tensor:
    """A training draw as the settings say; int64 (N, T), positions among the clip's frames."""
    if settings.draw == "released":
        return draw_released(counts, settings.frames, generator)
    return draw_crop(counts, settings.frames, settings.crop, generator, settings.speed)
