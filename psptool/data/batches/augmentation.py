"""Augmentation of training clips, sampled and applied as batched tensor operations.

What is sampled per clip is small, and is computed on the host: an operation on a GPU takes longer to launch. Only the
noise is sampled on the device.

Notation for tensor shapes: N clips of a batch, P persons of all clips, T frames, V joints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from psptool.data.batches.streams import to_device
from psptool.schemas.training import AugmentSettings
from psptool.skeletons.keys import UpAxis


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of each clip of a batch. Tensors are on the host.

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
        generator: On the host.
        up: Vertical axis of the positions. `AugmentSettings.yaw` is the rotation about it,
            `AugmentSettings.pitch_roll` those about the two other axes.
        dimensions: 3, or 2 for positions whose z is zero.
    """

    def uniform(*shape: int) -> Tensor:
        """(N, *shape), uniform between -1 and 1."""
        return 2 * torch.rand(clips, *shape, generator=generator) - 1

    # Pitch and roll come before the yaw: the order of the axes is that of the three rotations.
    planar = dimensions == 2
    axes = (0, 1, 2) if up == "z" or planar else (0, 2, 1)
    limits = [settings.pitch_roll, settings.pitch_roll, settings.yaw]
    degrees = torch.tensor([0.0, 0.0, settings.pitch_roll] if planar else limits)
    rotation = _rotation(uniform(3) * degrees * (math.pi / 180), axes)  # (N, 3) -> (N, 3, 3)
    # Shear: ones on the diagonal, (N, 3, 3); scale: one factor per clip, (N, 1, 1)
    identity = torch.eye(3)
    sheared = 1 - identity
    if planar:
        sheared[2], sheared[:, 2] = 0, 0
    shear = identity + settings.shear * uniform(3, 3) * sheared
    scale = 1 + settings.scale * uniform(1, 1)
    masked = torch.rand(clips, joints, generator=generator) < settings.mask_joints
    mirrored = torch.rand(clips, generator=generator) < settings.mirror
    return Augmentation(rotation @ shear * scale, masked, mirrored, settings.jitter, planar)


def augment(
    x: Tensor,
    present: Tensor,
    owner: Tensor,
    drawn: Augmentation,
    mirror: Sequence[int],
    generator: torch.Generator,
) -> Tensor:
    """Apply the augmentation of each clip to its persons.

    Args:
        x: (P, T, V, 3), on any device.
        present: bool (P, T), on the host; absent frames remain zero.
        owner: int64 (P,), on the host: the clip of each person.
        drawn: The augmentation of N clips.
        mirror: For each of V joints, the index of the joint on the other side.
        generator: Generator of the noise, on the device of ``x``.

    Returns:
        (P, T, V, 3).
    """
    device = x.device
    if drawn.mirrored.any():
        flip = to_device(drawn.mirrored[owner], device)[:, None, None, None]  # (N,) -> (P,) -> (P, 1, 1, 1)
        x = torch.where(flip, _mirror(x, mirror), x)
    # (P, T*V, 3) @ (P, 3, 3) -> (P, T*V, 3) -> (P, T, V, 3)
    x = (x.flatten(1, 2) @ to_device(drawn.matrix[owner], device)).view(x.shape)
    if drawn.jitter:
        noise = drawn.jitter * torch.randn(x.shape, generator=generator, device=device)
        if drawn.planar:
            noise[..., 2] = 0
        x = x + noise
    # Masking is last: noise must not reach masked joints. (P, T, 1) & (P, 1, V) -> (P, T, V)
    kept = present[:, :, None] & ~drawn.masked[owner][:, None, :]
    return x * to_device(kept, device)[..., None]


def _mirror(x: Tensor, mirror: Sequence[int]) -> Tensor:
    """Left and right joints swapped, and x negated, (P, T, V, 3) -> (P, T, V, 3)."""
    joints = to_device(torch.tensor(mirror), x.device)
    signs = to_device(torch.tensor([-1.0, 1.0, 1.0], dtype=x.dtype), x.device)
    return x[:, :, joints] * signs


def _rotation(angles: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """Rotation matrices for row vectors, (N, 3, 3): about the first of ``axes`` first.

    Args:
        angles: (N, 3), in radians, about the three ``axes``.
        axes: Axis of each angle: 0 for x, 1 for y, 2 for z.
    """
    fixed, cosine, sine = _planes(axes)
    angles = angles[:, :, None, None]
    about = fixed + angles.cos() * cosine + angles.sin() * sine  # (N, 3, 3, 3): three rotations per clip
    return about[:, 0] @ about[:, 1] @ about[:, 2]


@cache
def _planes(axes: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Constant part of the rotation about each axis, and the factors of its cosine and sine, (3, 3, 3) each."""
    parts = torch.zeros(3, 3, 3, 3)
    for number, axis in enumerate(axes):
        # The rotation is in the plane of axes i and j, which come after its own in the order x, y, z, x.
        i, j = (axis + 1) % 3, (axis + 2) % 3
        parts[0, number, axis, axis] = 1
        parts[1, number, i, i] = parts[1, number, j, j] = 1
        parts[2, number, i, j], parts[2, number, j, i] = -1, 1
    return parts[0], parts[1], parts[2]
