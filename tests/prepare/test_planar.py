"""Normalization in 2D compared with literal formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from psptool.preparation.normalize import UNSCALED, normalize
from psptool.preparation.planar import find_planar_transform
from psptool.preparation.tracks import Persons
from psptool.schemas.dataset import Align, PreparationSettings
from psptool.skeletons.keys import ClipKey
from psptool.skeletons.topology import JointGroup, Topology

LEFT_HIP, RIGHT_HIP, LEFT_SHOULDER, RIGHT_SHOULDER = 2, 3, 4, 5
JOINTS = ("hips", "neck", "left hip", "right hip", "left shoulder", "right shoulder")
MIDLINE = Topology(
    name="flat6",
    joints=JOINTS,
    bones=((0, 1), (0, 2), (0, 3), (1, 4), (1, 5)),
    parts=(JointGroup("hips", (0, 2, 3)), JointGroup("shoulders", (1, 4, 5))),
    regions=(JointGroup("hips", (0, 2, 3)), JointGroup("shoulders", (1, 4, 5))),
    mirror=(0, 1, 3, 2, 5, 4),
    center=0,
    spine=(0, 1),
    shoulders=(RIGHT_SHOULDER, LEFT_SHOULDER),
    ankles=(0, 0),
    released_across=(RIGHT_SHOULDER, LEFT_SHOULDER),
    dimensions=2,
)
SIDES = replace(MIDLINE, center=RIGHT_HIP, spine=(RIGHT_HIP, RIGHT_SHOULDER))
"""As COCO's 17 joints, a skeleton without joints on the midline of the body."""


def bodies(frames: int = 6) -> np.ndarray:
    """(P, V, 3) in pixels, z = 0."""
    xyz = np.random.default_rng(0).uniform(100, 900, (frames, len(JOINTS), 3)).astype(np.float32)
    xyz[..., 2] = 0
    return xyz


def persons(xyz: np.ndarray) -> Persons:
    present = np.ones(xyz.shape[:2], bool)
    return Persons(xyz, present, np.full(xyz.shape[:3], 255, np.uint8))


def prepared(xyz: np.ndarray, topology=MIDLINE, align: Align = "body"):
    return normalize("clip", ClipKey(0), persons(xyz), topology, PreparationSettings(align=align))


def test_origin_is_the_center_joint_and_scale_the_median_spine_length() -> None:
    xyz = bodies(5)
    origin, unit = find_planar_transform(xyz, MIDLINE)
    lengths = sorted(
        math.dist(frame[MIDLINE.spine[0]].tolist(), frame[MIDLINE.spine[1]].tolist()) for frame in xyz
    )
    assert origin.tolist() == xyz[0, MIDLINE.center].tolist()
    assert unit == pytest.approx(lengths[2], rel=1e-12)


def test_without_midline_joints_the_midpoints_of_hips_and_shoulders_are_used() -> None:
    xyz = bodies(5)
    origin, unit = find_planar_transform(xyz, SIDES)
    lengths = []
    for frame in xyz.astype(float):
        hips = (frame[LEFT_HIP] + frame[RIGHT_HIP]) / 2
        shoulders = (frame[LEFT_SHOULDER] + frame[RIGHT_SHOULDER]) / 2
        lengths.append(math.sqrt(sum((shoulders - hips) ** 2)))
    first = xyz[0].astype(float)
    np.testing.assert_allclose(origin, (first[LEFT_HIP] + first[RIGHT_HIP]) / 2, rtol=1e-12)
    assert unit == pytest.approx(sorted(lengths)[2], rel=1e-12)


def test_frames_with_a_torso_of_length_zero_are_ignored() -> None:
    xyz = bodies(3)
    xyz[0, MIDLINE.spine[1]] = xyz[0, MIDLINE.spine[0]]
    lengths = [
        math.dist(frame[MIDLINE.spine[0]].tolist(), frame[MIDLINE.spine[1]].tolist()) for frame in xyz[1:]
    ]
    assert find_planar_transform(xyz, MIDLINE)[1] == pytest.approx(sum(lengths) / 2, rel=1e-12)
    xyz[:, MIDLINE.spine[1]] = xyz[:, MIDLINE.spine[0]]
    assert find_planar_transform(xyz, MIDLINE)[1] is None
    clip = prepared(xyz[None])
    assert (clip.scale, clip.notes) == (1.0, (UNSCALED,))


@pytest.mark.parametrize("align", ["body", "released", "none"])
def test_a_clip_keeps_its_axes_and_its_plane_and_can_be_recovered(align: Align) -> None:
    xyz = np.stack([bodies(), bodies() + np.float32([50, 20, 0])])
    clip = prepared(xyz, align=align)
    assert clip.rotation.tolist() == np.eye(3).tolist()
    assert not clip.joint[..., 2].any()
    assert clip.notes == ()  # no warning that pixels are implausible as metres
    origin, unit = find_planar_transform(xyz[0], MIDLINE)
    expected = (xyz.astype(float) - origin) / unit
    np.testing.assert_allclose(clip.joint, expected, atol=1e-5)
    np.testing.assert_allclose(clip.joint * clip.scale @ clip.rotation + clip.origin, xyz, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "offset"), [(0.25, (300, -70, 0)), (0.001, (0, 0, 0))], ids=["pixels", "0 to 1"]
)
def test_joints_do_not_depend_on_position_and_size_in_the_image(
    size: float, offset: tuple[float, float, float]
) -> None:
    xyz = bodies()[None]
    moved = (xyz * size + np.float32(offset)).astype(np.float32)
    np.testing.assert_allclose(prepared(xyz).joint, prepared(moved).joint, atol=1e-4)
