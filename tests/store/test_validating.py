"""`validate` finds each violation of the format and names the clip."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from psptool.data.store.validating import validate
from tests.stores import make_clip, set_manifest, write_ucla

NAMES = ["a01_s01_e00_v01", "a01_s01_e00_v02", "a02_s03_e01_v03"]


@pytest.fixture
def path(tmp_path):
    gap = ((True, False, True), (True, True, True))
    write_ucla(
        tmp_path / "u.h5", [make_clip(NAMES[0], 0), make_clip(NAMES[1], 1, gap), make_clip(NAMES[2], 2)]
    )
    return tmp_path / "u.h5"


def found(path):
    return {finding.clip: finding.what for finding in validate(path) if "fingerprints" not in finding.what}


def test_a_valid_file_has_no_findings(path):
    assert validate(path) == []


@pytest.mark.parametrize(
    ("array", "row", "value", "message"),
    [
        ("joint", 1, np.nan, "joint: not finite"),
        ("motion", 1, 0.25, "motion: differs from the difference"),
        ("state", 1, 7, "state: found 7"),
        ("clips/scale", 0, 0.0, "scale: found 0.0"),
        ("clips/origin", 0, np.inf, "origin: not finite"),
        ("clips/rotation", 0, 0.5, "rotation: rows are not orthogonal"),
        ("clips/rotation", 0, np.diag([1.0, 1.0, -1.0]), "rotation: determinant is -1"),
        ("clips/subject", 0, 9, "clip table"),
    ],
)
def test_a_wrong_value_is_found_in_its_clip(path, array, row, value, message):
    with h5py.File(path, "a") as file:
        file[array][row] = value
    findings = [finding for finding in validate(path) if finding.clip is not None]
    assert {finding.clip for finding in findings} == {NAMES[0]}
    assert any(message in finding.what for finding in findings)


def test_every_changed_value_changes_the_content_fingerprint(path):
    for array in ("joint", "motion", "state", "present", "clips/scale", "clips/camera"):
        with h5py.File(path, "a") as file:
            old = file[array][0]
            file[array][0] = ~old if array == "present" else old + 1
        assert any("fingerprints.content" in finding.what for finding in validate(path)), array
        with h5py.File(path, "a") as file:
            file[array][0] = old
    assert validate(path) == []


def test_a_changed_label_changes_both_fingerprints(path):
    with h5py.File(path, "a") as file:
        file["clips/label"][1] = 3
    whats = " ".join(finding.what for finding in validate(path))
    assert "fingerprints.clips" in whats
    assert "fingerprints.content" in whats


def test_an_absent_row_that_is_not_zero_is_found(path):
    with h5py.File(path, "a") as file:
        file["joint"][6 + 1] = 1  # clip 1, person 0, frame 1
    assert "not zero in 1 absent rows, such as person 0, frame 1" in found(path)[NAMES[1]]


def test_a_person_absent_in_all_frames_is_found(path):
    with h5py.File(path, "a") as file:
        for array in ("joint", "motion", "present", "state"):
            file[array][6:9] = 0
    assert found(path)[NAMES[1]] == "person 0 is absent in every frame"


def test_names_not_in_ascending_order_are_found(path):
    with h5py.File(path, "a") as file:
        file["clips/name"][0], file["clips/name"][1] = NAMES[1], NAMES[0]
    assert any("names must be unique and in ascending order" in finding.what for finding in validate(path))


def test_a_wrong_count_in_the_manifest_is_found(path):
    with h5py.File(path, "a") as file:
        set_manifest(file, file.attrs["manifest"].replace('"frames":15', '"frames":16'))
    assert "counts.frames: found 16, expected 15" in found(path)[None]


def test_a_wrong_data_type_is_found(path):
    with h5py.File(path, "a") as file:
        joint = file["joint"][:]
        del file["joint"]
        file["joint"] = joint.astype(np.float64)
    assert "/joint: found float64" in found(path)[None]


def test_a_file_that_cannot_be_opened_is_one_finding(tmp_path):
    (tmp_path / "u.h5").write_bytes(b"nothing")
    (finding,) = validate(tmp_path / "u.h5")
    assert finding.clip is None


def test_an_invalid_boolean_is_found(path):
    with h5py.File(path, "a") as file:
        _, chunk = file["present"].id.read_direct_chunk((0,))
        file["present"].id.write_direct_chunk((0,), b"\x07" + chunk[1:])
    assert found(path)[NAMES[0]] == "present: found 7, expected 0 or 1"


def test_clips_are_read_in_batches(tmp_path, monkeypatch):
    names = [f"a{a:02d}_s{s:02d}_e00_v{v:02d}" for a in (1, 2, 3) for s in range(1, 9) for v in (1, 2, 3)]
    write_ucla(tmp_path / "u.h5", [make_clip(name, seed) for seed, name in enumerate(names)])
    read = []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(
        h5py.Dataset, "__getitem__", lambda own, key: read.append(own.name) or original(own, key)
    )
    assert validate(tmp_path / "u.h5") == []
    # Nine columns on opening; then four arrays and three normalization columns, once for all 72 clips.
    assert len(read) == 16
