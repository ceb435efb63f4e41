"""Clips of a page: finding them, their scenes in two coordinate systems, and their encoding."""

import base64
import io
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psptool.cli.main import app
from psptool.common.errors import PspError
from psptool.formats.synthesis.writing import write_ntu, write_ucla
from psptool.preparation.pipeline import prepare
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.description import DatasetDescription
from psptool.schemas.prediction import ClassProbability, PredictedClip, Prediction
from psptool.view.drawing import _Drawer, contact_sheet, moving_gif
from psptool.view.scene import NOWHERE, page_data, rounding
from psptool.view.sources import DEFAULT_CLIPS, find

from .. import stores
from ..prepare.raw import ntu_text

PAIR = "S001C001P001R001A050"
SOLO = "S001C001P001R001A006"


def unpacked(scene, clip, topology):
    numbers = np.frombuffer(base64.b64decode(scene["xyz"]), "<i2")
    shape = (scene["persons"], clip["frames"], len(topology["joints"]), 3)
    return np.where(numbers == NOWHERE, np.nan, numbers * scene["step"]).reshape(shape) + scene["middle"]


def test_positions_in_a_page_equal_those_of_the_file_within_half_a_quantization_step(tmp_path):
    write_ntu(tmp_path, [PAIR])
    clip = find(tmp_path / f"{PAIR}.skeleton").clips[0]
    data = page_data([clip])
    for scene, packed in zip(clip.scenes, data["clips"][0]["scenes"], strict=True):
        found = unpacked(packed, data["clips"][0], data["topologies"]["ntu25"])
        np.testing.assert_allclose(found, scene.xyz, atol=packed["step"] * 0.501, rtol=0)
    assert rounding([clip]) < 0.0002


def test_recorded_positions_of_a_raw_file_and_of_its_dataset_agree(tmp_path):
    write_ucla(tmp_path, ["a01_s01_e00_v01"])
    raw = find(tmp_path / "all_sqe" / "a01_s01_e00_v01.json").clips[0]
    done = prepare("ucla", [tmp_path / "all_sqe"], tmp_path / "u.h5")
    kept = find(done.path).clips[0]
    for shown, stored in zip(raw.scenes, kept.scenes, strict=True):
        np.testing.assert_allclose(shown.xyz, stored.xyz, atol=1e-5)
    assert raw.action == kept.action == "pick up with one hand"


def test_absent_persons_have_no_positions(tmp_path):
    names = "a01_s01_e00_v01"
    clip = stores.make_clip(names, 1, present=((True, False, True), (True, True, True)))
    stores.write_ucla(tmp_path / "u.h5", [clip])
    for scene in find(tmp_path / "u.h5").clips[0].scenes:
        assert np.isnan(scene.xyz[0, 1]).all()
        assert np.isfinite(scene.xyz[1]).all()
        assert scene.present.tolist() == [[True, False, True], [True, True, True]]


def test_without_names_evenly_spaced_clips_are_shown(tmp_path):
    clips = [stores.make_clip(f"a01_s01_e{n:02}_v01", n) for n in range(2 * DEFAULT_CLIPS)]
    stores.write_ucla(tmp_path / "u.h5", clips)
    found = find(tmp_path / "u.h5")
    assert [clip.name for clip in found.clips] == [clip.name for clip in clips[::2]]
    assert found.of == 2 * DEFAULT_CLIPS
    with pytest.raises(PspError, match="Did you mean a01_s01_e00_v01"):
        find(tmp_path / "u.h5", ["a01_s01_e00_v09"])
    assert [clip.name for clip in find(tmp_path / "u.h5", ["a01_s01_e00"]).clips] == ["a01_s01_e00_v01"]


def test_clips_in_an_archive_are_found_by_name(tmp_path):
    write_ntu(tmp_path / "all.zip", [PAIR, "S001C001P001R001A007"])
    assert find(tmp_path / "all.zip", [PAIR]).clips[0].prepared.persons == 2
    with pytest.raises(PspError, match="has no clip"):
        find(tmp_path / "all.zip", ["S001C001P001R001A008"])


def test_a_file_of_unknown_format_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no recording")
    with pytest.raises(PspError, match="expected a prepared dataset"):
        find(tmp_path / "notes.txt")


def test_a_prediction_shows_its_recordings_with_predicted_classes(tmp_path):
    write_ntu(tmp_path / "all.zip", [PAIR])
    top = ClassProbability(class_name="hugging other person", label=54, probability=0.75)
    source = f"{tmp_path / 'all.zip'}:{PAIR}.skeleton"
    clip = PredictedClip(name=PAIR, source=source, frames=51, persons=2, top=(top,))
    Prediction(
        model="run",
        weights="last",
        dataset="ntu60",
        topology="ntu25",
        classes=("a",),
        clips=(clip,),
        tool_version="0",
    ).save(tmp_path / "p.json")
    found = find(tmp_path / "p.json")
    assert found.clips[0].top == (("hugging other person", 0.75),)
    assert found.model == "run"


def test_a_prediction_shows_its_recordings_as_the_model_has_prepared_them(tmp_path):
    write_ntu(tmp_path / "all.zip", [PAIR])
    top = ClassProbability(class_name="a", label=0, probability=1)
    source = f"{tmp_path / 'all.zip'}:{PAIR}.skeleton"
    clip = PredictedClip(name=PAIR, source=source, frames=51, persons=2, top=(top,))
    values = {"model": "run", "weights": "last", "dataset": "ntu60", "topology": "ntu25", "classes": ("a",)}
    for recorded, given, used in (("none", None, "none"), ("none", "robust", "robust"), (None, None, "body")):
        preparation = recorded and PreparationSettings(align=recorded)
        Prediction(**values, preparation=preparation, clips=(clip,), tool_version="0").save(
            tmp_path / "p.json"
        )
        found = find(tmp_path / "p.json", settings=given and PreparationSettings(align=given))
        expected = find(tmp_path / "all.zip", settings=PreparationSettings(align=used))
        assert found.settings == expected.settings
        np.testing.assert_array_equal(found.clips[0].scenes[1].xyz, expected.clips[0].scenes[1].xyz)


@pytest.mark.parametrize("names", [(), ("r",)])
def test_a_prediction_shows_recordings_of_one_name_from_different_folders(tmp_path, names):
    write_ntu(tmp_path / "a", [PAIR])
    write_ntu(tmp_path / "b", [SOLO])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        packed.write(tmp_path / "a" / f"{PAIR}.skeleton", "a/r.skeleton")
        packed.write(tmp_path / "b" / f"{SOLO}.skeleton", "b/r.skeleton")
    predicted = [ClassProbability(class_name=name, label=0, probability=1) for name in "ab"]
    sources = [f"{tmp_path / 'all.zip'}:{one.class_name}/r.skeleton" for one in predicted]
    clips = tuple(
        PredictedClip(name="r", source=source, frames=1, persons=1, top=(top,))
        for source, top in zip(sources, predicted, strict=True)
    )
    values = {
        "model": "run",
        "weights": "last",
        "dataset": "ntu60",
        "topology": "ntu25",
        "classes": ("a", "b"),
    }
    Prediction(**values, clips=clips, tool_version="0").save(tmp_path / "p.json")
    found = find(tmp_path / "p.json", names)
    assert found.of == 2
    assert [clip.top[0][0] for clip in found.clips] == ["a", "b"]
    expected = [
        find(tmp_path / one / f"{name}.skeleton").clips[0] for one, name in (("a", PAIR), ("b", SOLO))
    ]
    for shown, alone in zip(found.clips, expected, strict=True):
        np.testing.assert_array_equal(shown.scenes[0].xyz, alone.scenes[0].xyz)


def annotated(folder, label):
    """Write a pickle with one coco17 recording; returns the description of its dataset of two classes."""
    joints = np.random.default_rng(0).uniform(100, 300, (1, 9, 17, 2)).astype(np.float32)
    score = np.ones(joints.shape[:3], np.float32)
    item = {"frame_dir": "a", "label": label, "total_frames": 9, "keypoint": joints, "keypoint_score": score}
    (folder / "clips.pkl").write_bytes(pickle.dumps([item]))
    values = {"name": "own", "skeleton": "coco17", "format": {"reader": "pyskl"}, "classes": ["walk", "sit"]}
    return DatasetDescription.model_validate({**values, "unit": "px", "up": "-y"})


@pytest.mark.parametrize(("label", "action"), [(1, "sit"), (7, "")])
def test_a_label_out_of_range_has_no_action_name(tmp_path, label, action):
    own = annotated(tmp_path, label)
    settings = PreparationSettings(align="none")
    assert find(tmp_path / "clips.pkl", settings=settings, dataset=own).clips[0].action == action


def test_recorded_positions_in_millimetres_are_shown_in_metres_with_their_rounding(tmp_path):
    joints = np.random.default_rng(0).uniform(500, 2500, (9, 20, 3))
    np.save(tmp_path / "walk_a.npy", joints)
    values = {"name": "own", "skeleton": "kinect20", "format": {"reader": "arrays"}, "classes": ["walk"]}
    pattern = {"pattern": "(?P<label>walk)_a"}
    own = DatasetDescription.model_validate({**values, "unit": "mm", "clips": pattern})
    done = prepare(own, [tmp_path / "walk_a.npy"], tmp_path / "own.h5")
    for found in (find(tmp_path / "walk_a.npy", dataset=own), find(done.path)):
        scene = found.clips[0].scenes[0]
        assert scene.unit == "m"
        np.testing.assert_allclose(scene.xyz[0], joints / 1000, atol=1e-5)
        assert rounding(found.clips) > 0


def test_a_recording_in_pixels_is_shown_in_pixels(tmp_path):
    own = annotated(tmp_path, 0)
    (clip,) = find(tmp_path / "clips.pkl", settings=PreparationSettings(align="none"), dataset=own).clips
    assert clip.scenes[0].unit == "px"
    assert rounding([clip]) == 0


def test_recordings_of_any_name_are_found(tmp_path):
    write_ntu(tmp_path / "named", [PAIR])
    (tmp_path / "mine.skeleton").write_bytes((tmp_path / "named" / f"{PAIR}.skeleton").read_bytes())
    (clip,) = find(tmp_path / "mine.skeleton").clips
    assert clip.name == "mine"


@pytest.mark.parametrize("frame_rate", [30, 120, 1000])
def test_gif_has_the_duration_of_the_recording_with_at_least_20_ms_per_image(tmp_path, frame_rate):
    write_ntu(tmp_path, [PAIR])
    clip = replace(find(tmp_path, [PAIR]).clips[0], frame_rate=frame_rate)
    durations = []
    with Image.open(io.BytesIO(moving_gif([clip], size=80))) as gif:
        for n in range(gif.n_frames):
            gif.seek(n)
            durations.append(gif.info["duration"])
    assert sum(durations) == pytest.approx(1000 * clip.frames / frame_rate, abs=40)
    assert min(durations) >= 20


def test_a_skeleton_in_2d_is_drawn_as_in_the_image_without_a_floor(tmp_path):
    own = annotated(tmp_path, 0)
    (clip,) = find(tmp_path / "clips.pkl", settings=PreparationSettings(align="none"), dataset=own).clips
    drawer = _Drawer(clip.scenes[-1], clip, 60, 80)
    xyz = clip.scenes[-1].xyz[0, 0]
    x, y, _ = drawer._project(drawer.points[0, 0]).T
    for pixels, positions in ((x, xyz[:, 0]), (y, xyz[:, 1])):
        np.testing.assert_allclose(pixels - pixels[0], drawer.scale * (positions - positions[0]), atol=1e-3)
    drawer.points[:] = np.nan  # only a floor would still be drawn
    assert len(drawer.frame(0).getcolors()) == 1


def test_a_contact_sheet_has_a_row_per_clip(tmp_path):
    write_ntu(tmp_path, [PAIR])
    clip = find(tmp_path, [PAIR]).clips[0]
    one, two = (Image.open(io.BytesIO(contact_sheet([clip] * n, 4, 60))) for n in (1, 2))
    assert two.size == (one.width, 2 * one.height) == (240, 2 * one.height)
    assert len(one.getcolors(10**6)) > 20


def test_a_performer_whose_id_changed_has_one_colour_and_a_ghost_is_grey(tmp_path):
    flat = np.array((2.0, 0.2, 0.3))
    tall = np.array((0.3, 1.0, 0.3))
    rng = np.random.default_rng(0)
    frames = [
        [(1 + t // 20, rng.normal(size=(25, 3)) * tall), (9, rng.normal(size=(25, 3)) * flat)]
        for t in range(40)
    ]
    (tmp_path / "mine.skeleton").write_text(ntu_text(frames), newline="")
    (clip,) = find(tmp_path / "mine.skeleton").clips
    recorded, normalized = clip.scenes
    assert recorded.kept == (True, False)
    assert recorded.present.all()
    assert normalized.kept == (True,)
    np.testing.assert_array_equal(
        recorded.xyz[0, :, 3], np.float32([[float(f"{x:.7g}") for x in bodies[0][1][3]] for bodies in frames])
    )
    assert any(note.startswith("track 9 dropped: 40 of 40 frames are spread") for note in clip.notes)
    assert any(" joined to track " in note for note in clip.notes)


def test_a_joint_that_is_nan_has_no_position_in_the_recorded_scene(tmp_path):
    xyz = np.random.default_rng(0).normal(size=(3, 25, 3)) + np.array((0, 0, 3))
    xyz[1, 4, 2] = np.nan
    (tmp_path / "mine.skeleton").write_text(ntu_text([[(1, frame)] for frame in xyz]), newline="")
    recorded, normalized = find(tmp_path / "mine.skeleton").clips[0].scenes
    assert np.argwhere(np.isnan(recorded.xyz).all(axis=-1)).tolist() == [[0, 1, 4]]
    assert np.isfinite(normalized.xyz).all()


def test_recordings_of_a_custom_dataset_are_read_in_its_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("walk_a.npy", np.random.default_rng(0).normal(size=(9, 20, 3)))
    Path("own.yaml").write_text(
        "{name: own, skeleton: kinect20, format: {reader: arrays}, classes: [walk], "
        "clips: {pattern: '(?P<label>walk)_a'}}"
    )
    with pytest.raises(PspError, match=r"no recording found.*add --data DATASET.h5, .* or --model RUN"):
        find(Path("walk_a.npy"))
    prepare(Path("own.yaml"), [Path("walk_a.npy")], Path("own.h5"))
    for data in ("own.yaml", "own.h5"):
        assert not app(["view", "walk_a.npy", "--data", data, "--out", f"{data}.html"], standalone_mode=False)
        assert "walk_a" in Path(f"{data}.html").read_text()


@pytest.mark.parametrize(("clips", "columns", "rows"), [(1, 1, 1), (4, 4, 1), (5, 3, 2), (24, 4, 6)])
def test_gif_of_many_clips_has_several_rows(tmp_path, clips, columns, rows):
    write_ntu(tmp_path, [PAIR])
    clip = find(tmp_path, [PAIR]).clips[0]
    with Image.open(io.BytesIO(moving_gif([clip] * clips, size=40))) as gif:
        assert gif.size == (40 * columns, (40 + 26) * rows)
