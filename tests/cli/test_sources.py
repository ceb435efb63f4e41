"""Archives, file formats and notes of the preparation on the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from psptool.formats.synthesis.writing import write_ucla
from tests.cli.conftest import UCLA_NAMES

RUN = "runs/ucla-xview-0.05-s0-psp-fast"


def test_files_that_are_not_read_are_named_and_counted_by_prepare_and_view(psptool):
    write_ucla(Path("raw"), UCLA_NAMES)
    for n in range(7):
        Path(f"raw/part{n}.rar").write_bytes(b"")
    ran = psptool("prepare", "ucla", "--raw", "raw", "--jobs", "1")
    assert "raw/part0.rar" in ran.err
    assert "and 2 more; data/ucla.report.json gives the reason for each" in ran.err
    assert re.search(r"unsupported archive format +7\b", ran.out)
    assert "raw/part0.rar" in psptool("prepare", "ucla", "--raw", "raw", "--dry-run").err
    # Also where the dataset is current.
    assert "raw/part0.rar" in psptool("prepare", "ucla", "--raw", "raw", "--jobs", "1").err
    assert "part0.rar" in psptool("view", "raw", "--out", "v.html").err


@pytest.mark.parametrize("form", ["zip", "gztar"])
def test_predict_reads_recordings_in_an_archive_and_view_shows_the_prediction(here, form):
    archive = shutil.make_archive("packed", form, "all_sqe")
    here("predict", archive, "--model", RUN, "--out", "p.json")
    here("view", "p.json", "--out", "v.html")
    here("view", archive, "a01_s01_e00_v01", "--out", "w.html")
    assert Path("v.html").exists()
    assert Path("w.html").exists()


def test_predict_prints_the_notes_of_the_preparation(here):
    content = json.loads(Path("all_sqe/a01_s01_e00_v01.json").read_text())
    content["skeletons"][3][7] = [0, 0, 0]
    Path("mine.json").write_text(json.dumps(content))
    noted = "1 missing joints (NaN or exactly (0, 0, 0)) interpolated over time"
    assert f"mine: {noted}" in here("predict", "mine.json", "--model", RUN).out
    printed = json.loads(here("predict", "mine.json", "--model", RUN, "--json").out)
    assert printed["clips"][0]["notes"] == [noted]


def test_view_reports_that_openpose_json_is_not_supported(psptool):
    Path("x.json").write_text('{"version": 1.3, "people": []}')
    assert "of OpenPose" in psptool("view", "x.json", code=2).err


def test_view_recognizes_a_recording_with_long_additional_keys(psptool):
    write_ucla(Path("raw"), UCLA_NAMES[:1])
    (path,) = Path("raw").rglob("*.json")
    path.write_text(json.dumps({"comment": "x" * 10_000, **json.loads(path.read_text())}))
    psptool("view", path, "--out", "v.html")
    assert Path("v.html").exists()


@pytest.mark.parametrize("file", ["data/ucla.h5", "all_sqe"])
def test_view_accepts_parts_and_patterns_of_names(here, file):
    def shown(*names: str) -> int:
        here("view", file, *names, "--out", "v.html")
        return len(set(re.findall(r"a\d\d_s\d\d_e\d\d_v\d\d", Path("v.html").read_text())))

    assert shown("a05_s01_e0*") == 9
    assert shown("a01_s02") == 9
    assert shown("A05_S01_E00", "a01_s01_e00_v01") == 4
    assert shown("e02_v03") == 4


def test_view_suggests_similar_names_if_none_matches_and_limits_the_number_of_clips(here):
    err = here("view", "data/ucla.h5", "a01_s01_e09_v01", code=2).err
    assert "a01_s01_e00_v01, a01_s01_e01_v01" in err
    assert "Examples of its clips: " in here("view", "data/ucla.h5", "zzz", code=2).err
    ran = here("view", "data/ucla.h5", "*", "--out", "v.html")
    assert "36 clips match; 24 of them are shown" in ran.err
