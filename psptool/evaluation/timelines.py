"""Classifies the windows of long recordings, each prepared like a clip of its own.

A recording is parsed once. Its windows are prepared and classified in batches, so that memory depends on the size of
one recording and not on its number of windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from psptool.common.errors import PspError, RawFormatError
from psptool.common.version import __version__
from psptool.data.store.arrays import PreparedClip
from psptool.evaluation.models import TrainedModel
from psptool.evaluation.predicting import (
    BATCH,
    check_top,
    classify,
    find_recordings,
    none_usable,
    predicted_by,
)
from psptool.formats.readers.ahead import ReadAhead
from psptool.formats.readers.base import ClipSource, RawClip, Reader
from psptool.formats.readers.segments import cut
from psptool.formats.readers.sources import read_clip
from psptool.preparation.pipeline import ProgressCallback
from psptool.preparation.worker import left_out, notes_of, prepare_raw
from psptool.schemas.timeline import PredictedWindow, Timeline, Timelines

BATCH_FRAMES = 2**15
"""Largest number of frames in a batch of several windows."""


def predict_windows(
    model: TrainedModel,
    paths: Sequence[Path],
    window: float,
    stride: float | None = None,
    *,
    top: int = 5,
    logits: bool = False,
    on_progress: ProgressCallback | None = None,
) -> Timelines:
    """The most probable actions in each window of each recording in ``paths``.

    Args:
        model: The model; windows are prepared and sampled as clips in its configuration.
        paths: Files, folders, zip and tar archives, in a raw format with the model's joints.
        window: Length of a window in seconds, at the frame rate of the dataset.
        stride: Seconds from the start of a window to the next; by default half a window.
        top: Actions per window, at most K.
        logits: Include the logits of all classes.
        on_progress: Called after every recording with the numbers of recordings done and in total.

    Raises:
        PspError: A path does not exist, no recording is usable, ``window`` or ``stride`` is not a positive number of
            at least one frame, ``stride`` is larger than ``window``, ``top`` is below 1, or logits are not finite.
    """
    check_top(top)
    rate = model.config.description.frame_rate
    length, step = window_frames(window, stride, rate)
    found, unusable = find_recordings(paths, model.config.description)
    total, done = sum(len(sources) for _, sources in found), 0
    timelines: list[Timeline] = []
    for reader, sources in found:
        ahead = ReadAhead(sources)
        for source in map(ahead.attach, sources):
            try:
                recording = reader.parse(source, read_clip(source))
                spans = window_spans(recording.frames, length, step)
                windows = _windows(model, reader, source, recording, spans, top, logits)
                timelines.append(
                    Timeline(
                        name=source.name,
                        source=str(source.files[0]),
                        frames=recording.frames,
                        notes=(*recording.notes, *_shorter(recording.frames, length, rate)),
                        windows=tuple(windows),
                    )
                )
            except RawFormatError as error:
                unusable.append(left_out(source, error))
            done += 1
            if on_progress is not None:
                on_progress(done, total)
    if not timelines:
        raise none_usable(unusable)
    return Timelines(
        **predicted_by(model),
        frame_rate=rate,
        window=length,
        stride=step,
        recordings=tuple(sorted(timelines, key=lambda one: (one.name, one.source))),
        unusable=tuple(unusable),
        tool_version=__version__,
    )


def window_frames(window: float, stride: float | None, frame_rate: float) -> tuple[int, int]:
    """Frames of a window, and from one window to the next, rounded to whole frames.

    Args:
        window: Seconds.
        stride: Seconds; by default half a window.
        frame_rate: Frames per second.

    Raises:
        PspError: A number is not positive, is less than one frame, or the stride is larger than the window. Then some
            frames would be in no window.
    """
    length = _frames("--window", window, frame_rate)
    if stride is None:
        return length, _rounded(length / 2)
    step = _frames("--stride", stride, frame_rate)
    if step > length:
        raise PspError(
            "--stride", f"{stride:g} s", f"at most the {window:g} s of --window, so that no frame is left out"
        )
    return length, step


def window_spans(frames: int, length: int, step: int) -> list[tuple[int, int]]:
    """First and last frame of each window, 0-based and included.

    The last window ends with the recording. A recording that is not longer than a window is one window.

    Args:
        frames: Frames of the recording.
        length: Frames of a window.
        step: Frames from one window to the next.
    """
    end = max(frames - length, 0)
    return [(first, min(first + length, frames) - 1) for first in (*range(0, end, step), end)]


def _shorter(frames: int, length: int, rate: float) -> tuple[str, ...]:
    """A note if the recording is shorter than a window."""
    if frames >= length:
        return ()
    return (f"shorter than a window of {length / rate:.4g} s: one window of {frames / rate:.4g} s",)


def _frames(option: str, seconds: float, frame_rate: float) -> int:
    if not (math.isfinite(seconds) and seconds > 0):
        raise PspError(option, f"{seconds:g}", "a positive number of seconds")
    if (frames := _rounded(seconds * frame_rate)) < 1:
        raise PspError(
            option, f"{seconds:g} s", f"at least one frame, {1 / frame_rate:.3g} s at {frame_rate:g} frames/s"
        )
    return frames


def _rounded(frames: float) -> int:
    return math.floor(frames + 0.5)


def _windows(
    model: TrainedModel,
    reader: Reader,
    source: ClipSource,
    recording: RawClip,
    spans: Sequence[tuple[int, int]],
    top: int,
    logits: bool,
) -> list[PredictedWindow]:
    """The windows of a recording with their predictions.

    Raises:
        RawFormatError: No window can be classified; the error is that of the first one.
    """
    length = spans[0][1] + 1
    batch = max(1, min(BATCH, BATCH_FRAMES // length))
    windows, problem = [], None
    for start in range(0, len(spans), batch):
        part = spans[start : start + batch]
        prepared = [_prepared(model, reader, source, recording, span) for span in part]
        problem = problem or next((one for one in prepared if isinstance(one, RawFormatError)), None)
        usable = [clip for clip in prepared if isinstance(clip, PreparedClip)]
        found = iter(classify(model, usable, top, logits))
        for span, clip in zip(part, prepared, strict=True):
            window = _window(span, clip, recording.first_frame, model.config.description.frame_rate)
            if not window.reason:
                classified = next(found)
                window = window.model_copy(update=classified._asdict())
            windows.append(window)
    if problem is not None and all(window.reason for window in windows):
        raise problem
    return windows


def _prepared(
    model: TrainedModel, reader: Reader, source: ClipSource, recording: RawClip, span: tuple[int, int]
) -> PreparedClip | RawFormatError:
    """A window, prepared like a clip of its own; the error if it cannot be."""
    first, last = (frame + recording.first_frame for frame in span)
    try:
        clip = cut(recording, source._replace(segment=(first, last)))
        # Notes on the recording are not about its windows.
        return prepare_raw(replace(clip, notes=()), reader.topology, model.config.preparation)
    except RawFormatError as error:
        return error


def _window(
    span: tuple[int, int], clip: PreparedClip | RawFormatError, first_frame: int, frame_rate: float
) -> PredictedWindow:
    """A window without its prediction."""
    first, last = span
    window = PredictedWindow(
        first=first + first_frame,
        last=last + first_frame,
        start=first / frame_rate,
        end=(last + 1) / frame_rate,
        persons=0,
    )
    if isinstance(clip, RawFormatError):
        return window.model_copy(update={"reason": clip.reason})
    return window.model_copy(update={"persons": clip.persons, "notes": notes_of(clip)})
