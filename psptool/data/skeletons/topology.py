"""What a skeleton topology is: a table of facts about joints, with no code of its own beyond looking things up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class JointGroup:
    """A named set of joints, such as a part or a body region; joints count from 0."""

    name: str
    joints: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """Joints and how they hang together. All joint numbers count from 0.

    The pyramid's groups are those of PSP Learning (Xu and Shu, arXiv 2302.02327) and its released code.

    Attributes:
        name: Short name, such as ``ntu25``.
        joints: Joint names; their order is the V axis everywhere.
        bones: (parent, child) pairs, V - 1 of them: a tree rooted at `center`.
        parts: The pyramid's middle level; disjoint, and together all joints.
        regions: The pyramid's top level; each is a union of parts.
        mirror: For each joint the one on the other side of the body, itself on the midline.
        center: The joint that becomes the origin.
        spine: (lower, upper) joint of the line whose length is the unit and whose direction becomes z.
        shoulders: (from, to) joints of the line whose horizontal part becomes x (``align: body``).
        released_across: The same line as the released code takes it (``align: released``).
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
    released_across: tuple[int, int]

    @property
    def size(self) -> int:
        """V, the number of joints."""
        return len(self.joints)

    @cached_property
    def joint_to_part(self) -> tuple[int, ...]:
        """For each joint the index of its part."""
        return _owner(self.parts, range(self.size))

    @cached_property
    def joint_to_region(self) -> tuple[int, ...]:
        """For each joint the index of its body region."""
        return _owner(self.regions, range(self.size))

    @cached_property
    def part_to_region(self) -> tuple[int, ...]:
        """For each part the index of its body region."""
        return tuple(self.joint_to_region[part.joints[0]] for part in self.parts)


def groups(**numbers: tuple[int, ...]) -> tuple[JointGroup, ...]:
    """Groups from joint numbers as the datasets' documentation counts them, from 1; ``_`` in a name is a space."""
    return tuple(
        JointGroup(name.replace("_", " "), tuple(n - 1 for n in joints)) for name, joints in numbers.items()
    )


def pairs(*numbers: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Pairs of joint numbers counted from 1, as pairs counted from 0."""
    return tuple((a - 1, b - 1) for a, b in numbers)


def mirror(size: int, *numbers: tuple[int, int]) -> tuple[int, ...]:
    """The left-right permutation of ``size`` joints from (left, right) pairs counted from 1."""
    partner = list(range(size))
    for left, right in pairs(*numbers):
        partner[left], partner[right] = right, left
    return tuple(partner)


def _owner(owners: tuple[JointGroup, ...], joints: range) -> tuple[int, ...]:
    return tuple(next(g for g, group in enumerate(owners) if joint in group.joints) for joint in joints)
