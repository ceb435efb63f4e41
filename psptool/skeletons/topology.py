"""The skeleton topology: joints, bones, and the joint groups of the body-part pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class JointGroup:
    """A named group of joints, such as a body part or a body region; 0-based joint indices."""

    name: str
    joints: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """Joints, bones and joint groups of a skeleton. Joint indices are 0-based.

    The groups are those of PSP Learning (Xu and Shu, arXiv 2302.02327) and its original implementation.

    Attributes:
        name: Short name, such as ``ntu25``.
        joints: Joint names, in the order of the V axis of all arrays.
        bones: V - 1 pairs (parent, child), a tree rooted at `center`.
        parts: Middle level of the pyramid: disjoint groups that cover all joints.
        regions: Top level of the pyramid: each region is a union of parts.
        mirror: For each joint, its counterpart on the other side of the body; the joint itself on the midline.
        center: The joint that becomes the origin.
        spine: (lower, upper) joint of the spine. Its length becomes the unit, its direction the z axis.
        shoulders: (from, to) joints of the shoulder line. Its horizontal part becomes the x axis (``align: body`` and
            ``robust``).
        ankles: Both ankles. The line from them to the upper end of the spine becomes the z axis (``align: robust``).
        released_across: The line that the original implementation uses for the x axis (``align: released``).
        dimensions: 3, or 2 for image coordinates, whose z is zero.
    """

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    parts: tuple[JointGroup, ...]
    regions: tuple[JointGroup, ...]
    mirror: tuple[int, ...]
    center: int
    spine: tuple[int, int]
    shoulders: tuple[int, int]
    ankles: tuple[int, int]
    released_across: tuple[int, int]
    dimensions: int = 3

    @property
    def size(self) -> int:
        """V, the number of joints."""
        return len(self.joints)

    @cached_property
    def levels(self) -> dict[str, tuple[JointGroup, ...]]:
        """Joint groups of each level of the pyramid, coarse to fine. At the joint level, each joint is a group."""
        joints = tuple(JointGroup(name, (number,)) for number, name in enumerate(self.joints))
        return {"body": self.regions, "part": self.parts, "joint": joints}

    @cached_property
    def joint_to_part(self) -> tuple[int, ...]:
        """Index of the part of each joint."""
        return _owner(self.parts, range(self.size))

    @cached_property
    def joint_to_region(self) -> tuple[int, ...]:
        """Index of the region of each joint."""
        return _owner(self.regions, range(self.size))

    @cached_property
    def part_to_region(self) -> tuple[int, ...]:
        """Index of the region of each part."""
        return tuple(self.joint_to_region[part.joints[0]] for part in self.parts)


def _owner(owners: tuple[JointGroup, ...], joints: range) -> tuple[int, ...]:
    return tuple(next(g for g, group in enumerate(owners) if joint in group.joints) for joint in joints)
