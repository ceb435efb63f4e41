"""What follows from the joint names and bones of a skeleton: mirror pairs, body regions, parts, shoulders and spine.

The rules, in the order of their use:

- *Sides*: a name has a side if one of its words is ``left``, ``l``, ``right`` or ``r``. Words are separated by spaces,
  ``_``, ``-``, ``.`` or a capital letter (``LeftKnee``, ``left_knee``, ``lKnee``).
- *Mirror pairs*: two names that differ only in their side.
- *Shoulders*: the first mirror pair with ``shoulder`` in its names, otherwise the first pair; from right to left.
- *Spine*: from the center to the joint where the paths to both shoulders part; to the right shoulder if they part at
  the center.
- *Ankles*: the first mirror pair with ``ankle`` in its names, otherwise with ``foot``; without one, twice the center.
- *Regions*: joints of one side that are connected by bones are a region: an arm or a leg. A bone between a hip and a
  shoulder does not connect. Groups with only head joints (head, eye, ear, nose, ...) and all joints without a side are
  the region ``trunk``. Without mirror pairs, each branch of the bones that begins at the center is a region.
- *Parts*: a region is divided by the words of its joints: hand (hand, finger, thumb, ...) and arm; foot (ankle, foot,
  toe, heel, ...) and leg; head (head, neck, eye, ...) and spine. A region of other joints is divided at half of its
  depth along the bones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

Groups = dict[str, tuple[str, ...]]
"""Joint names by the name of the group."""
Bones = Sequence[tuple[str, str]]
"""Pairs of joint names; together a tree."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_OTHER = {"left": "right", "l": "r", "right": "left", "r": "l"}
_HEAD = {"head", "neck", "nose", "eye", "eyes", "ear", "ears", "mouth", "face", "jaw", "chin", "forehead"}
_HAND = {"hand", "handtip", "finger", "thumb", "tip", "pinky", "index", "palm", "knuckle"}
_FOOT = {"ankle", "foot", "toe", "bigtoe", "smalltoe", "toes", "heel", "ball"}
_ARM = {"arm", "shoulder", "clavicle", "collar", "elbow", "wrist", "forearm", "upperarm"} | _HAND
_LEG = {"leg", "hip", "knee", "thigh", "shin", "calf"} | _FOOT


def words(name: str) -> list[str]:
    """The words of a joint name in lower case: ``LeftHandTip`` is left, hand, tip."""
    return [word.lower() for word in _WORD.findall(name)]


def side_of(name: str) -> str | None:
    """``left`` or ``right``; None for a joint without a side."""
    return next((_SIDES[word] for word in words(name) if word in _SIDES), None)


def mirror_pairs(joints: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(left, right) pairs of names that differ only in their side."""
    by_words = {tuple(words(name)): name for name in joints}
    pairs = []
    for name in joints:
        if side_of(name) == "left":
            other = by_words.get(tuple(_OTHER.get(word, word) for word in words(name)))
            if other is not None:
                pairs.append((name, other))
    return tuple(pairs)


def oriented(joints: Sequence[str], bones: Bones, center: str) -> tuple[tuple[str, str], ...]:
    """The bones as (parent, child), away from ``center``, with the bone to each joint before those from it.

    Bones that are in such an order keep it.
    """
    parents = parents_of(bones, center)
    found = [(a, b) if parents.get(b) == a else (b, a) for a, b in bones]
    place = {child: n for n, (_, child) in enumerate(found)}
    if any(place.get(parent, -1) > n for n, (parent, _) in enumerate(found)):
        order = {joint: n for n, joint in enumerate(parents)}
        found.sort(key=lambda bone: order[bone[1]])
    return tuple(found)


def parents_of(bones: Bones, center: str) -> dict[str, str]:
    """The parent of each joint that is connected with ``center``, which has none; nearer joints first."""
    neighbours: dict[str, list[str]] = {}
    for a, b in bones:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    parents: dict[str, str] = {}
    edge = [center]
    while edge:
        found = []
        for joint in edge:
            for other in neighbours.get(joint, ()):
                if other != center and other not in parents:
                    parents[other] = joint
                    found.append(other)
        edge = found
    return parents


def path_from(joint: str, parents: Mapping[str, str]) -> list[str]:
    """The joints from the center to ``joint``, both included."""
    path = [joint]
    while path[-1] in parents:
        path.append(parents[path[-1]])
    return path[::-1]


def kept_bones(
    bones: Bones, center: str, kept: Sequence[str], new_center: str
) -> tuple[tuple[str, str], ...]:
    """The bones between the joints ``kept``: each is connected with its nearest kept joint towards the center.

    A joint without such a joint is connected with ``new_center``.
    """
    parents = parents_of(bones, center)
    found = []
    for joint in kept:
        nearer = [name for name in path_from(joint, parents)[:-1] if name in kept]
        parent = nearer[-1] if nearer else new_center
        if parent != joint:
            found.append((parent, joint))
    return tuple(found)


def nearest(joint: str, bones: Bones, kept: Sequence[str]) -> str:
    """The joint of ``kept`` that the fewest bones separate from ``joint``; the first one of several."""
    order = [joint, *parents_of(bones, joint)]
    return next((name for name in order if name in kept), kept[0])


def find_shoulders(mirror: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """(right, left) of the line across the body; None without mirror pairs."""
    named = [pair for pair in mirror if "shoulder" in words(pair[0])] or list(mirror)
    return (named[0][1], named[0][0]) if named else None


def find_ankles(mirror: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The first mirror pair with ``ankle`` in its names, otherwise with ``foot``; None without one."""
    return next((pair for word in ("ankle", "foot") for pair in mirror if word in words(pair[0])), None)


def find_spine(bones: Bones, center: str, shoulders: tuple[str, str] | None) -> tuple[str, str] | None:
    """(lower, upper) of the spine; None without shoulders."""
    if shoulders is None:
        return None
    parents = parents_of(bones, center)
    first, second = (path_from(joint, parents) for joint in shoulders)
    shared = [a for a, b in zip(first, second, strict=False) if a == b]
    upper = shared[-1] if shared and shared[-1] != center else shoulders[0]
    return None if upper == center else (center, upper)


def find_regions(
    joints: Sequence[str], bones: Bones, center: str, mirror: Sequence[tuple[str, str]]
) -> Groups:
    """Regions by name, in the order of their first joints; ``trunk`` last."""
    if not mirror:
        return _branches(joints, bones, center)
    paired = {name for pair in mirror for name in pair}
    sides = {name: side_of(name) or "one" for name in paired}
    links = [
        (a, b)
        for a, b in bones
        if a in sides and sides.get(b) == sides[a] and not _joins_hip_and_shoulder(a, b)
    ]
    found: Groups = {}
    trunk = set(joints) - paired
    for group in _connected([name for name in joints if name in paired], links):
        if all(_HEAD & set(words(name)) for name in group):
            trunk |= set(group)
        else:
            found[_unused(_limb_name(group), found)] = group
    if trunk:
        found[_unused("trunk", found)] = tuple(name for name in joints if name in trunk)
    return found


def find_parts(regions: Mapping[str, Sequence[str]], bones: Bones, center: str) -> Groups:
    """The parts of the regions, in the order of the regions."""
    parents = parents_of(bones, center)
    depth = {joint: len(path_from(joint, parents)) for bone in bones for joint in bone}
    found: Groups = {}
    for region, joints in regions.items():
        for part, group in _divided(region, joints, depth).items():
            found[_unused(part, found)] = group
    return found


def _divided(region: str, joints: Sequence[str], depth: Mapping[str, int]) -> Groups:
    """The parts of one region, without empty ones."""
    known = [set(words(name)) for name in joints]
    kind = _kind(joints)
    if kind and region != "trunk":
        outer, its_words = {"arm": ("hand", _HAND), "leg": ("foot", _FOOT)}[kind]
        names = (region, f"{region.rpartition(' ')[0]} {outer}".strip())
        return _two(joints, [bool(name & its_words) for name in known], names)
    if region == "trunk":
        return _two(joints, [bool(name & _HEAD) for name in known], ("spine", "head"))
    levels = sorted({depth.get(name, 0) for name in joints})
    half = levels[len(levels) // 2] if len(levels) > 1 else levels[-1] + 1
    return _two(joints, [depth.get(name, 0) >= half for name in joints], (f"{region} near", f"{region} far"))


def _two(joints: Sequence[str], second: Sequence[bool], names: tuple[str, str]) -> Groups:
    groups = {
        name: tuple(joint for joint, is_second in zip(joints, second, strict=True) if is_second == which)
        for name, which in zip(names, (False, True), strict=True)
    }
    return {name: group for name, group in groups.items() if group}


def _branches(joints: Sequence[str], bones: Bones, center: str) -> Groups:
    """The branches at the center; the center is in the first one."""
    links = [(a, b) for a, b in bones if center not in (a, b)]
    groups = _connected([name for name in joints if name != center], links)
    if not groups:
        return {center: (center,)}
    first = tuple(name for name in joints if name == center or name in groups[0])
    found: Groups = {}
    for group in (first, *groups[1:]):
        found[_unused(next(name for name in group if name != center), found)] = group
    return found


def _connected(joints: Sequence[str], links: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """The groups of ``joints`` that ``links`` connect, in the order of their first joints."""
    owner = {name: name for name in joints}

    def root(name: str) -> str:
        while owner[name] != name:
            name = owner[name]
        return name

    for a, b in links:
        if a in owner and b in owner:
            owner[root(b)] = root(a)
    groups: dict[str, list[str]] = {}
    for name in joints:
        groups.setdefault(root(name), []).append(name)
    return [tuple(group) for group in groups.values()]


def _joins_hip_and_shoulder(a: str, b: str) -> bool:
    first, second = set(words(a)), set(words(b))
    return ("hip" in first and "shoulder" in second) or ("hip" in second and "shoulder" in first)


def _limb_name(group: Sequence[str]) -> str:
    kind, side = _kind(group), side_of(group[0])
    return f"{side} {kind}" if side and kind else group[0]


def _kind(group: Sequence[str]) -> str | None:
    """``arm`` or ``leg`` by the words of the joints; None for others."""
    known = {word for name in group for word in words(name)}
    if known & _LEG and not known & (_ARM - _HAND):
        return "leg"
    return "arm" if known & _ARM else None


def _unused(name: str, used: Iterable[str]) -> str:
    """``name``, with a number behind it if it is in use."""
    taken = set(used)
    return next(one for one in (name, *(f"{name} {n}" for n in range(2, len(taken) + 3))) if one not in taken)
