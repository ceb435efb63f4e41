"""Effect of augmentation on coordinates, and what it does not change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from psptool.data.batches.augmentation import Augmentation, augment, draw_augmentation
from psptool.schemas.training import AugmentSettings
from psptool.skeletons.topology import Topology
from tests.builtin import NTU25, UCLA20

CLIPS = 500


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(clips: int = CLIPS, joints: int = 20, **settings: float) -> Augmentation:
    return draw_augmentation(clips, joints, AugmentSettings(**settings), seeded())  # type: ignore[arg-type]


def apply(
    x: Tensor, augmentation: Augmentation, topology: Topology = UCLA20, present: Tensor | None = None
) -> Tensor:
    owner = torch.arange(len(x))
    visible = torch.ones(x.shape[:2], dtype=torch.bool) if present is None else present
    return augment(x, visible, owner, augmentation, topology.mirror, seeded(1))


def clips(count: int = 1, joints: int = 20) -> Tensor:
    return torch.randn(count, 4, joints, 3, generator=seeded(9))


def angle(matrix: Tensor) -> Tensor:
    trace = matrix.diagonal(dim1=1, dim2=2).sum(1)
    return torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))


def test_with_all_settings_zero_coordinates_are_bit_identical() -> None:
    x = clips(5)
    assert torch.equal(apply(x, sample(5)), x)


@pytest.mark.parametrize(
    "settings", [{"yaw": 30.0}, {"pitch_roll": 15.0}, {"yaw": 180.0, "pitch_roll": 180.0}]
)
def test_yaw_pitch_and_roll_are_rotations(settings: dict[str, float]) -> None:
    matrix = sample(**settings).matrix
    identity = torch.eye(3).expand(CLIPS, 3, 3)
    torch.testing.assert_close(matrix @ matrix.mT, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(CLIPS))


def test_yaw_is_a_rotation_about_the_vertical_by_up_to_the_configured_angle_in_both_directions() -> None:
    augmentation = sample(yaw=30.0)
    x = clips(CLIPS)
    assert torch.equal(apply(x, augmentation)[..., 2], x[..., 2])
    signed = torch.rad2deg(torch.atan2(augmentation.matrix[:, 1, 0], augmentation.matrix[:, 0, 0]))
    assert signed.abs().max() <= 30.001
    assert signed.min() < -29
    assert signed.max() > 29
    assert signed.mean().abs() < 2.5


def test_pitch_and_roll_rotate_about_both_horizontal_axes_by_up_to_the_configured_angle() -> None:
    z = sample(pitch_roll=15.0).matrix[:, 2]  # image of the z axis as a row vector
    degrees = torch.rad2deg(torch.arcsin(z[:, :2]))
    assert degrees.abs().max() <= 15.001
    assert (degrees.abs().amax(0) > 14).all()
    assert (angle(sample(pitch_roll=15.0).matrix) <= 15 * math.sqrt(2) + 0.1).all()


def test_shear_is_bounded_and_does_not_change_the_diagonal() -> None:
    matrix = sample(shear=0.2).matrix
    off = matrix[:, ~torch.eye(3, dtype=torch.bool)]
    assert (matrix.diagonal(dim1=1, dim2=2) == 1).all()
    assert off.abs().max() <= 0.2
    assert (off.abs().amax(0) > 0.19).all()


def test_scale_is_one_factor_for_all_axes_and_bounded() -> None:
    matrix = sample(scale=0.2).matrix
    factor = matrix[:, 0, 0]
    torch.testing.assert_close(matrix, factor[:, None, None] * torch.eye(3))
    assert 0.8 <= factor.min() < 0.81
    assert 1.19 < factor.max() <= 1.2


@pytest.mark.parametrize("topology", [NTU25, UCLA20], ids=lambda topology: topology.name)
def test_mirror_swaps_left_and_right_and_flips_x(topology: Topology) -> None:
    x = clips(3, topology.size)
    found = apply(x, sample(3, topology.size, mirror=1.0), topology)
    for joint, name in enumerate(topology.joints):
        other = name.replace("left", "?").replace("right", "left").replace("?", "right")
        source = x[:, :, topology.joints.index(other)]
        assert torch.equal(found[:, :, joint], source * torch.tensor([-1.0, 1.0, 1.0]))


def test_mirroring_twice_is_the_identity() -> None:
    x, augmentation = clips(3), sample(3, mirror=1.0)
    assert torch.equal(apply(apply(x, augmentation), augmentation), x)


def test_mirror_applies_to_the_configured_share_of_clips_and_to_whole_clips() -> None:
    x = clips().expand(CLIPS, -1, -1, -1)
    changed = (apply(x, sample(mirror=0.3)) != x)[..., 0].flatten(1)
    assert torch.equal(changed.any(1), changed.all(1))
    assert changed.any(1).float().mean() == pytest.approx(0.3, abs=0.07)


def test_masking_sets_whole_joints_to_zero_in_all_frames_and_changes_no_others() -> None:
    x = clips(CLIPS)
    found = apply(x, sample(mask_joints=0.1))
    masked = (found == 0).all(3)  # (N, T, V)
    assert torch.equal(masked.any(1), masked.all(1))
    assert masked.float().mean() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(found, torch.where(masked[..., None], 0.0, x))
    assert len(masked[:, 0].unique(dim=0)) > 1


def test_a_masked_joint_remains_zero_with_noise() -> None:
    augmentation = sample(mask_joints=0.5, jitter=0.1)
    assert torch.equal((apply(clips(CLIPS), augmentation) == 0).all(3)[:, 0], augmentation.masked)


def test_noise_has_the_configured_standard_deviation() -> None:
    noise = apply(clips(CLIPS), sample(jitter=0.02)) - clips(CLIPS)
    assert noise.std() == pytest.approx(0.02, rel=0.02)
    assert abs(noise.mean()) < 1e-3


ALL_AUGMENTATIONS = {
    "yaw": 30.0,
    "pitch_roll": 15.0,
    "shear": 0.2,
    "scale": 0.2,
    "jitter": 0.1,
    "mask_joints": 0.1,
    "mirror": 0.5,
}


def test_absent_frames_remain_zero_with_every_augmentation_and_present_frames_change() -> None:
    present = torch.tensor([[True, False, True, False]] * CLIPS)
    x = clips(CLIPS) * present[..., None, None]
    found = apply(x, sample(**ALL_AUGMENTATIONS), present=present)
    assert not found[:, 1::2].any()
    assert (found[:, ::2] != x[:, ::2]).float().mean() > 0.85


def test_all_persons_of_a_clip_have_the_same_augmentation() -> None:
    augmentation = sample(2, **(ALL_AUGMENTATIONS | {"jitter": 0.0}))
    x = clips().expand(3, -1, -1, -1)
    owner = torch.tensor([0, 1, 1])
    found = augment(x, torch.ones(3, 4).bool(), owner, augmentation, UCLA20.mirror, seeded())
    assert torch.equal(found[1], found[2])
    assert not torch.allclose(found[0], found[1])


def test_augmentation_depends_only_on_the_generator_state() -> None:
    settings = AugmentSettings(**ALL_AUGMENTATIONS)  # type: ignore[arg-type]
    first, again, other = (draw_augmentation(4, 20, settings, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.matrix, again.matrix)
    assert torch.equal(first.masked, again.masked)
    assert torch.equal(first.mirrored, again.mirrored)
    assert not torch.equal(first.matrix, other.matrix)


def planar(**settings: float) -> Augmentation:
    return draw_augmentation(CLIPS, 20, AugmentSettings(**settings), seeded(), "y", 2)  # type: ignore[arg-type]


def test_in_2d_every_augmentation_leaves_z_at_zero() -> None:
    x = clips(CLIPS)
    x[..., 2] = 0
    changes = {"yaw": 90.0, "pitch_roll": 45.0, "shear": 0.5, "scale": 0.3, "jitter": 0.1, "mirror": 0.5}
    changed = apply(x, planar(**changes))
    assert not changed[..., 2].any()
    assert (changed[..., :2] != x[..., :2]).any(dim=-1).all()


def test_in_2d_the_only_rotation_is_about_z_with_the_limit_of_pitch_and_roll() -> None:
    assert torch.equal(planar(yaw=90.0).matrix, torch.eye(3).expand(CLIPS, 3, 3))
    matrix = planar(pitch_roll=30.0).matrix
    degrees = torch.rad2deg(torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert degrees.abs().max() <= 30
    assert degrees.max() > 25
    assert degrees.min() < -25
    for n, value in enumerate(degrees.tolist()):
        c, s = math.cos(math.radians(value)), math.sin(math.radians(value))
        torch.testing.assert_close(matrix[n], torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]))


def test_in_2d_shear_is_of_x_and_y() -> None:
    matrix = planar(shear=0.4).matrix
    assert torch.equal(matrix.diagonal(dim1=1, dim2=2), torch.ones(CLIPS, 3))
    off = matrix - torch.eye(3)
    assert not off[:, 2].any()
    assert not off[:, :, 2].any()
    assert off[:, 0, 1].abs().max() > 0.35
    assert off.abs().max() <= 0.4
