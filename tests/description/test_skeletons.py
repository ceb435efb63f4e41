"""Properties derived from joint names and bones, and skeletons with fewer, other or renamed joints."""

from __future__ import annotations

from typing import Any

import pytest

from psptool.schemas.builtin_skeletons import builtin_skeleton, skeleton_names
from psptool.schemas.skeleton import SkeletonDescription
from psptool.skeletons import derive

DERIVED = ("parts", "regions", "mirror", "shoulders")


def sets(groups: dict[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    return {name: frozenset(joints) for name, joints in groups.items()}


def make(**values: Any) -> SkeletonDescription:
    return SkeletonDescription(name="own", **values)


def chain(*joints: str) -> list[tuple[str, str]]:
    return [(joints[n], joints[n + 1]) for n in range(len(joints) - 1)]


def test_the_built_in_skeletons_have_these_numbers_of_joints() -> None:
    found = {name: builtin_skeleton(name).topology.size for name in skeleton_names()}
    assert found == {
        "azure32": 32, "coco17": 17, "h36m17": 17, "kinect20": 20, "mediapipe33": 33, "ntu25": 25, "openpose18": 18,
        "openpose25": 25,
    }  # fmt: skip
    flat = {name for name in skeleton_names() if builtin_skeleton(name).dimensions == 2}
    assert flat == {"coco17", "openpose18", "openpose25"}


def test_derived_parts_regions_mirror_pairs_and_axes_of_ntu_are_those_of_the_paper() -> None:
    given = builtin_skeleton("ntu25")
    derived = given.model_copy(update=dict.fromkeys((*DERIVED, "spine"))).complete
    assert sets(derived.parts) == sets(given.complete.parts)
    assert sets(derived.regions) == sets(given.complete.regions)
    assert set(derived.mirror) == set(given.complete.mirror)
    assert (derived.spine, derived.shoulders) == (given.spine, given.shoulders)


@pytest.mark.parametrize("name", skeleton_names())
def test_every_built_in_skeleton_has_two_arms_two_legs_and_a_trunk(name: str) -> None:
    full = builtin_skeleton(name).complete
    assert set(full.regions) == {"left arm", "right arm", "left leg", "right leg", "trunk"}
    for side in ("left", "right"):
        assert f"{side} wrist" in full.regions[f"{side} arm"]
        assert f"{side} knee" in full.regions[f"{side} leg"]
    assert full.complete == full


@pytest.mark.parametrize("left", ["left knee", "knee_left", "LeftKnee", "l_knee", "lKnee", "knee.L", "LKnee"])
def test_left_and_right_are_recognised_in_all_spellings(left: str) -> None:
    swapped = {"left": "right", "Left": "Right", "l": "r", "L": "R"}
    word = next(word for word in ("left", "Left") if word in left) if "eft" in left else None
    if word is None:
        word = next(w for w in ("l_", "lK", ".L", "LK") if w in left)
        right = left.replace(word, word.replace("l", "r").replace("L", "R"))
    else:
        right = left.replace(word, swapped[word])
    assert derive.mirror_pairs(["hips", left, right]) == ((left, right),)


def test_without_sides_each_branch_is_a_region_divided_at_half_its_depth() -> None:
    bones = [*chain("root", "a1", "a2", "a3", "a4"), *chain("root", "b1", "b2")]
    own = make(joints=["root", "a1", "a2", "a3", "a4", "b1", "b2"], bones=bones, dimensions=2)
    assert own.complete.regions == {"a1": ("root", "a1", "a2", "a3", "a4"), "b1": ("b1", "b2")}
    assert own.complete.parts["a1 far"] == ("a2", "a3", "a4")
    assert own.topology.size == 7


def test_given_regions_or_parts_are_kept_and_the_missing_groups_are_derived_from_them() -> None:
    arms = {
        "left arm": ["left shoulder", "left hand"],
        "right arm": ["right shoulder", "right hand"],
        "rest": ["hip", "neck"],
    }
    joints = ["hip", "neck", *arms["left arm"], *arms["right arm"]]
    bones = [("hip", "neck"), ("neck", "left shoulder"), ("neck", "right shoulder")]
    bones += [(f"{side} shoulder", f"{side} hand") for side in ("left", "right")]
    by_regions = make(joints=joints, bones=bones, regions=arms).complete
    assert set(by_regions.parts) == {
        "left arm",
        "left hand",
        "right arm",
        "right hand",
        "rest",
    }
    by_parts = make(joints=joints, bones=bones, parts={"upper": joints[1:], "lower": ["hip"]}).complete
    assert set(by_parts.parts) == {"upper", "lower"}
    assert {frozenset(group) for group in by_parts.regions.values()} <= {
        frozenset(joints),
        frozenset(joints[1:]),
        frozenset({"hip"}),
    }


def test_bones_may_be_given_in_any_direction_and_order() -> None:
    given = builtin_skeleton("ntu25")
    flipped = given.model_copy(update={"bones": tuple((b, a) for a, b in reversed(given.bones))})
    assert set(flipped.topology.bones) == set(given.topology.bones)
    assert given.topology.bones == SkeletonDescription(**given.model_dump()).topology.bones


@pytest.mark.parametrize("name", skeleton_names())
@pytest.mark.parametrize(
    "kept", [("arm", "trunk"), ("wrist", "ankle", "head", "nose"), ("knee", "shoulder")], ids=" ".join
)
def test_a_subset_of_a_skeleton_is_a_valid_skeleton(name: str, kept: tuple[str, ...]) -> None:
    full = builtin_skeleton(name).complete
    of_regions = {
        joint for region, joints in full.regions.items() for joint in joints if region.endswith(kept)
    }
    joints = [joint for joint in full.joints if joint in of_regions or joint.endswith(kept)]
    subset = full.subset(joints)
    assert subset.joints == tuple(joints)
    topology = subset.topology
    assert len(topology.bones) == topology.size - 1
    assert sorted(topology.joint_to_region) == sorted(topology.joint_to_region)
    assert len(topology.joint_to_part) == topology.size
    assert topology.spine[0] != topology.spine[1]
    assert topology.shoulders[0] != topology.shoulders[1]


def test_the_upper_body_keeps_center_spine_and_shoulders() -> None:
    full = builtin_skeleton("kinect20")
    upper = full.subset([joint for joint in full.joints if not joint.endswith(("knee", "ankle", "foot"))])
    assert (upper.complete.center, upper.complete.spine) == ("hip centre", ("hip centre", "shoulder centre"))
    assert upper.name == "kinect20-14"
    assert set(upper.complete.regions) == set(full.complete.regions)


def test_bones_skip_removed_joints() -> None:
    full = builtin_skeleton("kinect20")
    subset = full.subset(["hip centre", "head", "left hand", "right hand", "left foot"])
    assert set(subset.bones) == {
        ("hip centre", "head"), ("hip centre", "left hand"), ("hip centre", "right hand"), ("hip centre", "left foot")
    }  # fmt: skip


def test_renaming_joints_changes_only_their_names() -> None:
    full = builtin_skeleton("kinect20").complete
    renamed = full.renamed({"head": "Kopf", "hip centre": "Becken"})
    assert renamed.topology.bones == full.topology.bones
    assert renamed.topology.parts == full.topology.parts
    assert (renamed.center, renamed.joints[3]) == ("Becken", "Kopf")
