"""What a format cannot hold of a dataset, said before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError
from psptool.data.skeletons.topologies import NTU25
from psptool.data.store.reading import Store
from psptool.formats.exchange.formats import ExchangeFormat
from psptool.formats.exchange.positions import Coordinates
from psptool.schemas.split import Split


def losses(
    store: Store,
    form: ExchangeFormat,
    parts: Mapping[str, Sequence[str]],
    coordinates: Coordinates,
    split: Split | None,
    lossy: bool = False,
) -> list[str]:
    """What writing ``parts`` loses, a line each.

    Args:
        store: The dataset.
        form: The format.
        parts: Clip names by part.
        coordinates: The positions to write.
        split: What the parts were taken from.
        lossy: Cut what is too long or too many.

    Raises:
        PspError: The format has no place for the dataset's joints; or frames or persons would be cut, and
            ``lossy`` is false.
    """
    topology = store.manifest.topology
    joints = int(store.array("joint").shape[1])
    if form.joints not in (None, joints):
        raise PspError(
            f"{store.path}: cannot be written as {form.name}",
            f"{joints} joints ({topology})",
            f"{form.joints} joints",
            "Choose --format pyskl or stgcn.",
        )
    own = sorted({name for clips in parts.values() for name in clips})
    everything = form.name == "pyskl"
    rows = np.arange(len(store)) if everything else np.array([store.index(name) for name in own], np.int64)
    lines = _cuts(store, form, rows, lossy)
    if form.name == "stgcn" and topology != NTU25.name:
        lines.append(f"a graph of {joints} joints ({topology}), which its tools need to be given")
    if form.name == "ctrgcn" and (empty := _empty(store, rows)):
        lines.append(
            f"{empty} frames in which nobody is seen: left out, as its feeder takes them for padding"
        )
    if form.name == "stgcn" and (empty := _empty(store, rows, ends=True)):
        lines.append(f"{empty} frames in which nobody is seen at clips' ends: they look like padding")
    if not everything and len(own) < len(store):
        lines.append(f"{len(store) - len(own)} clips that are in no part of the split: left out")
    if split is not None and split.unlabelled and not everything:
        lines.append(f"which {len(split.labelled)} clips of the train part are labelled")
    lines += {
        "recorded": [],
        "centred": ["where each clip's body stands before the camera"],
        "normalized": ["each clip's place before the camera, its scale and its axes"],
    }[coordinates]
    return [*lines, "the joints' tracking states"]


def _cuts(store: Store, form: ExchangeFormat, rows: NDArray[np.int64], lossy: bool) -> list[str]:
    if form.most is None:
        return []
    most_frames, most_persons = form.most
    frames = store.table.frames[rows]
    # An empty frame takes no place where it is left out.
    long = [n for n in rows[frames > most_frames].tolist() if _length(store, n, form) > most_frames]
    crowded = int((store.table.persons[rows] > most_persons).sum())
    lines = [f"frames after number {most_frames}, cut off {len(long)} clips"] if long else []
    lines += [f"persons after number {most_persons}, cut out of {crowded} clips"] if crowded else []
    if lines and not lossy:
        raise PspError(
            f"{store.path}: {form.name} would lose {' and '.join(lines)}",
            expected=f"at most {most_frames} frames and {most_persons} persons",
            fix="Say --lossy to cut them, or choose --format pyskl, which holds all.",
        )
    return lines


def _length(store: Store, index: int, form: ExchangeFormat) -> int:
    clip = store.clip(index)
    return int(clip.present.any(axis=0).sum()) if form.name == "ctrgcn" else clip.joint.shape[1]


def _empty(store: Store, rows: NDArray[np.int64], ends: bool = False) -> int:
    """Frames without anybody; only those after a clip's last body where ``ends``."""
    present = store.array("present")[:]
    table, empty = store.table, 0
    for first, frames, persons in zip(
        table.first_row[rows], table.frames[rows], table.persons[rows], strict=True
    ):
        there = present[first : first + frames * persons].reshape(persons, frames).any(axis=0)
        empty += int(np.argmax(there[::-1])) if ends else int((~there).sum())
    return empty
