"""The readers of a dataset: the only place that maps the format of a description to readers.

To add a format, add its options to `psptool.schemas.description.Format` and its readers to `_READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from psptool.formats.readers.adapted import Adapted
from psptool.formats.readers.arrays import ArraysReader
from psptool.formats.readers.base import ClipSource, RawClip, Reader
from psptool.formats.readers.naming import KeyOf
from psptool.formats.readers.ntu import NtuReader
from psptool.formats.readers.poses import PosesReader
from psptool.formats.readers.pyskl import PysklReader
from psptool.formats.readers.segments import SegmentReader
from psptool.formats.readers.table import TableReader
from psptool.formats.readers.ucla import UclaJsonReader, UclaTextReader
from psptool.schemas import builtin
from psptool.schemas.description import DatasetDescription
from psptool.schemas.formats import PosesOptions
from psptool.skeletons.keys import UpAxis
from psptool.skeletons.topology import Topology


def _general(
    make: Callable[[Topology, Any, KeyOf | None, Sequence[str | None]], Reader],
) -> Callable[[DatasetDescription, bool], tuple[Reader, ...]]:
    """The reader of a general format, which selects the joints itself."""

    def readers(description: DatasetDescription, any_name: bool) -> tuple[Reader, ...]:
        key_of = None if any_name or not description.keys_in_names else description.parse
        return (make(description.topology, description.format, key_of, description.in_files),)

    return readers


def _fixed(
    *makers: Callable[[bool, DatasetDescription], Reader],
) -> Callable[[DatasetDescription, bool], tuple[Reader, ...]]:
    """The readers of a format with a fixed list of joints, of which the description selects some."""

    def readers(description: DatasetDescription, any_name: bool) -> tuple[Reader, ...]:
        made = tuple(make(any_name, description) for make in makers)
        in_files, topology = description.in_files, description.topology
        if topology.joints == in_files:
            return made
        positions = [in_files.index(name) for name in topology.joints]
        return tuple(JointSelection(reader, topology, positions) for reader in made)

    return readers


def _poses(
    topology: Topology, options: PosesOptions, key_of: KeyOf | None, joints: Sequence[str | None]
) -> Reader:
    """The reader of SLEAP's files, which name their joints; their order is not needed."""
    return PosesReader(topology, options, key_of)


_READERS: dict[str, Callable[[DatasetDescription, bool], tuple[Reader, ...]]] = {
    "arrays": _general(ArraysReader),
    "table": _general(TableReader),
    "pyskl": _general(PysklReader),
    "poses": _general(_poses),
    "ntu": _fixed(NtuReader),
    "ucla": _fixed(UclaJsonReader, UclaTextReader),
}
"""The readers by the format of the description: several if recordings of one dataset have several forms."""


class JointSelection(Adapted):
    """A reader whose clips have the joints of the description: those that are kept, in their order.

    Args:
        reader: The reader of all joints in the files.
        topology: The joints of the clips.
        positions: For each joint of the clips, its position in the files.
    """

    def __init__(self, reader: Reader, topology: Topology, positions: Sequence[int]) -> None:
        super().__init__(reader, topology)
        self.positions = list(positions)

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """The clip with the chosen joints; errors as in the reader."""
        clip = self.reader.parse(source, blobs)
        return replace(
            clip,
            xyz=np.ascontiguousarray(clip.xyz[:, self.positions]),
            state=np.ascontiguousarray(clip.state[:, self.positions]),
        )


class OtherCoordinates(Adapted):
    """A reader of positions in another unit than metres, or with another vertical axis than y.

    Args:
        reader: The reader of the files.
        metres: Length of the unit in metres.
        up: The vertical axis.
    """

    def __init__(self, reader: Reader, metres: float, up: UpAxis) -> None:
        super().__init__(reader, reader.topology)
        self.metres, self.up = metres, up

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """The clip in metres; errors as in the reader."""
        clip = self.reader.parse(source, blobs)
        xyz = clip.xyz if self.metres == 1 else clip.xyz * np.float32(self.metres)
        return replace(clip, xyz=xyz, up=self.up)


def make_readers(description: DatasetDescription, any_name: bool = False) -> tuple[Reader, ...]:
    """The readers of a dataset's recordings.

    Args:
        description: The dataset.
        any_name: Also find recordings whose names are not clip names, without label, for prediction.
    """
    readers = _READERS[description.format.reader](description, any_name)
    if description.metres != 1 or description.up != "y":
        readers = tuple(OtherCoordinates(one, description.metres, description.up) for one in readers)
    if description.clips.table is not None:
        readers = tuple(map(SegmentReader, readers))
    return readers


def builtin_readers(any_name: bool = False) -> tuple[tuple[DatasetDescription, Reader], ...]:
    """The readers of the built-in datasets, each with the largest dataset of its format."""
    largest: dict[str, DatasetDescription] = {}
    for one in builtin.builtin_datasets():
        known = largest.get(one.format.reader)
        if known is None or len(one.class_names) > len(known.class_names):
            largest[one.format.reader] = one
    return tuple((one, reader) for one in largest.values() for reader in make_readers(one, any_name))
