"""Topologies, compared with tables of 1-based joints copied by hand from the documentation."""

from __future__ import annotations

import pytest

from psptool.schemas.builtin_skeletons import builtin_skeleton, skeleton_names
from psptool.skeletons.topology import Topology
from tests.builtin import NTU25, UCLA20

# One letter per joint, in joint order: left arm L, right arm R, left leg G, right leg H, trunk T.
NTU_REGIONS = "TTTTLLLLRRRRGGGGHHHHTLLRR"
UCLA_REGIONS = "TTTTLLLLRRRRGGGGHHHH"
# Spine S, head D, left arm A and hand a, right arm B and hand b, left leg C and foot c, right leg E and foot e.
NTU_PARTS = "SSDDAAAaBBBbCCccEEeeSaabb"
UCLA_PARTS = "SSDDAAAaBBBbCCccEEee"
REGION_LETTERS = {"left arm": "L", "right arm": "R", "left leg": "G", "right leg": "H", "trunk": "T"}
PART_LETTERS = {
    "spine": "S", "head": "D", "left arm": "A", "left hand": "a", "right arm": "B", "right hand": "b",
    "left leg": "C", "left foot": "c", "right leg": "E", "right foot": "e",
}  # fmt: skip
# 1-based parent of each joint; 0 for the root.
NTU_PARENTS = [0, 1, 21, 3, 21, 5, 6, 7, 21, 9, 10, 11, 1, 13, 14, 15, 1, 17, 18, 19, 2, 8, 8, 12, 12]
UCLA_PARENTS = [0, 1, 2, 3, 3, 5, 6, 7, 3, 9, 10, 11, 1, 13, 14, 15, 1, 17, 18, 19]

both = pytest.mark.parametrize("topology", [NTU25, UCLA20], ids=["ntu25", "kinect20"])
every = pytest.mark.parametrize("topology", [builtin_skeleton(name).topology for name in skeleton_names()])


def _letters(topology: Topology, groups, letters) -> str:
    of_joint = ["?"] * topology.size
    for group in groups:
        for joint in group.joints:
            assert of_joint[joint] == "?", f"joint {joint} is in two groups"
            of_joint[joint] = letters[group.name]
    return "".join(of_joint)


@pytest.mark.parametrize(("topology", "expected"), [(NTU25, NTU_REGIONS), (UCLA20, UCLA_REGIONS)])
def test_body_regions_are_those_of_the_paper(topology, expected):
    assert _letters(topology, topology.regions, REGION_LETTERS) == expected


@pytest.mark.parametrize(("topology", "expected"), [(NTU25, NTU_PARTS), (UCLA20, UCLA_PARTS)])
def test_parts_are_those_of_the_paper(topology, expected):
    assert _letters(topology, topology.parts, PART_LETTERS) == expected


@pytest.mark.parametrize(("topology", "parents"), [(NTU25, NTU_PARENTS), (UCLA20, UCLA_PARENTS)])
def test_bones_are_those_of_the_sensor(topology, parents):
    assert {child + 1: parent + 1 for parent, child in topology.bones} == {
        joint: parent for joint, parent in enumerate(parents, start=1) if parent
    }


@every
def test_bones_are_a_tree_from_the_centre_with_parents_first(topology):
    reached = {topology.center}
    for parent, child in topology.bones:
        assert parent in reached
        assert child not in reached
        reached.add(child)
    assert reached == set(range(topology.size))


@every
def test_each_part_is_within_one_body_region(topology):
    for part, region in zip(topology.parts, topology.part_to_region, strict=True):
        assert set(part.joints) <= set(topology.regions[region].joints)


@every
def test_each_part_belongs_to_the_body_region_of_the_same_limb(topology):
    names = {
        part.name: topology.regions[b].name
        for part, b in zip(topology.parts, topology.part_to_region, strict=True)
    }
    limb = {"spine": "trunk", "head": "trunk", "hand": "arm", "foot": "leg"}
    for part, region in names.items():
        side, _, piece = part.rpartition(" ")
        assert region == f"{side} {limb.get(piece, piece)}".strip()


@every
def test_joint_to_part_and_joint_to_region_agree_with_the_groups(topology):
    for joint in range(topology.size):
        assert joint in topology.parts[topology.joint_to_part[joint]].joints
        assert joint in topology.regions[topology.joint_to_region[joint]].joints


@every
def test_mirror_is_an_involution_that_swaps_left_and_right_names(topology):
    for joint, partner in enumerate(topology.mirror):
        assert topology.mirror[partner] == joint
        swapped = topology.joints[joint].replace("left", "#").replace("right", "left").replace("#", "right")
        assert topology.joints[partner] == swapped


@every
def test_mirror_keeps_the_midline(topology):
    sideless = {j for j, name in enumerate(topology.joints) if "left" not in name and "right" not in name}
    assert {j for j, partner in enumerate(topology.mirror) if j == partner} == sideless


@both
def test_mirror_maps_bones_to_bones_and_groups_to_groups(topology):
    mirror = topology.mirror
    assert {(mirror[a], mirror[b]) for a, b in topology.bones} == set(topology.bones)
    for groups in (topology.parts, topology.regions):
        sets = {frozenset(group.joints) for group in groups}
        assert {frozenset(mirror[j] for j in group) for group in sets} == sets


def test_axes_of_ntu_are_those_of_the_method():
    assert (NTU25.center + 1, *[j + 1 for j in NTU25.spine]) == (1, 1, 21)
    assert [j + 1 for j in NTU25.shoulders] == [9, 5]
    assert [j + 1 for j in NTU25.ankles] == [15, 19]
    assert [j + 1 for j in NTU25.released_across] == [21, 6]


def test_axes_of_ucla_use_the_corresponding_joints():
    names = UCLA20.joints
    assert names[UCLA20.center] == "hip centre"
    assert [names[j] for j in UCLA20.spine] == ["hip centre", "shoulder centre"]
    assert [names[j] for j in UCLA20.shoulders] == ["right shoulder", "left shoulder"]
    assert [names[j] for j in UCLA20.ankles] == ["left ankle", "right ankle"]
    assert [names[j] for j in UCLA20.released_across] == ["shoulder centre", "left elbow"]


def test_joint_counts():
    assert (NTU25.size, UCLA20.size) == (25, 20)
    assert [len(t.parts) for t in (NTU25, UCLA20)] == [10, 10]
    assert [len(t.regions) for t in (NTU25, UCLA20)] == [5, 5]
