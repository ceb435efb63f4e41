"""Augmentation of training clips, sampled and applied as batched tensor operations.

Notation for tensor shapes: N clips of a batch, P persons of all clips, T frames, V joints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from psptool.data.batches.streams import to_device
from psptool.data.skeletons.keys import UpAxis
from psptool.schemas.training import AugmentSettings


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of each clip of a batch.

    Attributes:
        matrix: (N, 3, 3), product of rotation, shear and scale, for row vectors: ``x @ matrix``.
        masked: bool (N, V), joints that are set to zero.
        mirrored: bool (N,), clips whose left and right are swapped.
        jitter: Standard deviation of the added noise, in the unit of the positions.
        planar: Whether the positions are 2D: z is zero and remains zero.
    """

    matrix: Tensor
    masked: Tensor
    mirrored: Tensor
    jitter: float
    planar: bool = False


def draw_augmentation(
    clips: int,
    joints: int,
    settings: AugmentSettings,
    generator: torch.Generator,
    device: torch.device,
    up: UpAxis = "z",
    dimensions: int = 3,
) -> Augmentation:
    """Sample one augmentation per clip. It depends only on the state of ``generator``.

    In 2D, all changes stay in the plane: of the rotations, only the one about z remains, with the range of
    `AugmentSettings.pitch_roll`; shear and noise are of x and y.

    Args:
        clips: N.
        joints: V.
        settings: Ranges and probabilities of the augmentation.
        generator: On ``device``.
        device: Device of the result.
        up: Vertical axis of the positions. `AugmentSettings.yaw` is the rotation about it,
            `AugmentSettings.pitch_roll` those about the two other axes.
        dimensions: 3, or 2 for positions whose z is zero.
    """

    def uniform(*shape: int) -> Tensor:
        """(N, *shape), uniform between -1 and 1."""
        return 2 * torch.rand(clips, *shape, generator=generator, device=device) - 1

    # Pitch and roll come before the yaw: the order of the axes is that of the three rotations.
    planar = dimensions == 2
    axes = (0, 1, 2) if up == "z" or planar else (0, 2, 1)
    limits = [settings.pitch_roll, settings.pitch_roll, settings.yaw]
    degrees = to_device(torch.tensor([0.0, 0.0, settings.pitch_roll] if planar else limits), device)
    rotation = _rotation(uniform(3) * degrees * (math.pi / 180), axes)  # (N, 3) -> (N, 3, 3)
    # Shear: ones on the diagonal, (N, 3, 3); scale: one factor per clip, (N, 1, 1)
    identity = torch.eye(3, device=device)
    sheared = 1 - identity
    if planar:
        sheared[2], sheared[:, 2] = 0, 0
    shear = identity + settings.shear * uniform(3, 3) * sheared
    scale = 1 + settings.scale * uniform(1, 1)
    masked = torch.rand(clips, joints, generator=generator, device=device) < settings.mask_joints
    mirrored = torch.rand(clips, generator=generator, device=device) < settings.mirror
    return Augmentation(rotation @ shear * scale, masked, mirrored, settings.jitter, planar)


def augment(
    x: Tensor,
    owner: Tensor,
    drawn: Augmentation,
    mirror: Tensor,
    generator: torch.Generator,
    present: Tensor,
) -> Tensor:
    """Apply the augmentation of each clip to its persons.

    Args:
        x: (P, T, V, 3).
        owner: int64 (P,), the clip of each person.
        drawn: The augmentation of N clips.
        mirror: int64 (V,), for each joint the index of the joint on the other side.
        generator: Generator of the noise, on the device of ``x``.
        present: bool (P, T); absent frames remain zero.

    Returns:
        (P, T, V, 3).
    """
    flip = drawn.mirrored[owner][:, None, None, None]  # (N,) -> (P,) -> (P, 1, 1, 1)
    # Mirror: swap left and right joints, and negate x.
    x = torch.where(flip, x[:, :, mirror] * _flip_x(x), x)
    # (P, T*V, 3) @ (P, 3, 3) -> (P, T*V, 3) -> (P, T, V, 3)
    x = (x.flatten(1, 2) @ drawn.matrix[owner]).view(x.shape)
    if drawn.jitter:
        noise = drawn.jitter * torch.randn(x.shape, generator=generator, device=x.device)
        if drawn.planar:
            noise[..., 2] = 0
        x = x + noise
    # Masking is last: noise must not reach masked joints. (P, T, 1) & (P, 1, V) -> (P, T, V)
    kept = present[:, :, None] & ~drawn.masked[owner][:, None, :]
    return x * kept[..., None]


def _flip_x(x: Tensor) -> Tensor:
    """Factors (3,) that negate the first coordinate."""
    return to_device(torch.tensor([-1.0, 1.0, 1.0], dtype=x.dtype), x.device)


def _rotation(angles: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """Rotation matrices for row vectors, (N, 3, 3): about the first of ``axes`` first.

    Args:
        angles: (N, 3), in radians, about the three ``axes``.
        axes: Axis of each angle: 0 for x, 1 for y, 2 for z.
    """
    cos, sin = angles.cos(), angles.sin()
    one, zero = torch.ones_like(cos[:, 0]), torch.zeros_like(cos[:, 0])
    about = []
    for number, axis in enumerate(axes):
        c, s = cos[:, number], sin[:, number]  # (N,)
        rows = {
            0: (one, zero, zero, zero, c, -s, zero, s, c),
            1: (c, zero, s, zero, one, zero, -s, zero, c),
            2: (c, -s, zero, s, c, zero, zero, zero, one),
        }[axis]
        about.append(torch.stack(rows, dim=1).view(-1, 3, 3))  # nine of (N,) -> (N, 9) -> (N, 3, 3)
    return about[0] @ about[1] @ about[2]
