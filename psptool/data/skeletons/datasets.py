"""The supported datasets: topology, classes, format of the clip names, and evaluation protocols.

To add a dataset, add a `Dataset` here and a reader in ``psptool.formats.readers``. No other package changes.
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
"""The vertical coordinate axis; it points up."""
FRAME_RATE = 30
"""Frames per second of all recordings: Kinect v1 (NW-UCLA) and Kinect v2 (NTU RGB+D)."""


class ClipKey(NamedTuple):
    """The numbers in a clip's name. Labels are 0-based, other numbers as in the dataset; -1: no such field."""

    label: int
    subject: int = -1
    camera: int = -1
    setup: int = -1
    repetition: int = -1


UNNAMED = ClipKey(-1)
"""The key of a recording whose name does not follow a dataset's convention."""


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol: which clips are for training and which for test.

    Attributes:
        name: Name in the literature, such as ``xsub``.
        field: The `ClipKey` field that divides the clips: subject, camera or setup.
        train: Values of the field for training.
        test: Values of the field for test; None for all other values.
        label_counts: Labelled clips per class by label ratio, as in ASSL and its successors. Empty if the literature
            has no such counts for the protocol.
    """

    name: str
    field: str
    train: frozenset[int]
    test: frozenset[int] | None = None
    label_counts: Mapping[float, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """The constants of one dataset.

    Attributes:
        name: Name in file names and on the command line: ``ntu60``, ``ntu120``, ``ucla``.
        topology: Joints and bones.
        class_names: Class names, indexed by label.
        parse: Function from a clip name (the file's stem) to its key, or None for a name of another dataset.
        protocols: Evaluation protocols by name; the first is the default.
        performance: The `ClipKey` fields that all views of one performance share.
        test_views: Cameras that can be chosen as the test view; empty if the protocols are fixed.
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
    """The key of a name ``SsssCcccPpppRrrrAaaa``; None for other names and for actions outside 1 to 120."""
    match = _NTU_NAME.fullmatch(name)
    if match is None:
        return None
    setup, camera, subject, repetition, action = map(int, match.groups())
    if not 1 <= action <= len(NTU_CLASSES):
        return None
    return ClipKey(action - 1, subject, camera, setup, repetition)


def parse_ucla(name: str) -> ClipKey | None:
    """The key of a name ``aNN_sNN_eNN_vNN``; None for other names and for action numbers that NW-UCLA does not have."""
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
