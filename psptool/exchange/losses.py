"""The information that is lost in an export, determined before any file is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError
from psptool.common.text import counted
from psptool.data.store.reading import Store, StoredClip
from psptool.exchange.formats import ExchangeFormat
from psptool.exchange.positions import Coordinates
from psptool.schemas.split import Split
from psptool.skeletons.keys import NO_LABEL


def losses(
    store: Store,
    form: ExchangeFormat,
    parts: Mapping[str, Sequence[str]],
    coordinates: Coordinates,
    split: Split | None,
    lossy: bool = False,
) -> list[str]:
    """The information that is lost when ``parts`` are written, one line each.

    Args:
        store: The dataset.
        form: The format.
        parts: Clip names by part.
        coordinates: Coordinate system of the positions.
        split: The split from which the parts were made, if any.
        lossy: Allow cutting frames and persons beyond the format's limits.

    Raises:
        PspError: The format does not support the dataset's number of joints; or frames or persons would be cut, and
            ``lossy`` is false.
    """
    topology = store.manifest.topology.name
    joints = int(store.array("joint").shape[1])
    if form.joints not in (None, joints):
        raise PspError(
            f"--format {form.name}: does not support {store.path}",
            f"{joints} joints ({topology})",
            f"{form.joints} joints",
            "Use --format pyskl or stgcn.",
        )
    own = sorted({name for clips in parts.values() for name in clips})
    rows = (
        np.arange(len(store)) if form.all_clips else np.array([store.index(name) for name in own], np.int64)
    )
    lines = _cuts(store, form, rows, lossy)
    if form.graph not in (None, topology):
        lines.append(f"the graph of {joints} joints ({topology}): its tools need it as a setting")
    if form.empty_frames == "removed" and (empty := _empty(store, rows)):
        lines.append(
            f"{counted(empty, 'frame')} without persons: removed, because its feeder treats them as padding"
        )
    if form.empty_frames == "padding" and (empty := _empty(store, rows, ends=True)):
        lines.append(f"{counted(empty, 'frame')} without persons at the end of clips: they look like padding")
    if form.all_clips and (unlabelled := int((store.table.label == NO_LABEL).sum())):
        lines.append(f"{counted(unlabelled, 'clip')} without a label: in no list")
    if not form.all_clips and len(own) < len(store):
        lines.append(
            f"{counted(len(store) - len(own), 'clip')} without a label or in no part of the split: not exported"
        )
    if split is not None and not form.all_clips and {*parts["train"]} != {*split.labelled}:
        lines.append(f"which {counted(len(split.labelled), 'clip')} of the training part are labelled")
    lines += {
        "recorded": [],
        "centred": ["the position of the body relative to the camera"],
        "normalized": ["the origin, scale and axes of each clip relative to the camera"],
    }[coordinates]
    return [*lines, "the tracking states of the joints"]


def _cuts(store: Store, form: ExchangeFormat, rows: NDArray[np.int64], lossy: bool) -> list[str]:
    """Frames and persons beyond the format's limits, one line each.

    Raises:
        PspError: There are some, and ``lossy`` is false.
    """
    if form.most is None:
        return []
    most_frames, most_persons = form.most
    frames = store.table.frames[rows]
    # Frames that the format removes do not count.
    candidates = store.clips(rows[frames > most_frames].tolist())
    long = sum(_length(clip, form) > most_frames for clip in candidates)
    crowded = int((store.table.persons[rows] > most_persons).sum())
    lines = [f"frames after the first {most_frames} in {counted(long, 'clip')}"] if long else []
    lines += [f"persons after the first {most_persons} in {counted(crowded, 'clip')}"] if crowded else []
    if lines and not lossy:
        raise PspError(
            f"--format {form.name}: would lose {' and '.join(lines)} of {store.path}",
            expected=f"at most {most_frames} frames and {most_persons} persons per clip",
            fix="Use --lossy to cut them, or --format pyskl, which has no limits.",
        )
    return lines


def _length(clip: StoredClip, form: ExchangeFormat) -> int:
    """Number of frames that the format writes."""
    return int(clip.present.any(axis=0).sum()) if form.empty_frames == "removed" else clip.joint.shape[1]


def _empty(store: Store, rows: NDArray[np.int64], ends: bool = False) -> int:
    """Number of frames without persons; if ``ends``, only those at the end of a clip."""
    present = store.array("present")[:]
    table, empty = store.table, 0
    for first, frames, persons in zip(
        table.first_row[rows], table.frames[rows], table.persons[rows], strict=True
    ):
        there = present[first : first + frames * persons].reshape(persons, frames).any(axis=0)
        empty += int(np.argmax(there[::-1])) if ends else int((~there).sum())
    return empty
