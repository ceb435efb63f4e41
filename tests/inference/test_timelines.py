"""Windows of long recordings: their frames, and their classification as separate clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.evaluation import timelines
from psptool.evaluation.models import open_model
from psptool.evaluation.predicting import find_recordings, predict
from psptool.evaluation.timelines import predict_windows, window_frames, window_spans
from psptool.formats.readers.base import ClipSource, RawClip
from psptool.schemas.timeline import Timelines

from .test_predicting import files_of, folder  # noqa: F401

NO_BODY = [[0, 0, 0]] * 20


@pytest.mark.parametrize(
    ("frames", "length", "step", "expected"),
    [
        (10, 4, 2, [(0, 3), (2, 5), (4, 7), (6, 9)]),
        (11, 4, 2, [(0, 3), (2, 5), (4, 7), (6, 9), (7, 10)]),
        (9, 4, 4, [(0, 3), (4, 7), (5, 8)]),
        (8, 4, 4, [(0, 3), (4, 7)]),
        (5, 4, 3, [(0, 3), (1, 4)]),
        (4, 4, 2, [(0, 3)]),
        (3, 4, 2, [(0, 2)]),
        (1, 4, 2, [(0, 0)]),
        (3, 1, 1, [(0, 0), (1, 1), (2, 2)]),
    ],
)
def test_windows_start_at_multiples_of_the_stride_and_the_last_ends_at_the_last_frame(
    frames: int, length: int, step: int, expected: list[tuple[int, int]]
) -> None:
    assert window_spans(frames, length, step) == expected


@pytest.mark.parametrize(
    ("window", "stride", "rate", "expected"),
    [
        (2, 0.5, 30, (60, 15)),
        (2, None, 30, (60, 30)),
        (1, None, 15, (15, 8)),
        (0.5, 0.5, 15, (8, 8)),
        (0.033, None, 30, (1, 1)),
        (1, 1, 29.97, (30, 30)),
    ],
)
def test_window_and_stride_are_rounded_to_whole_frames(
    window: float, stride: float | None, rate: float, expected: tuple[int, int]
) -> None:
    assert window_frames(window, stride, rate) == expected


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (0, None, "--window: found 0, expected a positive number of seconds"),
        (-1, None, "--window: found -1, expected a positive"),
        (float("nan"), None, "--window: found nan, expected a positive"),
        (float("inf"), None, "--window: found inf, expected a positive"),
        (0.01, None, "--window: found 0.01 s, expected at least one frame, 0.0333 s at 30 frames/s"),
        (2, 0, "--stride: found 0, expected a positive"),
        (2, 0.01, "--stride: found 0.01 s, expected at least one frame"),
        (2, 3, "--stride: found 3 s, expected at most the 2 s of --window, so that no frame is left out"),
    ],
)
def test_invalid_windows_and_strides_are_refused(window: float, stride: float | None, message: str) -> None:
    with pytest.raises(PspError) as error:
        window_frames(window, stride, 30)
    assert str(error.value).startswith(message)


def skeletons(file: Path) -> list[object]:
    found: list[object] = json.loads(file.read_text())["skeletons"]
    return found


def write(path: Path, frames: list[object]) -> Path:
    path.write_text(json.dumps({"skeletons": frames}))
    return path


def test_each_window_of_two_concatenated_clips_has_the_logits_of_a_file_with_its_frames(
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    one, other = (skeletons(file) for file in (files_of(folder)[0], files_of(folder)[-1]))
    both, length = one + other, min(len(one), len(other))
    model = open_model(folder / "run")
    found = predict_windows(
        model, [write(tmp_path / "long.json", both)], length / 30, length / 60, top=10, logits=True
    )
    (timeline,) = found.recordings
    assert (found.window, found.frame_rate, timeline.frames) == (length, 30, len(both))
    assert len(timeline.windows) >= 3
    logits = []
    for window in timeline.windows:
        assert window.last - window.first + 1 == length
        assert (window.start, window.end) == (window.first / 30, (window.last + 1) / 30)
        alone = write(tmp_path / "alone.json", both[window.first : window.last + 1])
        (clip,) = predict(model, [alone], top=10, logits=True).clips
        np.testing.assert_allclose(window.logits, clip.logits, rtol=1e-5, atol=1e-5)
        assert window.top[0].label == clip.top[0].label
        assert (window.persons, window.reason) == (1, "")
        logits.append(window.logits)
    assert timeline.windows[-1].last == len(both) - 1
    assert not np.allclose(logits[0], logits[-1], atol=1e-3)


def test_a_recording_shorter_than_a_window_is_one_window_with_the_prediction_of_its_clip(
    folder: Path,  # noqa: F811
) -> None:
    model = open_model(folder / "run")
    found = predict_windows(model, [folder / "raw"], 1000, logits=True)
    clips = predict(model, [folder / "raw"], logits=True).clips
    assert [timeline.name for timeline in found.recordings] == [clip.name for clip in clips]
    for timeline, clip in zip(found.recordings, clips, strict=True):
        (window,) = timeline.windows
        assert (window.first, window.last) == (0, clip.frames - 1)
        np.testing.assert_allclose(window.logits, clip.logits, rtol=1e-5, atol=1e-5)
        assert timeline.source == clip.source
        note = f"shorter than a window of 1000 s: one window of {clip.frames / 30:.4g} s"
        assert timeline.notes == (note,)
    exact = predict_windows(model, [folder / "raw"], clips[0].frames / 30)
    assert exact.recordings[0].notes == ()


def test_windows_without_a_body_are_reported_and_the_others_are_classified(
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    frames = skeletons(files_of(folder)[0])[:20]
    long = write(tmp_path / "long.json", [*frames, *[NO_BODY] * 20, *frames])
    write(tmp_path / "empty.json", [NO_BODY] * 40)
    found = predict_windows(open_model(folder / "run"), [tmp_path], 10 / 30, 10 / 30)
    (timeline,) = found.recordings
    assert timeline.source == str(long)
    assert [window.reason for window in timeline.windows] == ["", "", "no body", "no body", "", ""]
    assert [bool(window.top) for window in timeline.windows] == [True, True, False, False, True, True]
    assert [window.persons for window in timeline.windows] == [1, 1, 0, 0, 1, 1]
    (unusable,) = found.unusable
    assert (unusable.name, unusable.reason) == ("empty", "no body")
    found.save(tmp_path / "timeline.json")
    assert Timelines.load(tmp_path / "timeline.json") == found


def test_recordings_without_a_usable_one_are_an_error(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    write(tmp_path / "empty.json", [NO_BODY] * 40)
    with pytest.raises(PspError, match=r"1 recording found, of which none can be used.*no body"):
        predict_windows(open_model(folder / "run"), [tmp_path], 1)


class _Numbered:
    """A reader whose recordings have first frame 100; it counts the recordings it parses."""

    def __init__(self, reader: object) -> None:
        self.reader, self.topology, self.parsed = reader, reader.topology, 0  # type: ignore[attr-defined]

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        self.parsed += 1
        return replace(self.reader.parse(source, blobs), first_frame=100)  # type: ignore[attr-defined]


def test_a_recording_is_parsed_once_and_windows_have_its_frame_numbers(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write(tmp_path / "long.json", skeletons(files_of(folder)[0])[:20])
    model = open_model(folder / "run")
    plain = predict_windows(model, [file], 4 / 30, logits=True).recordings[0].windows
    found, unusable = find_recordings([file], model.config.description)
    readers = [_Numbered(reader) for reader, _ in found]
    numbered = [(reader, sources) for reader, (_, sources) in zip(readers, found, strict=True)]
    monkeypatch.setattr(timelines, "find_recordings", lambda *_: (numbered, unusable))
    monkeypatch.setattr(timelines, "BATCH", 2)
    windows = predict_windows(model, [file], 4 / 30, logits=True).recordings[0].windows
    assert sum(reader.parsed for reader in readers) == 1
    assert [(window.first, window.last) for window in windows][:2] == [(100, 103), (102, 105)]
    assert [window.start for window in windows] == [window.start for window in plain]
    np.testing.assert_allclose(
        [window.logits for window in windows], [window.logits for window in plain], rtol=1e-5, atol=1e-5
    )
