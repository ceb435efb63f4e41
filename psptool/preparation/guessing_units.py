"""Guessing the frame rate of recordings from times, and the unit of length from positions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np

from psptool.common.errors import PspError
from psptool.formats.readers.base import FileRef
from psptool.formats.readers.making import make_readers
from psptool.formats.readers.sources import read_clip
from psptool.preparation.interpolation import is_missing
from psptool.preparation.plausibility import fitting_unit
from psptool.schemas.description import DatasetDescription

RATES = (5.0, 500.0)
"""Plausible frame rates, per second."""
EXTENTS, USUAL = (0.1, 4.0), 1.5
"""Plausible sizes of a body in metres, and that of a human in most poses."""
_TIME = re.compile(
    r"(time|t|timestamp|seconds?|secs?|s|milliseconds?|msecs?|ms)([_ ./(\[]*(s|secs?|seconds?|ms)[)\]]?)?"
)
_MOST_TIMES = 10_000


def time_column(columns: Sequence[str]) -> int | None:
    """The index of the column with times, such as ``Time`` or ``time_ms``; None without one."""
    return next((n for n, name in enumerate(columns) if _TIME.fullmatch(name.strip().lower())), None)


def frame_rate(texts: Iterable[str]) -> tuple[float, str] | None:
    """Frames per second, and the unit of the times: seconds, or milliseconds if only those are plausible.

    Args:
        texts: The times of the frames, as in the file; several rows may have one time.

    Returns:
        None if the times are not ascending numbers, or no unit is plausible.
    """
    try:
        times = np.array([float(text.replace(",", ".")) for text in islice(texts, _MOST_TIMES)])
    except ValueError:
        return None
    steps = np.diff(times)
    if not np.isfinite(times).all() or (steps < 0).any() or not (steps > 0).any():
        return None
    steps = steps[steps > 0]
    # The mean of the usual steps: rounded times have steps of several sizes, and gaps have large ones.
    step = float(steps[np.abs(steps - np.median(steps)) <= np.median(steps) / 2].mean())
    for unit, per_second in (("seconds", 1.0), ("milliseconds", 1000.0)):
        rate = per_second / step
        if RATES[0] <= rate <= RATES[1]:
            whole = round(rate)
            return (whole if abs(rate - whole) <= 5e-4 * rate else round(rate, 2)), unit
    return None


def unit(values: Mapping[str, Any], files: Sequence[FileRef]) -> tuple[str, float] | None:
    """The unit of length in which the joints of a 3D recording have the size of a body, and their size in the files.

    Args:
        values: The guessed description; bones and classes are not used.
        files: The first recordings; the first one that can be read is used.

    Returns:
        None if no recording can be read, or no unit is plausible.
    """
    found = _extent(values, files)
    fitting = None if found is None else fitting_unit(found, EXTENTS, USUAL)
    return None if found is None or fitting is None else (fitting[0], found)


def _extent(values: Mapping[str, Any], files: Sequence[FileRef]) -> float | None:
    """The largest side of the box around the joints of a frame, in the unit of the files; the median over frames."""
    try:
        (reader,) = make_readers(_without_bones(values), any_name=True)
        sources, _ = reader.find(list(files))
    except (PspError, ValueError):
        return None
    for source in sources[: len(files)]:
        try:
            xyz = reader.parse(source, read_clip(source)).xyz.copy()  # (B, V, 3)
        except PspError:
            continue
        xyz[is_missing(xyz)] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # frames without joints
            sides = np.nanmax(xyz, axis=1) - np.nanmin(xyz, axis=1)  # (B, 3)
            extent = float(np.nanmedian(sides.max(axis=1))) if len(sides) else np.nan
        if extent > 0:
            return extent
    return None


def _without_bones(values: Mapping[str, Any]) -> DatasetDescription:
    """A description that reads the recordings: bones of an own skeleton are a chain, names are not parsed."""
    skeleton = values["skeleton"]
    if isinstance(skeleton, Mapping):
        joints = skeleton["joints"]
        chain = [list(pair) for pair in pairwise(joints)]
        skeleton = {**skeleton, "bones": chain, "spine": joints[:2], "shoulders": joints[:2]}
    own = {key: values[key] for key in ("name", "format", "dimensions") if key in values}
    clips = {"pattern": "(?P<label>[a-z]+)"}
    return DatasetDescription.model_validate(
        {**own, "skeleton": skeleton, "clips": clips, "classes": ["first", "second"]}
    )
