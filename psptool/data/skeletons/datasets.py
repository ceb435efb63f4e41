"""The datasets as tables of facts: topology, classes, how clip names read, and the evaluation protocols.

Another dataset is another table here and a reader in ``psptool.formats.readers``; no other room changes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from psptool.data.skeletons.names import NTU_CLASSES, UCLA_CLASSES
from psptool.data.skeletons.topologies import NTU25, UCLA20
from psptool.data.skeletons.topology import Topology

UpAxis = Literal["y", "z"]
"""A vertical coordinate axis that points up."""


class ClipKey(NamedTuple):
    """What a clip's name says. Labels count from 0, all else as the dataset counts; -1 where it has no such field."""

    label: int
    subject: int = -1
    camera: int = -1
    setup: int = -1
    repetition: int = -1


UNNAMED = ClipKey(-1)
"""The key of a recording whose name says nothing."""


@dataclass(frozen=True)
class Protocol:
    """Who is trained on and who is tested on.

    Attributes:
        name: The field's name, such as ``xsub``.
        field: The `ClipKey` field that decides: subject, camera or setup.
        train: The field's values that stand for training.
        test: The values for test; None means every other one.
        label_counts: Labelled clips a class by ratio, the convention of ASSL and its successors; empty where the
            field has none.
    """

    name: str
    field: str
    train: frozenset[int]
    test: frozenset[int] | None = None
    label_counts: Mapping[float, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """One dataset's facts.

    Attributes:
        name: As in file names: ``ntu60``, ``ntu120``, ``ucla``.
        topology: Its joints.
        class_names: Indexed by label.
        parse: The key of a clip name (a file's stem), or None where the name is none of this dataset's.
        protocols: By name, the default first.
        performance: The key's fields that clips of one performance, seen by several cameras, share.
        test_views: Cameras that may be chosen as the test view; empty where the protocol is fixed.
        up: Vertical axis of the recorded coordinates.
    """

    name: str
    topology: Topology
    class_names: tuple[str, ...]
    parse: Callable[[str], ClipKey | None]
    protocols: Mapping[str, Protocol]
    performance: tuple[str, ...]
    test_views: tuple[int, ...] = ()
    up: UpAxis = "y"


_NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", re.ASCII)
_UCLA_NAME = re.compile(r"a(\d{2})_s(\d{2})_e(\d{2})_v(\d{2})", re.ASCII)
# NW-UCLA's labels follow the order of its action numbers, which leave out 7 and 10.
UCLA_ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)


def parse_ntu(name: str) -> ClipKey | None:
    """The key of ``SsssCcccPpppRrrrAaaa``; None where the name or its action (1 to 120) is none of NTU's."""
    match = _NTU_NAME.fullmatch(name)
    if match is None:
        return None
    setup, camera, subject, repetition, action = map(int, match.groups())
    if not 1 <= action <= len(NTU_CLASSES):
        return None
    return ClipKey(action - 1, subject, camera, setup, repetition)


def parse_ucla(name: str) -> ClipKey | None:
    """The key of ``aNN_sNN_eNN_vNN``; None where the name or its action number is none of NW-UCLA's."""
    match = _UCLA_NAME.fullmatch(name)
    if match is None or int(match[1]) not in UCLA_ACTIONS:
        return None
    action, subject, episode, view = map(int, match.groups())
    return ClipKey(UCLA_ACTIONS.index(action), subject, view, repetition=episode)


_XSUB60 = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
_XSUB120 = _XSUB60 | frozenset(
    {45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89}
    | {91, 92, 93, 94, 95, 97, 98, 100, 103}
)
_XSUB_COUNTS = {0.05: 33, 0.1: 66, 0.2: 132, 0.4: 264}
_XVIEW_COUNTS = {0.05: 31, 0.1: 62, 0.2: 124, 0.4: 248}
_UCLA_COUNTS = {0.05: 5, 0.15: 15, 0.3: 30, 0.4: 40}
_NTU_PERFORMANCE = ("setup", "subject", "repetition", "label")

NTU60 = Dataset(
    "ntu60",
    NTU25,
    NTU_CLASSES[:60],
    parse_ntu,
    {
        "xsub": Protocol("xsub", "subject", _XSUB60, label_counts=_XSUB_COUNTS),
        "xview": Protocol("xview", "camera", frozenset({2, 3}), frozenset({1}), _XVIEW_COUNTS),
    },
    _NTU_PERFORMANCE,
)
NTU120 = Dataset(
    "ntu120",
    NTU25,
    NTU_CLASSES,
    parse_ntu,
    {
        "xsub": Protocol("xsub", "subject", _XSUB120),
        "xset": Protocol("xset", "setup", frozenset(range(2, 33, 2))),
    },
    _NTU_PERFORMANCE,
)
UCLA = Dataset(
    "ucla",
    UCLA20,
    UCLA_CLASSES,
    parse_ucla,
    {"xview": Protocol("xview", "camera", frozenset({1, 2}), frozenset({3}), _UCLA_COUNTS)},
    ("label", "subject", "repetition"),
    test_views=(1, 2, 3),
)

DATASETS = {dataset.name: dataset for dataset in (NTU60, NTU120, UCLA)}
