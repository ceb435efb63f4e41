"""The timeline on a page: bars of windows, colours of classes, and persons of a long recording."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from psptool.formats.synthesis.writing import write_ucla
from psptool.preparation.selection import every_track
from psptool.preparation.tracks import Track
from psptool.schemas.builtin_skeletons import builtin_skeleton
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.description import DatasetDescription
from psptool.schemas.prediction import ClassProbability, PredictedClip, Prediction
from psptool.schemas.timeline import PredictedWindow, Timeline, Timelines
from psptool.view.sources import find, predicted
from psptool.view.timeline import bars, class_colours, timeline_data
from psptool.view.viewer import viewer_page
from tests.builtin import UCLA

from .test_page import HOSTILE

NAME = "a01_s01_e00_v01"


def window(first: int, last: int, *classes: str, start: int = 0) -> PredictedWindow:
    return PredictedWindow(
        first=first,
        last=last,
        start=(first - start) / 30,
        end=(last - start + 1) / 30,
        persons=len(classes) > 0,
        reason="" if classes else "no body",
        top=tuple(
            ClassProbability(class_name=name, label=n, probability=0.75 / (n + 1))
            for n, name in enumerate(classes)
        ),
    )


def timelines(folder: Path, *windows: PredictedWindow) -> Timelines:
    """A prediction for one synthetic recording in ``folder``."""
    write_ucla(folder / "raw", [NAME])
    (file,) = (folder / "raw").rglob("*.json")
    frames = len(json.loads(file.read_text())["skeletons"])
    return Timelines(
        model="runs/one",
        weights="last",
        dataset="ucla",
        topology="kinect20",
        classes=UCLA.class_names,
        frame_rate=30,
        window=10,
        stride=5,
        recordings=(Timeline(name=NAME, source=str(file), frames=frames, windows=windows),),
        tool_version="test",
    )


def data_of(page: str) -> dict[str, object]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    found: dict[str, object] = json.loads(text)["clips"][0]
    return found


def test_bars_of_overlapping_windows_meet_halfway_between_their_centres() -> None:
    # Centres at 5, 10, 15 and 18.
    overlapping = [window(first, first + 9, "a") for first in (0, 5, 10, 13)]
    assert bars(overlapping, 23) == [(0, 8), (8, 13), (13, 17), (17, 23)]
    assert bars([window(0, 3, "a"), window(4, 7, "a")], 8) == [(0, 4), (4, 8)]
    assert bars([window(100, 104, "a")], 5) == [(0, 5)]
    numbered = [window(first, first + 9, "a") for first in (100, 105, 110, 113)]
    assert bars(numbered, 23) == bars(overlapping, 23)


def test_the_most_frequent_classes_have_the_first_colours() -> None:
    colours = class_colours([[window(0, 1, "a"), window(2, 3, "b", "c")], [window(0, 1, "b"), window(2, 3)]])
    assert colours == {"b": "var(--person0)", "a": "var(--person1)"}
    many = class_colours([[window(0, 1, f"class {n}") for n in range(18)]])
    assert len(set(many.values())) == 18


def test_a_bar_has_the_colour_and_probability_of_its_class_and_none_without_a_person() -> None:
    windows = [window(0, 9, "a", "b"), window(10, 19)]
    data = timeline_data(windows, 20, {"z": "red", "a": "blue"})
    assert data["classes"] == [("a", "blue")]
    assert data["windows"] == [
        {"from": 0, "to": 10, "colour": "blue", "share": 0.75, "text": "0.00 to 0.33 s: a 75 %, b 38 %"},
        {"from": 10, "to": 20, "colour": None, "share": 0, "text": "0.33 to 0.67 s: no body"},
    ]


@pytest.mark.parametrize("from_file", [True, False])
def test_page_has_the_timeline_of_the_recording(tmp_path: Path, from_file: bool) -> None:
    prediction = timelines(tmp_path, window(0, 9, "carry"), window(5, 14, "throw"))
    prediction.save(tmp_path / "timeline.json")
    found = find(tmp_path / "timeline.json") if from_file else predicted(prediction)
    page = viewer_page("t", "", found.clips)
    assert "class Timeline" in page
    assert "one bar per window" in page
    assert "2 windows" in page
    data = data_of(page)
    assert [name for name, _ in data["timeline"]["classes"]] == ["carry", "throw"]  # type: ignore[index]
    assert [scene["title"] for scene in data["scenes"]] == ["recorded"]  # type: ignore[attr-defined]
    assert found.model == "runs/one"


@pytest.mark.parametrize("has_windows", [True, False], ids=["windows", "classes"])
def test_predict_shows_all_recordings_and_view_six_of_them_or_the_named_ones(
    tmp_path: Path, has_windows: bool
) -> None:
    names = [f"a01_s01_e{number:02}_v01" for number in range(8)]
    write_ucla(tmp_path / "raw", names)
    sources = {file.stem: str(file) for file in (tmp_path / "raw").rglob("*.json")}
    one = window(0, 9, "carry")
    prediction: Timelines | Prediction = timelines(tmp_path / "one", one)
    if has_windows:
        recordings = tuple(
            Timeline(name=name, source=sources[name], frames=10, windows=(one,)) for name in names
        )
        prediction = prediction.model_copy(update={"recordings": recordings})
    else:
        clips = tuple(
            PredictedClip(name=name, source=sources[name], frames=10, persons=1, top=one.top)
            for name in names
        )
        common = prediction.model_dump(include={"model", "weights", "dataset", "topology", "classes"})
        prediction = Prediction(**common, clips=clips, tool_version="test")
    prediction.save(tmp_path / "p.json")
    shown = [
        [clip.name for clip in found.clips] for found in (predicted(prediction), find(tmp_path / "p.json"))
    ]
    assert shown == [names, [names[number] for number in (0, 1, 2, 4, 5, 6)]]
    assert [clip.name for clip in find(tmp_path / "p.json", ["e03", "E07"]).clips] == [names[3], names[7]]


def test_page_finds_a_2d_recording_whose_clip_name_includes_its_folder(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    joints = np.random.default_rng(0).uniform(100, 300, (20, 17, 2)).astype(np.float32)
    np.save(tmp_path / "walk" / "long.npy", joints)
    values = {
        "name": "own",
        "skeleton": builtin_skeleton("coco17"),
        "format": {"reader": "arrays"},
        "unit": "px",
        "up": "-y",
        "frame_rate": 10,
        "clips": {"pattern": "(?P<label>walk|sit)/.+"},
        "classes": ("walk", "sit"),
    }
    timeline = Timeline(
        name="long",
        source=str(tmp_path / "walk" / "long.npy"),
        frames=20,
        windows=(window(0, 9, "walk"), window(10, 19, "sit")),
    )
    prediction = timelines(tmp_path, window(0, 9)).model_copy(
        update={
            "description": DatasetDescription.model_validate(values),
            "recordings": (timeline,),
            "frame_rate": 10,
        }
    )
    found = predicted(prediction, settings=PreparationSettings(align="none"))
    assert found.settings.align == "none"
    (clip,) = found.clips
    assert (clip.name, clip.frames, clip.frame_rate) == ("long", 20, 10)
    assert viewer_page("t", "", [clip])


def test_page_without_windows_has_no_timeline(tmp_path: Path) -> None:
    write_ucla(tmp_path, [NAME])
    page = viewer_page("t", "", find(tmp_path).clips)
    assert "class Timeline" not in page
    assert data_of(page)["timeline"] is None


def test_a_class_name_on_the_timeline_never_becomes_markup(tmp_path: Path) -> None:
    prediction = timelines(tmp_path, window(0, 9, HOSTILE))
    page = viewer_page("t", "", predicted(prediction).clips)
    assert HOSTILE not in page
    assert "<img" not in page
    assert data_of(page)["timeline"]["classes"] == [[HOSTILE, "var(--person0)"]]  # type: ignore[index]


def test_tracks_without_common_frames_are_joined_to_one_person() -> None:
    spans = {1: range(5), 2: range(3, 8), 3: range(6, 9), 4: range(8, 10)}
    tracks = [
        Track(
            body,
            np.array(frames, np.int32),
            np.ones((len(frames), 2, 3), np.float32),
            np.zeros((len(frames), 2), np.uint8),
        )
        for body, frames in spans.items()
    ]
    assert every_track(tracks).persons == ((0, 2), (1, 3))
