"""What augmentation does to coordinates, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from psptool.data.batches.augmentation import Augmentation, augment, draw_augmentation
from psptool.schemas.training import AugmentSettings
from psptool.skeletons.topology import Topology
from tests.builtin import NTU25, UCLA20

DRAWS = 500


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(clips: int = DRAWS, joints: int = 20, **settings: float) -> Augmentation:
    return draw_augmentation(clips, joints, AugmentSettings(**settings), seeded())  # type: ignore[arg-type]


def apply(
    x: Tensor, drawn: Augmentation, topology: Topology = UCLA20, present: Tensor | None = None
) -> Tensor:
    owner = torch.arange(len(x))
    shown = torch.ones(x.shape[:2], dtype=torch.bool) if present is None else present
    return augment(x, shown, owner, drawn, topology.mirror, seeded(1))


def clips(count: int = 1, joints: int = 20) -> Tensor:
    return torch.randn(count, 4, joints, 3, generator=seeded(9))


def angle(matrix: Tensor) -> Tensor:
    trace = matrix.diagonal(dim1=1, dim2=2).sum(1)
    return torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))


def test_zero_settings_change_no_bit() -> None:
    x = clips(5)
    assert torch.equal(apply(x, draw(5)), x)


@pytest.mark.parametrize(
    "settings", [{"yaw": 30.0}, {"pitch_roll": 15.0}, {"yaw": 180.0, "pitch_roll": 180.0}]
)
def test_turns_are_rotations(settings: dict[str, float]) -> None:
    matrix = draw(**settings).matrix
    identity = torch.eye(3).expand(DRAWS, 3, 3)
    torch.testing.assert_close(matrix @ matrix.mT, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(DRAWS))


def test_turn_is_about_the_vertical_up_to_its_angle_both_ways() -> None:
    drawn = draw(yaw=30.0)
    x = clips(DRAWS)
    assert torch.equal(apply(x, drawn)[..., 2], x[..., 2])
    signed = torch.rad2deg(torch.atan2(drawn.matrix[:, 1, 0], drawn.matrix[:, 0, 0]))
    assert signed.abs().max() <= 30.001
    assert signed.min() < -29
    assert signed.max() > 29
    assert signed.mean().abs() < 2.5


def test_tilt_leans_the_vertical_about_both_horizontal_axes_up_to_its_angle() -> None:
    z = draw(pitch_roll=15.0).matrix[:, 2]  # where the z axis, as a row vector, goes
    leans = torch.rad2deg(torch.arcsin(z[:, :2]))
    assert leans.abs().max() <= 15.001
    assert (leans.abs().amax(0) > 14).all()
    assert (angle(draw(pitch_roll=15.0).matrix) <= 15 * math.sqrt(2) + 0.1).all()


def test_shear_is_bounded_and_leaves_the_diagonal_alone() -> None:
    matrix = draw(shear=0.2).matrix
    off = matrix[:, ~torch.eye(3, dtype=torch.bool)]
    assert (matrix.diagonal(dim1=1, dim2=2) == 1).all()
    assert off.abs().max() <= 0.2
    assert (off.abs().amax(0) > 0.19).all()


def test_scale_is_one_factor_for_all_axes_and_bounded() -> None:
    matrix = draw(scale=0.2).matrix
    factor = matrix[:, 0, 0]
    torch.testing.assert_close(matrix, factor[:, None, None] * torch.eye(3))
    assert 0.8 <= factor.min() < 0.81
    assert 1.19 < factor.max() <= 1.2


@pytest.mark.parametrize("topology", [NTU25, UCLA20], ids=lambda topology: topology.name)
def test_mirror_swaps_left_and_right_and_flips_x(topology: Topology) -> None:
    x = clips(3, topology.size)
    found = apply(x, draw(3, topology.size, mirror=1.0), topology)
    for joint, name in enumerate(topology.joints):
        other = name.replace("left", "?").replace("right", "left").replace("?", "right")
        source = x[:, :, topology.joints.index(other)]
        assert torch.equal(found[:, :, joint], source * torch.tensor([-1.0, 1.0, 1.0]))


def test_mirror_twice_is_nothing() -> None:
    x, drawn = clips(3), draw(3, mirror=1.0)
    assert torch.equal(apply(apply(x, drawn), drawn), x)


def test_mirror_strikes_its_share_of_the_clips_as_a_whole() -> None:
    x = clips().expand(DRAWS, -1, -1, -1)
    changed = (apply(x, draw(mirror=0.3)) != x)[..., 0].flatten(1)
    assert torch.equal(changed.any(1), changed.all(1))
    assert changed.any(1).float().mean() == pytest.approx(0.3, abs=0.07)


def test_masking_zeroes_whole_joints_in_all_frames_and_no_others() -> None:
    x = clips(DRAWS)
    found = apply(x, draw(mask_joints=0.1))
    gone = (found == 0).all(3)  # (N, T, V)
    assert torch.equal(gone.any(1), gone.all(1))
    assert gone.float().mean() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(found, torch.where(gone[..., None], 0.0, x))
    assert len(gone[:, 0].unique(dim=0)) > 1


def test_a_masked_joint_stays_zero_under_noise() -> None:
    drawn = draw(mask_joints=0.5, jitter=0.1)
    assert torch.equal((apply(clips(DRAWS), drawn) == 0).all(3)[:, 0], drawn.masked)


def test_noise_has_the_stated_spread() -> None:
    noise = apply(clips(DRAWS), draw(jitter=0.02)) - clips(DRAWS)
    assert noise.std() == pytest.approx(0.02, rel=0.02)
    assert abs(noise.mean()) < 1e-3


EVERYTHING = {
    "yaw": 30.0,
    "pitch_roll": 15.0,
    "shear": 0.2,
    "scale": 0.2,
    "jitter": 0.1,
    "mask_joints": 0.1,
    "mirror": 0.5,
}


def test_absent_frames_stay_zero_under_every_augmentation_and_present_ones_move() -> None:
    present = torch.tensor([[True, False, True, False]] * DRAWS)
    x = clips(DRAWS) * present[..., None, None]
    found = apply(x, draw(**EVERYTHING), present=present)
    assert not found[:, 1::2].any()
    assert (found[:, ::2] != x[:, ::2]).float().mean() > 0.85


def test_all_persons_of_a_clip_get_the_clips_draw() -> None:
    drawn = draw(2, **(EVERYTHING | {"jitter": 0.0}))
    x = clips().expand(3, -1, -1, -1)
    owner = torch.tensor([0, 1, 1])
    found = augment(x, torch.ones(3, 4).bool(), owner, drawn, UCLA20.mirror, seeded())
    assert torch.equal(found[1], found[2])
    assert not torch.allclose(found[0], found[1])


def test_the_same_state_draws_the_same_and_another_one_does_not() -> None:
    settings = AugmentSettings(**EVERYTHING)  # type: ignore[arg-type]
    first, again, other = (draw_augmentation(4, 20, settings, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.matrix, again.matrix)
    assert torch.equal(first.masked, again.masked)
    assert torch.equal(first.mirrored, again.mirrored)
    assert not torch.equal(first.matrix, other.matrix)


def planar(**settings: float) -> Augmentation:
    return draw_augmentation(DRAWS, 20, AugmentSettings(**settings), seeded(), "y", 2)  # type: ignore[arg-type]


def test_in_2d_every_change_stays_in_the_plane() -> None:
    x = clips(DRAWS)
    x[..., 2] = 0
    changes = {"yaw": 90.0, "pitch_roll": 45.0, "shear": 0.5, "scale": 0.3, "jitter": 0.1, "mirror": 0.5}
    changed = apply(x, planar(**changes))
    assert not changed[..., 2].any()
    assert (changed[..., :2] != x[..., :2]).any(dim=-1).all()


def test_in_2d_the_only_rotation_is_about_z_with_the_limit_of_pitch_and_roll() -> None:
    assert torch.equal(planar(yaw=90.0).matrix, torch.eye(3).expand(DRAWS, 3, 3))
    matrix = planar(pitch_roll=30.0).matrix
    turned = torch.rad2deg(torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert turned.abs().max() <= 30
    assert turned.max() > 25
    assert turned.min() < -25
    for n, degrees in enumerate(turned.tolist()):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        torch.testing.assert_close(matrix[n], torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]))


def test_in_2d_shear_is_of_x_and_y() -> None:
    matrix = planar(shear=0.4).matrix
    assert torch.equal(matrix.diagonal(dim1=1, dim2=2), torch.ones(DRAWS, 3))
    off = matrix - torch.eye(3)
    assert not off[:, 2].any()
    assert not off[:, :, 2].any()
    assert off[:, 0, 1].abs().max() > 0.35
    assert off.abs().max() <= 0.4
