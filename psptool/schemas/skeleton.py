"""A skeleton in YAML or JSON: joints, bones and what is derived from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator
from typing_extensions import Self

from psptool.common.errors import suggest
from psptool.schemas.base import Strict
from psptool.schemas.problems import Problem, listed, refuse
from psptool.skeletons import derive
from psptool.skeletons.topology import JointGroup, Topology

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
"""A name that becomes part of file names."""
JointName = Annotated[str, StringConstraints(min_length=1, max_length=60, strip_whitespace=True)]
Pair = tuple[JointName, JointName]
Groups = dict[JointName, tuple[JointName, ...]]

MOST_JOINTS = 500


class SkeletonDescription(Strict):
    """Joints and bones of a skeleton by joint name.

    What is not given is derived from joint names and bones: `psptool.skeletons.derive` has the rules.
    """

    name: Name = Field(description="Short name, such as coco17")
    joints: tuple[JointName, ...] = Field(
        min_length=2, max_length=MOST_JOINTS, description="Joint names, in the order of the arrays"
    )
    bones: tuple[Pair, ...] = Field(description="Pairs of connected joints; together a tree over all joints")
    center: JointName | None = Field(None, description="Joint that becomes the origin; by default the first")
    spine: Pair | None = Field(
        None,
        description="Lower and upper joint of the spine: its length is the unit, its direction the z axis",
    )
    shoulders: Pair | None = Field(
        None, description="Right and left joint of the line that becomes the x axis"
    )
    ankles: Pair | None = Field(
        None,
        description="Both ankles: with `align: robust`, the line from their middle to the upper end of the spine is "
        "the z axis",
    )
    released_across: Pair | None = Field(
        None, description="Line for the x axis with `align: released`; by default the shoulders"
    )
    mirror: tuple[Pair, ...] | None = Field(None, description="(left, right) pairs of joints")
    parts: Groups | None = Field(None, description="Joints of each body part; every joint is in one part")
    regions: Groups | None = Field(None, description="Joints of each region; a region is a union of parts")
    dimensions: Literal[2, 3] = Field(3, description="2 for image coordinates, otherwise 3")

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(list(_joint_problems(self)) or list(_problems(self)))
        return self

    @cached_property
    def complete(self) -> CompleteSkeleton:
        """The same skeleton with every derived value given."""
        center = self.center or self.joints[0]
        mirror = derive.mirror_pairs(self.joints) if self.mirror is None else self.mirror
        shoulders = self.shoulders or derive.find_shoulders(mirror)
        spine = self.spine or derive.find_spine(self.bones, center, shoulders)
        # Only 2D skeletons may have neither; for them, any bone gives the unit and no axis is needed.
        spine = spine or self.bones[0]
        shoulders = shoulders or spine
        regions, parts = self.regions, self.parts
        if regions is None:
            regions = derive.find_regions(self.joints, self.bones, center, mirror)
            if parts is not None:
                regions = _unions(regions, parts, self.joints)
        if parts is None:
            parts = derive.find_parts(regions, self.bones, center)
        return CompleteSkeleton(
            name=self.name,
            joints=self.joints,
            bones=derive.oriented(self.joints, self.bones, center),
            center=center,
            spine=spine,
            shoulders=shoulders,
            ankles=self.ankles or derive.find_ankles(mirror) or (center, center),
            released_across=self.released_across or shoulders,
            mirror=tuple(mirror),
            parts=parts,
            regions=regions,
            dimensions=self.dimensions,
        )

    @cached_property
    def topology(self) -> Topology:
        """The skeleton with 0-based joint indices."""
        full, index = self.complete, {name: n for n, name in enumerate(self.joints)}
        partner = list(range(len(self.joints)))
        for left, right in full.mirror:
            partner[index[left]], partner[index[right]] = index[right], index[left]

        def pair(names: tuple[str, str]) -> tuple[int, int]:
            return index[names[0]], index[names[1]]

        def groups(named: Mapping[str, Sequence[str]]) -> tuple[JointGroup, ...]:
            return tuple(JointGroup(name, tuple(index[j] for j in joints)) for name, joints in named.items())

        return Topology(
            name=self.name,
            joints=self.joints,
            bones=tuple(map(pair, full.bones)),
            parts=groups(full.parts),
            regions=groups(full.regions),
            mirror=tuple(partner),
            center=index[full.center],
            spine=pair(full.spine),
            shoulders=pair(full.shoulders),
            ankles=pair(full.ankles),
            released_across=pair(full.released_across),
            dimensions=self.dimensions,
        )

    def subset(self, kept: Sequence[str]) -> SkeletonDescription:
        """The skeleton of the joints ``kept``, in their order.

        A joint is connected with the nearest kept joint towards the center. The center and the ends of the spine and
        of the shoulders are replaced by the nearest kept joints if they are not kept. If that gives two equal ends,
        they are derived anew. If they cannot be derived, the spine ends at the joint that is farthest from the center
        along the bones, first among those without a side, and the shoulders are the spine.
        """
        full = self.complete
        there = set(kept)
        center = derive.nearest(full.center, full.bones, kept)

        def pair(names: tuple[str, str]) -> tuple[str, str] | None:
            found = (derive.nearest(names[0], full.bones, kept), derive.nearest(names[1], full.bones, kept))
            return found if found[0] != found[1] else None

        def groups(named: Mapping[str, Sequence[str]]) -> Groups:
            kept_groups = {name: tuple(j for j in joints if j in there) for name, joints in named.items()}
            return {name: joints for name, joints in kept_groups.items() if joints}

        bones = derive.kept_bones(full.bones, full.center, kept, center)
        mirror = tuple(both for both in full.mirror if there >= set(both))
        shoulders = pair(full.shoulders) or derive.find_shoulders(mirror)
        spine = pair(full.spine) or derive.find_spine(bones, center, shoulders)
        if spine is None:
            farthest = list(derive.parents_of(bones, center))[::-1]
            sided = {name for both in full.mirror for name in both}
            spine = (center, next((name for name in farthest if name not in sided), farthest[0]))
        return SkeletonDescription(
            name=self.name if len(kept) == len(self.joints) else f"{self.name}-{len(kept)}"[:40],
            joints=tuple(kept),
            bones=bones,
            center=center,
            spine=spine,
            shoulders=shoulders or spine,
            ankles=full.ankles if there >= set(full.ankles) else (center, center),
            released_across=pair(full.released_across),
            mirror=mirror,
            parts=groups(full.parts),
            regions=groups(full.regions),
            dimensions=self.dimensions,
        )

    def renamed(self, names: Mapping[str, str]) -> SkeletonDescription:
        """The skeleton with other joint names."""

        def new(value: Any) -> Any:
            if isinstance(value, str):
                return names.get(value, value)
            return tuple(map(new, value)) if isinstance(value, tuple) else value

        values = {key: getattr(self, key) for key in type(self).model_fields}
        changed = {
            key: new(value) for key, value in values.items() if key not in ("name", "parts", "regions")
        }
        for key in ("parts", "regions"):
            if values[key] is not None:
                changed[key] = {name: new(joints) for name, joints in values[key].items()}
        return SkeletonDescription(name=self.name, **changed)


class CompleteSkeleton(SkeletonDescription):
    """A skeleton with every value given."""

    center: JointName
    spine: Pair
    shoulders: Pair
    ankles: Pair
    released_across: Pair
    mirror: tuple[Pair, ...]
    parts: Groups
    regions: Groups


def _unions(regions: Groups, parts: Groups, joints: Sequence[str]) -> Groups:
    """The derived regions as unions of the given parts: a part belongs to the region of its first joint."""
    owner = {joint: name for name, group in regions.items() for joint in group}
    chosen = {joint: owner[group[0]] for group in parts.values() for joint in group}
    found = {name: tuple(joint for joint in joints if chosen.get(joint) == name) for name in regions}
    return {name: group for name, group in found.items() if group}


def _joint_problems(given: SkeletonDescription) -> Iterable[Problem]:
    """Repeated joints and unknown names."""
    repeated = sorted({name for name in given.joints if given.joints.count(name) > 1})
    if repeated:
        yield Problem(
            "joints", f"{listed(repeated)} more than once", "different names", "Rename or remove them."
        )
    places: list[tuple[str, str]] = [
        (f"bones.{n}", name) for n, bone in enumerate(given.bones) for name in bone
    ]
    places += [("center", given.center)] if given.center is not None else []
    for key in ("spine", "shoulders", "ankles", "released_across"):
        places += [(key, name) for name in getattr(given, key) or ()]
    places += [("mirror", name) for both in given.mirror or () for name in both]
    places += [(f"parts.{key}", name) for key, group in (given.parts or {}).items() for name in group]
    places += [(f"regions.{key}", name) for key, group in (given.regions or {}).items() for name in group]
    for key, name in places:
        if name not in given.joints:
            fix = suggest(name, given.joints) or f"The joints are {listed(given.joints, 40)}."
            yield Problem(key, repr(name), "one of the joints", fix)


def _problems(given: SkeletonDescription) -> Iterable[Problem]:
    """Mistakes in the bones, pairs and groups of known joints."""
    root = given.center or given.joints[0]
    reached = {root, *derive.parents_of(given.bones, root)}
    lost = [name for name in given.joints if name not in reached]
    if lost:
        yield Problem(
            "bones", f"no way from {root!r} to {listed(lost)}", "bones that connect all joints",
            f"Add a bone for {lost[0]!r}.",
        )  # fmt: skip
    elif len(given.bones) != len(given.joints) - 1:
        yield Problem(
            "bones", f"{len(given.bones)} bones, so that some joints are connected twice",
            f"{len(given.joints) - 1}, one fewer than joints", "Remove the bones that close a circle.",
        )  # fmt: skip
    for key in ("spine", "shoulders", "released_across"):
        ends = getattr(given, key)
        if ends is not None and ends[0] == ends[1]:
            yield Problem(key, f"{ends[0]!r} twice", "two different joints", "Name the two ends.")
    yield from _mirror_problems(given)
    yield from _group_problems(given)
    if given.dimensions == 3 and not lost:
        mirror = derive.mirror_pairs(given.joints) if given.mirror is None else given.mirror
        shoulders = given.shoulders or derive.find_shoulders(mirror)
        if shoulders is None:
            yield Problem(
                "shoulders", "nothing", "[right joint, left joint]: no two joint names differ in left and right",
                "Add for example shoulders: [right shoulder, left shoulder].",
            )  # fmt: skip
        elif given.spine is None and derive.find_spine(given.bones, root, shoulders) is None:
            yield Problem(
                "spine", "nothing", "[lower joint, upper joint]: it cannot be derived",
                "Add for example spine: [hips, neck].",
            )  # fmt: skip


def _mirror_problems(given: SkeletonDescription) -> Iterable[Problem]:
    names = [name for both in given.mirror or () for name in both]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        yield Problem(
            "mirror", f"{listed(repeated)} more than once", "each joint once", "Remove the second pair."
        )


def _group_problems(given: SkeletonDescription) -> Iterable[Problem]:
    """Parts and regions that overlap, leave out a joint, or do not agree."""
    for key in ("parts", "regions"):
        groups: Groups | None = getattr(given, key)
        if groups is None:
            continue
        names = [name for group in groups.values() for name in group]
        repeated = sorted({name for name in names if names.count(name) > 1})
        missing = [name for name in given.joints if name not in names]
        if repeated:
            yield Problem(
                key, f"{listed(repeated)} more than once", "each joint once", "Remove the repeated ones."
            )
        if missing:
            yield Problem(key, f"no group with {listed(missing)}", "every joint", "Add them to a group.")
        empty = [name for name, group in groups.items() if not group]
        if empty:
            yield Problem(
                f"{key}.{empty[0]}", "no joints", "at least one", "Remove the group, or add joints."
            )
    if given.parts and given.regions:
        owner = {name: region for region, group in given.regions.items() for name in group}
        for part, group in given.parts.items():
            regions = sorted({owner[name] for name in group if name in owner})
            if len(regions) > 1:
                yield Problem(
                    f"parts.{part}", f"joints of the regions {listed(regions)}", "joints of one region",
                    "Divide the part.",
                )  # fmt: skip
