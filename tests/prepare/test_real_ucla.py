"""Preparation of the real NW-UCLA recordings (JSON)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import psptool
from psptool.data.store.validating import validate
from psptool.preparation.pipeline import prepare

RAW = os.environ.get("PSPTOOL_UCLA_RAW")
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(RAW is None, reason="PSPTOOL_UCLA_RAW names no folder with the recordings"),
]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return prepare("ucla", [Path(RAW)], tmp_path_factory.mktemp("real") / "ucla.h5")


def test_all_clips_are_kept_and_duplicates_and_missing_joints_are_counted(done):
    counts = done.report.counts
    assert (counts.clips, counts.frames, counts.rows) == (1484, 58534, 58534)
    assert (counts.quarantined, counts.skipped, done.report.repeated) == (0, 0, 0)
    assert (counts.duplicates, counts.interpolated_joints, counts.unscaled) == (95, 12, 0)
    assert done.report.found == 1484


def test_the_duplicates_are_v02_and_v03_of_a02_and_a03(done):
    for first, second in done.report.duplicates:
        assert first[:3] in ("a02", "a03")
        assert (first[:-4], first[-4:], second[-4:]) == (second[:-4], "_v02", "_v03")


def test_both_clips_of_a_single_frame_are_kept_without_motion(done):
    with psptool.open(done.path) as store:
        assert [store.names[n] for n in np.flatnonzero(store.table.frames == 1)] == [
            "a02_s09_e04_v02",
            "a02_s09_e04_v03",
        ]
        assert not store.clip("a02_s09_e04_v02").motion.any()


def test_views_and_labels_are_as_published(done):
    with psptool.open(done.path) as store:
        assert [int((store.table.camera == view).sum()) for view in (1, 2, 3)] == [516, 504, 464]
        assert sorted(set(store.table.label.tolist())) == list(range(10))


def test_camera_coordinates_are_recovered_to_a_hundredth_of_a_millimetre(done):
    with psptool.open(done.path) as store:
        for name in store.names[::50]:
            (path,) = Path(RAW).rglob(f"{name}.json")
            recorded = np.array(json.loads(path.read_text())["skeletons"])
            np.testing.assert_allclose(store.clip(name).recorded()[0], recorded, atol=1e-5)


def test_the_dataset_is_valid(done):
    assert validate(done.path) == []
