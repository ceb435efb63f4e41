"""Joints at NaN or at exact zeros are missing; a body with fewer than half of its joints is absent in that frame."""

from __future__ import annotations

import json

import numpy as np
import pytest

import psptool as package
from psptool.common.errors import RawFormatError
from psptool.preparation.interpolation import is_missing
from psptool.preparation.pipeline import prepare
from psptool.preparation.selection import find_persons
from psptool.preparation.tracks import split_many, split_tracks
from psptool.schemas.dataset import PreparationSettings
from tests.builtin import NTU25, UCLA20
from tests.prepare.raw import ntu_text, raw_clip, write_ucla_clip

SETTINGS = PreparationSettings()
NTU_NAME, UCLA_NAME = "S001C001P001R001A013", "a01_s01_e00_v01"


def positions(joints, frames=6):
    return np.random.default_rng(0).normal(size=(frames, joints, 3)) + np.array((0, 0, 3))


def write_ntu(folder, xyz):
    folder.mkdir()
    text = ntu_text([[(7, frame)] for frame in xyz])
    (folder / f"{NTU_NAME}.skeleton").write_text(text, newline="")


def write_json(folder, xyz):
    write_ucla_clip(folder, UCLA_NAME, xyz)


def write_text(folder, xyz):
    clip_folder = folder / "view_1" / UCLA_NAME[:11]
    clip_folder.mkdir(parents=True)
    for t, frame in enumerate(xyz):
        rows = "".join(f"{x:.7g},{y:.7g},{z:.7g},2\n" for x, y, z in frame)
        (clip_folder / f"frame_{t}_tc_{t}_skeletons.txt").write_text(f"60\n{rows}")


WRITERS = {
    "ntu": (write_ntu, "ntu", NTU_NAME, 25),
    "ucla json": (write_json, "ucla", UCLA_NAME, 20),
    "ucla text": (write_text, "ucla", UCLA_NAME, 20),
}


@pytest.mark.parametrize("format_name", WRITERS)
@pytest.mark.parametrize("all_coordinates", [True, False], ids=["all of x, y, z", "only y"])
def test_joints_at_nan_and_at_zero_give_the_same_dataset_and_a_note(tmp_path, format_name, all_coordinates):
    write, kind, name, joints = WRITERS[format_name]
    xyz = positions(joints)
    with_nan, with_zero = xyz.copy(), xyz.copy()
    with_nan[2:4, 5, slice(None) if all_coordinates else 1] = np.nan
    with_zero[2:4, 5] = 0
    found = []
    for folder, data in (("nan", with_nan), ("zero", with_zero)):
        write(tmp_path / folder, data)
        done = prepare(kind, [tmp_path / folder], tmp_path / f"{folder}.h5")
        assert done.report.counts.quarantined == 0
        assert done.report.counts.interpolated_joints == 2
        (note,) = done.report.notes
        assert (note.name, note.note[:16]) == (name, "2 missing joints")
        found.append(done.path)
    assert found[0].read_bytes() == found[1].read_bytes()
    with package.open(found[0]) as store:
        recorded = store.clip(name).recorded()
    np.testing.assert_allclose(
        recorded[0, 2:4, 5], xyz[1, 5] + np.outer((1, 2), xyz[4, 5] - xyz[1, 5]) / 3, atol=1e-5
    )


@pytest.mark.parametrize("gap", [np.nan, 0.0])
@pytest.mark.parametrize(
    ("topology", "missing", "present"),
    [(NTU25, 12, True), (NTU25, 13, False), (UCLA20, 10, True), (UCLA20, 11, False)],
)
def test_a_person_with_fewer_than_half_of_the_joints_is_absent_in_that_frame(topology, missing, present, gap):
    xyz = positions(topology.size)
    xyz[3, :missing] = gap
    persons = find_persons(raw_clip({1: dict(enumerate(xyz))}, 6), topology, SETTINGS)
    assert persons.present[0].tolist() == [True, True, True, present, True, True]
    assert persons.interpolated == (missing if present else 0)
    assert np.isfinite(persons.xyz).all()
    expected = (
        f"{missing} missing joints" if present else "1 of 6 bodies have fewer than half of their joints"
    )
    assert [note.startswith(expected) for note in persons.notes] == [True]


def test_a_clip_of_only_nan_is_excluded_and_a_clip_with_one_valid_frame_is_kept(tmp_path):
    xyz = positions(20)
    write_ucla_clip(tmp_path / "raw", "a01_s01_e00_v01", np.full_like(xyz, np.nan))
    xyz[1:] = np.nan
    write_ucla_clip(tmp_path / "raw", "a01_s01_e01_v01", xyz)
    report = prepare("ucla", [tmp_path / "raw"], tmp_path / "u.h5").report
    assert report.counts.clips == 1
    (excluded,) = report.quarantined
    assert (excluded.name, excluded.reason) == ("a01_s01_e00_v01", "no body")
    assert "6 bodies in 6 frames, all with fewer than half of their joints" in excluded.detail
    assert [note.name for note in report.notes] == ["a01_s01_e01_v01"]


def test_a_joint_that_is_nan_in_all_frames_takes_the_position_of_its_nearest_valid_neighbour():
    xyz = positions(20)
    xyz[:, 11] = np.nan
    persons = find_persons(raw_clip({1: dict(enumerate(xyz))}, 6), UCLA20, SETTINGS)
    np.testing.assert_array_equal(persons.xyz[0, :, 11], np.float32(xyz[:, 10]))
    assert not persons.state[0, :, 11].any()


def test_the_first_of_equally_near_neighbours_in_joint_order_is_used():
    xyz = positions(25)
    xyz[:, 20] = np.nan  # between joints 1, 2, 4 and 8
    persons = find_persons(raw_clip({1: dict(enumerate(xyz))}, 6), NTU25, SETTINGS)
    np.testing.assert_array_equal(persons.xyz[0, :, 20], np.float32(xyz[:, 1]))


def test_a_clip_with_infinity_is_excluded(tmp_path):
    xyz = positions(20)
    xyz[2, 5, 1] = np.inf
    write_ucla_clip(tmp_path / "raw", "a01_s01_e00_v01", xyz)
    write_ucla_clip(tmp_path / "raw", "a01_s01_e01_v01", positions(20))
    (excluded,) = prepare("ucla", [tmp_path / "raw"], tmp_path / "u.h5").report.quarantined
    assert excluded.reason == "not finite"


def test_a_joint_is_missing_if_any_coordinate_is_nan_or_all_are_zero():
    nan = np.nan
    joints = [(nan, nan, nan), (1, nan, 2), (0, 0, nan), (0, 0, 0), (0, 0, 1), (-0.0, 0, 0), (1, 2, 3)]
    assert is_missing(np.float32(joints)).tolist() == [True, True, True, True, False, True, False]


def test_fast_and_general_track_splitting_agree_on_missing_joints():
    rng = np.random.default_rng(5)
    for _ in range(30):
        detections = []
        for frame in np.sort(rng.integers(0, 12, 30)).tolist():
            xyz = rng.normal(size=(25, 3))
            missing_values = rng.random((25, 3)) < rng.choice([0.0, 0.2, 0.5])
            xyz[missing_values] = np.nan
            xyz[rng.random(25) < 0.1] = 0
            # Joints with the smallest and the largest float32 numbers are not missing.
            xyz[:2] = (1e-45, 0, 0), (-3e38, 3e38, 3e38)
            detections.append((frame, int(rng.integers(3)), xyz))
        clip = raw_clip(detections, 12)
        fast, general = split_tracks(clip), split_many(clip)
        assert [track.frame.tolist() for track in fast.tracks] == [track.frame.tolist() for track in general]
        assert [track.xyz.tobytes() for track in fast.tracks] == [track.xyz.tobytes() for track in general]
        kept = sum(
            sum(any(map(np.isnan, joint)) or not any(joint) for joint in xyz.tolist()) * 2 <= 25
            for _, _, xyz in detections
        )
        assert fast.unseen == len(detections) - kept == 30 - sum(len(track.frame) for track in general)


def test_a_clip_without_any_body_is_an_error():
    with pytest.raises(RawFormatError, match="no body"):
        find_persons(raw_clip({1: {0: np.full((25, 3), np.nan)}}, 2), NTU25, SETTINGS)


def test_the_command_prints_the_interpolated_joints_and_the_report_names_the_clip(
    tmp_path, monkeypatch, capsys
):
    from psptool.cli.main import app

    xyz = positions(20)
    xyz[2, 5] = np.nan
    write_ucla_clip(tmp_path / "raw", UCLA_NAME, xyz)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        app(["prepare", "ucla", "--raw", "raw", "--jobs", "1"])
    assert ended.value.code == 0
    assert "interpolated joints" in capsys.readouterr().out
    report = json.loads((tmp_path / "data" / "ucla.report.json").read_text())
    assert report["notes"][0]["note"].startswith("1 missing joints")
