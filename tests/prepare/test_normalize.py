"""Normalization compared with slow literal formulas, and bodies that define no axes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psptool.common.errors import RawFormatError
from psptool.preparation import kernel
from psptool.preparation.normalize import NO_ACROSS, NO_SPINE, UNSCALED, find_transform, normalize
from psptool.preparation.tracks import Persons
from psptool.schemas.dataset import PreparationSettings
from psptool.skeletons.keys import ClipKey
from tests.builtin import NTU25, UCLA20

BODY, ROBUST, RELEASED, NONE = (
    PreparationSettings(align=align) for align in ("body", "robust", "released", "none")
)


def bodies(seed, frames=7, topology=NTU25):
    return (np.random.default_rng(seed).normal(size=(frames, topology.size, 3)) + np.array((0, 0, 3))).astype(
        np.float32
    )


def persons(xyz, present=None):
    present = np.ones(xyz.shape[:2], bool) if present is None else np.array(present)
    return Persons(xyz, present, np.full(xyz.shape[:3], 2, np.uint8))


def rodrigues(axis, angle):
    """Rotation about an axis by Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("topology", [NTU25, UCLA20], ids=lambda t: t.name)
def test_released_alignment_is_the_composition_of_its_two_rotations(seed, topology):
    leading = bodies(seed, topology=topology)
    first = leading[0].astype(float)
    spine = first[topology.spine[1]] - first[topology.spine[0]]
    upright = rodrigues(np.cross(spine, (0, 0, 1)), math.acos(spine[2] / np.linalg.norm(spine)))
    across = upright @ (first[topology.released_across[1]] - first[topology.released_across[0]])
    facing = rodrigues(np.array([0, 0, 1]), -math.atan2(across[1], across[0]))
    found = find_transform(leading, topology, RELEASED)
    np.testing.assert_allclose(found.rotation, facing @ upright, atol=1e-12)
    np.testing.assert_allclose(found.scale, np.linalg.norm(spine), rtol=1e-12)
    np.testing.assert_array_equal(found.origin, first[topology.center])


@pytest.mark.parametrize("seed", range(5))
def test_body_alignment_averages_spine_and_shoulders_over_the_first_five_frames(seed):
    leading = bodies(seed)
    spine, shoulders = np.zeros(3), np.zeros(3)
    for frame in range(5):
        spine += (leading[frame, 20].astype(float) - leading[frame, 0]) / 5
        shoulders += (leading[frame, 4].astype(float) - leading[frame, 8]) / 5
    z = spine / np.linalg.norm(spine)
    x = shoulders - (shoulders @ z) * z
    x /= np.linalg.norm(x)
    found = find_transform(leading, NTU25, BODY)
    np.testing.assert_allclose(found.rotation, [x, np.cross(z, x), z], atol=1e-12)


def literal_robust(leading, topology):
    """Scale and rotation computed with NumPy's eigenvectors and median."""
    x = leading.astype(float)
    picked = [x[i * len(x) // min(len(x), 32)] for i in range(min(len(x), 32))]
    sizes = [sum(np.linalg.norm(frame[a] - frame[b]) for a, b in topology.bones) for frame in picked]
    ankles = (x[:, topology.ankles[0]] + x[:, topology.ankles[1]]) / 2
    up = (x[:, topology.spine[1]] - ankles).mean(0)
    z = up / np.linalg.norm(up)
    lines = x[:, topology.shoulders[1]] - x[:, topology.shoulders[0]]
    lines = lines - np.outer(lines @ z, z)
    across = np.linalg.eigh(lines.T @ lines)[1][:, 2]
    across *= np.sign(across @ lines.sum(0))
    return np.median([size for size in sizes if size > 0]) / 10, np.array([across, np.cross(z, across), z])


@pytest.mark.parametrize("frames", [1, 2, 31, 32, 33, 100])
@pytest.mark.parametrize("topology", [NTU25, UCLA20], ids=lambda t: t.name)
def test_robust_alignment_uses_the_principal_direction_of_the_shoulders_and_the_median_size(frames, topology):
    leading = bodies(frames, frames, topology)
    leading[:, topology.shoulders[1]] += (0, 1, 0)
    found, (scale, rotation) = find_transform(leading, topology, ROBUST), literal_robust(leading, topology)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-9)
    assert found.scale == pytest.approx(scale, rel=1e-12)
    np.testing.assert_array_equal(found.origin, leading[0, topology.center])


@pytest.mark.parametrize("camera", range(5))
def test_robust_alignment_works_for_every_horizontal_direction_of_the_shoulders(camera):
    """Covers both formulas for the eigenvector and both signs."""
    leading = np.tile(bodies(9, 1), (6, 1, 1))
    rotated = (leading @ rodrigues(np.array([0.1, 1, 0.2]), camera * 1.3).T).astype(np.float32)
    first, second = (find_transform(xyz, NTU25, ROBUST) for xyz in (leading, rotated))
    rotation = rodrigues(np.array([0.1, 1, 0.2]), camera * 1.3)
    np.testing.assert_allclose(second.rotation @ rotation, first.rotation, atol=1e-6)


def test_robust_alignment_keeps_the_direction_if_a_minority_of_frames_swaps_left_and_right():
    leading = np.tile(bodies(10, 1), (20, 1, 1))
    swapped = leading.copy()
    swapped[:7] = swapped[:7, NTU25.mirror]
    first, second = (find_transform(xyz, NTU25, ROBUST) for xyz in (leading, swapped))
    np.testing.assert_allclose(second.rotation, first.rotation, atol=1e-6)


def test_robust_alignment_ignores_a_minority_of_collapsed_shoulders_and_frames_of_size_zero():
    leading = np.tile(bodies(11, 1), (20, 1, 1))
    damaged = leading.copy()
    damaged[3:9, NTU25.shoulders[0]] = damaged[3:9, NTU25.shoulders[1]]
    np.testing.assert_allclose(
        *(find_transform(xyz, NTU25, ROBUST).rotation for xyz in (leading, damaged)), atol=1e-6
    )
    damaged[12:] = damaged[12:, :1]
    found = find_transform(damaged[10:], NTU25, ROBUST)
    assert found.scale == pytest.approx(find_transform(leading, NTU25, ROBUST).scale)
    assert found.notes == ()


@pytest.mark.parametrize(
    "lines", [[(1, 0, 0), (-1, 0, 0)], [(1, 0, 0), (0, 0, 1)]], ids=["opposite", "orthogonal"]
)
def test_robust_alignment_without_a_unique_direction_is_a_proper_and_deterministic_rotation(lines):
    leading = np.zeros((2, 25, 3), np.float32)
    leading[:, 20] = (0, 1, 0)
    leading[:, 4] = lines
    found, again = (find_transform(leading, NTU25, ROBUST) for _ in range(2))
    np.testing.assert_array_equal(found.rotation, again.rotation)
    np.testing.assert_allclose(found.rotation[2], (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-14)
    assert found.notes == ()


@pytest.mark.parametrize("across", [0.0, 0.7, -0.7], ids=["no line", "parallel", "opposite"])
def test_robust_alignment_notes_a_shoulder_line_without_horizontal_component(across):
    leading = np.zeros((3, 25, 3), np.float32)
    leading[:, 20] = (0.2, 0.3, -0.8)
    leading[:, 4] = across * leading[:, 20]
    found = find_transform(leading, NTU25, ROBUST)
    assert found.notes == (NO_ACROSS,)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(found.rotation) == pytest.approx(1)


def test_robust_alignment_of_a_body_of_size_zero_is_scale_one_camera_axes_and_two_notes():
    found = find_transform(np.ones((4, 25, 3), np.float32), NTU25, ROBUST)
    assert (found.scale, found.notes) == (1.0, (UNSCALED, NO_SPINE))
    np.testing.assert_array_equal(found.rotation, np.eye(3))


@pytest.mark.parametrize("settings", [BODY, ROBUST, RELEASED, NONE], ids=lambda s: s.align)
@pytest.mark.parametrize("seed", range(3))
def test_rotations_are_proper_and_camera_coordinates_are_recovered(settings, seed):
    xyz = bodies(seed, 40)[None]
    clip = normalize("clip", ClipKey(0), persons(xyz), NTU25, settings)
    np.testing.assert_allclose(clip.rotation @ clip.rotation.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(clip.rotation) == pytest.approx(1)
    recorded = clip.joint.astype(float) * clip.scale @ clip.rotation + clip.origin
    np.testing.assert_allclose(recorded, xyz, atol=1e-5)
    assert clip.joint.dtype == np.float32


def test_align_none_keeps_the_camera_axes_but_centres_and_scales():
    xyz = bodies(1)[None]
    clip = normalize("clip", ClipKey(0), persons(xyz), NTU25, NONE)
    np.testing.assert_array_equal(clip.rotation, np.eye(3))
    np.testing.assert_array_equal(clip.joint[0, 0, 0], (0, 0, 0))
    assert np.linalg.norm(clip.joint[0, 0, 20]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("settings", [BODY, ROBUST, RELEASED], ids=lambda s: s.align)
def test_joints_do_not_depend_on_rotation_and_translation_relative_to_the_camera(settings):
    xyz = bodies(2)[None]
    moved = (xyz @ rodrigues(np.array([0.3, 1, -0.2]), 1.1).T + (0.5, -1, 2)).astype(np.float32)
    first, second = (normalize("clip", ClipKey(0), persons(p), NTU25, settings).joint for p in (xyz, moved))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_all_persons_have_the_transform_of_the_leading_person_and_absent_rows_are_zero():
    xyz = np.stack([bodies(3), bodies(4)])
    present = np.ones((2, 7), bool)
    present[0, :2] = present[1, 4] = False
    xyz[~present] = 0
    clip = normalize("clip", ClipKey(0), persons(xyz, present), NTU25, BODY)
    alone = find_transform(xyz[0, 2:], NTU25, BODY)
    np.testing.assert_array_equal(clip.rotation, alone.rotation)
    np.testing.assert_array_equal(clip.origin, xyz[0, 2, 0])
    assert not clip.joint[~present].any()
    recorded = clip.joint[1, 5].astype(float) * clip.scale @ clip.rotation + clip.origin
    np.testing.assert_allclose(recorded, xyz[1, 5], atol=1e-5)


def test_scale_is_the_spine_length_of_the_first_frame_in_which_it_is_not_zero():
    leading = bodies(5)
    leading[:3, 20] = leading[:3, 0]
    found = find_transform(leading, NTU25, BODY)
    assert found.scale == pytest.approx(np.linalg.norm(leading[3, 20].astype(float) - leading[3, 0]))
    assert found.notes == ()


def test_a_spine_of_length_zero_gives_scale_one_camera_axes_and_two_notes():
    leading = bodies(6)
    leading[:, 20] = leading[:, 0]
    found = find_transform(leading, NTU25, BODY)
    assert (found.scale, found.notes) == (1.0, (UNSCALED, NO_SPINE))
    np.testing.assert_array_equal(found.rotation, np.eye(3))


@pytest.mark.parametrize("spine", [(0, 1, 0), (0.99, 0.1, 0), (1, 0, 0), (0.2, 0.3, -0.8)])
@pytest.mark.parametrize("across", [0.0, 0.7, -0.7], ids=["no line", "parallel", "opposite"])
def test_a_shoulder_line_parallel_to_the_spine_leaves_z_on_the_spine_and_is_noted(spine, across):
    leading = np.zeros((1, 25, 3), np.float32)
    leading[0, 20] = spine
    leading[0, 4] = across * np.array(spine)
    found = find_transform(leading, NTU25, BODY)
    assert found.notes == (NO_ACROSS,)
    z = np.array(spine) / np.linalg.norm(spine)
    # x is derived from the camera's x axis, or from its y axis if the spine is nearly parallel to x.
    x = np.eye(3)[0 if abs(z[0]) < 0.9 else 1]
    x = x - (x @ z) * z
    x /= np.linalg.norm(x)
    np.testing.assert_allclose(found.rotation, [x, np.cross(z, x), z], atol=1e-6)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(found.rotation) == pytest.approx(1)


@pytest.mark.parametrize("settings", [BODY, ROBUST], ids=lambda s: s.align)
@pytest.mark.parametrize(("shortest", "notes"), [(2e-6, ()), (5e-7, (NO_ACROSS,))])
def test_a_shoulder_line_shorter_than_a_micrometre_has_no_direction(settings, shortest, notes):
    leading = np.zeros((3, 25, 3), np.float32)
    leading[:, 20] = (0, 0.5, 0)
    leading[:, 4] = (0, 0, shortest)
    found = find_transform(leading, NTU25, settings)
    assert found.notes == notes
    np.testing.assert_allclose(found.rotation[0], (1, 0, 0) if notes else (0, 0, 1), atol=1e-12)


@pytest.mark.parametrize("settings", [BODY, ROBUST], ids=lambda s: s.align)
@pytest.mark.parametrize(("share", "notes"), [(2e-5, ()), (5e-6, (NO_ACROSS,))])
def test_a_shoulder_line_is_parallel_to_the_spine_if_less_than_1e_5_of_it_is_orthogonal(
    settings, share, notes
):
    leading = np.zeros((3, 25, 3), np.float32)
    leading[:, 20] = (0, 0.5, 0)
    leading[:, 4] = (0, 0.7, 0.7 * share)
    assert find_transform(leading, NTU25, settings).notes == notes


@pytest.mark.parametrize(("length", "scale"), [(2e-6, 2e-6), (5e-7, 1)])
def test_a_spine_shorter_than_a_micrometre_has_no_length(length, scale):
    leading = np.zeros((1, 25, 3), np.float32)
    leading[0, 20] = (0, length, 0)
    found = find_transform(leading, NTU25, NONE)
    assert (found.scale, found.notes) == (pytest.approx(scale, rel=1e-6), () if scale < 1 else (UNSCALED,))


def test_axes_are_orthogonal_in_float64_even_if_the_shoulder_line_is_almost_parallel_to_the_spine():
    leading = np.zeros((1, 25, 3), np.float32)
    leading[0, 20] = (0.2, 0.3, -0.8)
    leading[0, 4] = 0.7 * leading[0, 20] + np.float32((6e-5, 0, 0))
    found = find_transform(leading, NTU25, BODY)
    assert found.notes == ()
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-15)


@pytest.mark.parametrize(
    ("frame", "joint", "value"),
    [(3, 5, 3e38), (3, 5, np.inf), (3, 5, np.nan), (0, NTU25.center, np.inf), (0, NTU25.center, np.nan)],
)
def test_positions_outside_the_range_of_float32_are_refused(frame, joint, value):
    xyz = bodies(7)[None]
    xyz[0, frame, joint] = value
    with pytest.raises(RawFormatError, match="out of range"):
        normalize("clip", ClipKey(0), persons(xyz), NTU25, BODY)


@pytest.mark.parametrize(("units", "is_refused"), [(9e8, False), (1.1e9, True)])
def test_positions_of_a_billion_units_are_refused(units, is_refused):
    xyz = bodies(7)[None]
    xyz[0, 3, 5] = (0, units * find_transform(xyz[0], NTU25, NONE).scale, 0)
    if is_refused:
        with pytest.raises(RawFormatError, match="out of range"):
            normalize("clip", ClipKey(0), persons(xyz), NTU25, NONE)
    else:
        assert normalize("clip", ClipKey(0), persons(xyz), NTU25, NONE).joint.max() == pytest.approx(units)


@pytest.mark.parametrize(
    ("far", "notes"),
    [(99, ()), (-101, ("coordinates of up to 101 m: more than 100 m, so perhaps not in metres",))],
)
@pytest.mark.parametrize("whole_body", [True, False], ids=["body", "one joint"])
def test_coordinates_beyond_100_m_are_noted(far, notes, whole_body):
    xyz = np.zeros((1, 3, 25, 3), np.float32)
    xyz[0, :, 20], xyz[0, :, 4] = (0, 0.5, 0), (0.2, 0.4, 0)
    if whole_body:
        xyz[..., 2] = far
    else:
        xyz[0, 1, 7, 2] = far
    assert normalize("clip", ClipKey(0), persons(xyz), NTU25, BODY).notes == notes


def test_positions_are_computed_in_float64_and_rounded_once():
    rng = np.random.default_rng(8)
    xyz = rng.normal(size=(2, 9, 25, 3)).astype(np.float32)
    present = rng.random((2, 9)) < 0.7
    origin, rotation, joint = rng.normal(size=3), rodrigues(rng.normal(size=3), 2.1), np.full_like(xyz, 7)
    largest = kernel.apply_transform(xyz, present, origin, 0.37, rotation, joint)
    literal = (xyz.astype(np.float64) - origin) @ rotation.T / 0.37
    literal[~present] = 0
    np.testing.assert_allclose(joint, literal, rtol=2**-24, atol=1e-12)
    assert largest == np.abs(joint).max()
