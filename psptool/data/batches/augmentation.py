"""Changes to clips at training, drawn and applied as batched tensor work.

Notation for tensor shapes: N clips of a batch, P persons of all clips, T frames, V joints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from psptool.data.skeletons.datasets import UpAxis
from psptool.schemas.training import AugmentSettings


@dataclass(frozen=True)
class Augmentation:
    """One draw for each clip of a batch.

    Attributes:
        matrix: (N, 3, 3), turn, shear and scale in one; row vectors are multiplied from the left.
        masked: bool (N, V), joints set to zero.
        masked_frames: bool (N, T), frames set to zero; None where none are.
        mirrored: bool (N,), left and right swapped.
        jitter: Standard deviation of the noise to add.
    """

    matrix: Tensor
    masked: Tensor
    mirrored: Tensor
    jitter: float
    masked_frames: Tensor | None = None


def draw_augmentation(
    clips: int,
    joints: int,
    settings: AugmentSettings,
    generator: torch.Generator,
    device: torch.device,
    frames: int = 0,
    up: UpAxis = "z",
) -> Augmentation:
    """Draw one augmentation per clip; the same generator state gives the same draw.

    Args:
        clips: N.
        joints: V.
        settings: What is drawn, and how much.
        generator: On ``device``.
        device: Where the tensors of the result are.
        frames: T.
        up: Vertical axis of the positions: `AugmentSettings.turn` is about it, `AugmentSettings.tilt` about the two
            others.
    """

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(clips, *shape, generator=generator, device=device) - 1

    # Pitch and roll come before the yaw: the order of the axes is that of the three rotations.
    axes = (0, 1, 2) if up == "z" else (0, 2, 1)
    degrees = torch.tensor([settings.pitch_roll, settings.pitch_roll, settings.yaw]).to(
        device, non_blocking=True
    )
    turn = _rotation(uniform(3) * degrees * (math.pi / 180), axes)
    identity = torch.eye(3, device=device)
    shear = identity + settings.shear * uniform(3, 3) * (1 - identity)
    scale = 1 + settings.scale * uniform(1, 1)
    masked = torch.rand(clips, joints, generator=generator, device=device) < settings.mask_joints
    mirrored = torch.rand(clips, generator=generator, device=device) < settings.mirror
    masked_frames = None
    if settings.mask_frames:
        masked_frames = torch.rand(clips, frames, generator=generator, device=device) < settings.mask_frames
    return Augmentation(turn @ shear * scale, masked, mirrored, settings.jitter, masked_frames)


def augment(
    x: Tensor,
    owner: Tensor,
    drawn: Augmentation,
    mirror: Tensor,
    generator: torch.Generator,
    present: Tensor,
) -> Tensor:
    """Apply each clip's draw to its persons.

    Args:
        x: (P, T, V, 3).
        owner: int64 (P,), the clip of each person.
        drawn: The draws of N clips.
        mirror: int64 (V,), for each joint the one on the other side.
        generator: Of the noise.
        present: bool (P, T); absent frames stay zero.

    Returns:
        (P, T, V, 3).
    """
    flip = drawn.mirrored[owner][:, None, None, None]
    x = torch.where(flip, x[:, :, mirror] * _flip_x(x), x)
    x = (x.flatten(1, 2) @ drawn.matrix[owner]).view(x.shape)
    if drawn.jitter:
        x = x + drawn.jitter * torch.randn(x.shape, generator=generator, device=x.device)
    if drawn.masked_frames is not None:
        present = present & ~drawn.masked_frames[owner]
    kept = present[:, :, None] & ~drawn.masked[owner][:, None, :]
    return x * kept[..., None]


def _flip_x(x: Tensor) -> Tensor:
    return torch.tensor([-1.0, 1.0, 1.0], dtype=x.dtype).to(x.device, non_blocking=True)


def _rotation(angles: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """(N, 3) angles in radians about the three ``axes`` -> (N, 3, 3), for row vectors: the first axis turns first."""
    cos, sin = angles.cos(), angles.sin()
    one, zero = torch.ones_like(cos[:, 0]), torch.zeros_like(cos[:, 0])
    about = []
    for place, axis in enumerate(axes):
        c, s = cos[:, place], sin[:, place]
        rows = {
            0: (one, zero, zero, zero, c, -s, zero, s, c),
            1: (c, zero, s, zero, one, zero, -s, zero, c),
            2: (c, -s, zero, s, c, zero, zero, zero, one),
        }[axis]
        about.append(torch.stack(rows, dim=1).view(-1, 3, 3))
    return about[0] @ about[1] @ about[2]
