"""Forward kinematics: constant bone lengths, rotation by joint angles in the right direction, feet on the floor."""

from __future__ import annotations

import numpy as np
import pytest

from psptool.formats.synthesis.actions import NTU_ACTIONS, UCLA_ACTIONS, perform
from psptool.formats.synthesis.bodies import (
    CHEST,
    FOOT,
    FOREARM,
    SHIN,
    SPINE,
    THIGH,
    UPPER_ARM,
    Pose,
    move,
    offsets,
)  # fmt: skip
from tests.builtin import NTU25

LEFT, RIGHT = 0, 1
HEAD = 3
X, UP, FRONT = 0, 1, 2


def _rng(number: int = 0) -> np.random.Generator:
    return np.random.default_rng(number)


def _at_rest(**turn) -> np.ndarray:
    pose = Pose.standing(1)
    if turn:
        pose.turn(**turn)
    return move(offsets(_rng()), pose)[0][0]


def test_a_person_at_rest_is_upright_and_symmetric_with_the_feet_on_the_floor():
    xyz = _at_rest()
    assert xyz[list(FOOT), UP] == pytest.approx(0)
    assert 1.3 < xyz[HEAD, UP] < 2.0
    assert xyz[list(NTU25.mirror)] * (-1, 1, 1) == pytest.approx(xyz)
    assert xyz[UPPER_ARM[LEFT], X] > 0 > xyz[UPPER_ARM[RIGHT], X]


@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_flexion_moves_arms_and_thighs_forward_and_bends_elbow_forward_and_knee_backward(side):
    rest = _at_rest()
    outward = 1 if side == LEFT else -1
    arm = _at_rest(bone=UPPER_ARM[side], flex=90)
    assert arm[UPPER_ARM[side], FRONT] - rest[UPPER_ARM[side], FRONT] > 0.2
    thigh = _at_rest(bone=THIGH[side], flex=90)
    assert thigh[THIGH[side], FRONT] - thigh[16 if side else 12, FRONT] > 0.3
    elbow = _at_rest(bone=FOREARM[side], flex=90)
    assert elbow[FOREARM[side], FRONT] - rest[FOREARM[side], FRONT] > 0.15
    knee = _at_rest(bone=SHIN[side], flex=90)
    assert knee[SHIN[side], FRONT] - knee[THIGH[side], FRONT] < -0.3
    raised = _at_rest(bone=UPPER_ARM[side], out=90)
    assert (raised[UPPER_ARM[side], X] - rest[UPPER_ARM[side], X]) * outward > 0.2


def test_flexion_of_the_trunk_moves_the_head_forward():
    assert _at_rest(bone=SPINE, flex=45)[HEAD, FRONT] > 0.2
    assert _at_rest(bone=CHEST, flex=45)[HEAD, FRONT] > 0.1


@pytest.mark.parametrize("number", NTU_ACTIONS)
def test_every_ntu_action_moves_rigid_bones_smoothly_and_above_the_floor(number):
    _check(NTU_ACTIONS[number])


@pytest.mark.parametrize("label", range(len(UCLA_ACTIONS)))
def test_every_ucla_action_moves_rigid_bones_smoothly_and_above_the_floor(label):
    _check(UCLA_ACTIONS[label])


def _check(action):
    rng = _rng(1)
    bones = offsets(rng)
    poses = perform(action, 60, 2.0, rng)
    assert len(poses) == action.persons
    for pose in poses:
        xyz, rotation = move(bones, pose)
        lengths = np.stack([np.linalg.norm(xyz[:, b] - xyz[:, a], axis=-1) for a, b in NTU25.bones], axis=1)
        assert lengths == pytest.approx(
            np.tile(np.linalg.norm(bones, axis=1)[[b for _, b in NTU25.bones]], (60, 1))
        )
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert xyz[:, list(FOOT), UP].min() > -1e-9
        # Nothing is faster than a fast hand: 12 m/s at 30 frames per second.
        assert np.abs(np.diff(xyz, axis=0)).max() < 0.4


def test_mirroring_a_pose_mirrors_the_body():
    pose = perform(NTU_ACTIONS[7], 30, 2.0, _rng(2))[0]
    bones = offsets(_rng())
    original, mirrored = move(bones, pose)[0], move(bones, pose.mirrored())[0]
    assert mirrored[:, list(NTU25.mirror)] * (-1, 1, 1) == pytest.approx(original)


def _moved(number: int, seed: int) -> np.ndarray:
    """(M, T, V, 3) of one performance."""
    rng = _rng(seed)
    poses = perform(NTU_ACTIONS[number], 60, 2.5, rng)
    return np.stack([move(offsets(rng), pose)[0] for pose in poses])


@pytest.mark.parametrize("seed", range(5))
class TestActionsMatchTheirNames:
    def test_a_jump_leaves_the_floor_and_returns_to_it(self, seed):
        feet = _moved(27, seed)[0, :, list(FOOT), UP].min(axis=0)
        assert feet.max() > 0.05
        assert feet[[0, -1]] == pytest.approx(0, abs=1e-9)

    def test_sitting_down_lowers_the_hips_and_standing_up_raises_them(self, seed):
        down, up = _moved(8, seed)[0, :, 0, UP], _moved(9, seed)[0, :, 0, UP]
        assert down[-1] < 0.8 * down[0]
        assert up[0] < 0.8 * up[-1]

    def test_a_bow_brings_the_head_forward_and_down(self, seed):
        xyz = _moved(35, seed)[0]
        assert xyz[:, HEAD, UP].min() < xyz[0, HEAD, UP] - 0.03

    def test_a_squat_lowers_the_hips(self, seed):
        hips = _moved(80, seed)[0, :, 0, UP]
        assert hips.min() < 0.8 * hips[0]

    def test_a_wave_raises_one_hand_and_a_kick_one_foot(self, seed):
        wave, kick = _moved(23, seed)[0], _moved(24, seed)[0]
        assert wave[:, [7, 11], UP].max() > wave[0, 20, UP] - 0.25
        assert kick[:, list(FOOT), UP].max() > 0.15

    def test_clapping_hands_meet_and_separate(self, seed):
        hands = np.linalg.norm(np.diff(_moved(10, seed)[0][:, [7, 11]], axis=1)[:, 0], axis=-1)
        assert hands.min() < 0.2
        assert hands[20:40].max() > hands.min() + 0.1

    def test_the_distance_falls_when_walking_towards_each_other_and_grows_when_walking_apart(self, seed):
        near, far = (np.linalg.norm(np.diff(_moved(n, seed)[:, :, 0], axis=0)[0], axis=-1) for n in (59, 60))
        assert near[-1] < near[0] - 0.5
        assert far[-1] > far[0] + 0.5

    def test_hands_meet_in_a_handshake(self, seed):
        xyz = _moved(58, seed)
        gap = np.linalg.norm(xyz[0, :, [7, 11]][:, None] - xyz[1, :, [7, 11]][None], axis=-1)
        assert gap.min() < 0.4
