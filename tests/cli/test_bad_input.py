"""Invalid input on the command line: exit code 2, the cause and the fix, and no partial output."""

import json
import re
from pathlib import Path

import pytest

from psptool.formats.synthesis.recording import record
from psptool.formats.synthesis.writing import skeleton_text
from tests.cli.conftest import files

NAME = "S001C001P001R001A007"


@pytest.fixture(scope="module")
def good() -> bytes:
    return skeleton_text(record(NAME))


def lines_of(content: bytes) -> list[bytes]:
    return content.split(b"\r\n")


def put(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["ntu", "ucla"])
def test_a_missing_folder_is_an_error(psptool, kind):
    ran = psptool("prepare", kind, "--raw", "nowhere", code=2)
    assert "nowhere: no such file or folder" in ran.err
    assert files() == []


@pytest.mark.parametrize("kind", ["ntu", "ucla"])
def test_a_folder_without_recordings_is_an_error(psptool, tmp_path, kind):
    put(tmp_path / "raw" / "notes.txt", b"nothing")
    ran = psptool("prepare", kind, "--raw", tmp_path / "raw", code=2)
    assert "recordings: found 1 file, none of which" in ran.err
    assert "Check the paths after --raw" in ran.err
    assert files() == []


def test_a_folder_with_only_damaged_clips_is_an_error(psptool, tmp_path, good):
    put(tmp_path / "raw" / f"{NAME}.skeleton", good[:1000])
    ran = psptool("prepare", "ntu", "--raw", tmp_path / "raw", code=2)
    assert "no usable clip" in ran.err
    assert f"{NAME}.skeleton" in ran.err
    assert files() == []


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["prepare", "dry run"])
def test_recordings_of_another_dataset_are_recognized_and_the_right_command_is_shown(
    psptool, ntu_raw, ucla_raw, dry
):
    ran = psptool("prepare", "ucla", "--raw", ntu_raw, *dry, code=2)
    assert f"{ntu_raw}: not recordings of NW-UCLA: found 24 clips of NTU RGB+D" in ran.err
    assert f"psptool prepare ntu --raw {ntu_raw}" in ran.err
    ran = psptool("prepare", "ntu", "--raw", ucla_raw, *dry, code=2)
    assert f"psptool prepare ucla --raw {ucla_raw}" in ran.err
    assert files() == []


@pytest.mark.parametrize("ratio", ["0", "1.5", "-0.1", "nan"])
def test_a_ratio_out_of_range_is_an_error(psptool, ratio):
    ran = psptool("split", "--ratio", ratio, code=2)
    assert "--ratio: found" in ran.err
    assert "at most 1" in ran.err
    assert files() == []


def test_more_labels_requested_than_a_class_has_is_an_error(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    before = files()
    ran = psptool("split", "--count", "7", code=2)
    assert "pick up with one hand has 6" in ran.err
    assert "Use --count 6 or fewer" in ran.err
    assert files() == before


def test_a_split_of_another_dataset_is_refused(psptool, ucla_raw, ntu_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    psptool("split", "--ratio", "0.5")
    psptool("prepare", "ntu", "--raw", ntu_raw)
    before = files()
    split = "splits/ucla-xview-0.5-s0.json"
    ran = psptool("train", "--split", split, "--data", "data/ntu60.h5", "--device", "cpu", code=2)
    assert "ntu60" in ran.err
    assert "ucla" in ran.err
    assert files() == before
    ran = psptool("split", "--check", split, "--data", "data/ntu60.h5", code=2)
    assert "data/ntu60.h5: not the dataset of the split: found ntu60, expected ucla" in ran.err


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ("split", "--check", "s.json", "--ratio", 0.5, "--out", "t.json"),
            "--check: found --ratio and --out too, expected one or the other. Leave out --check, or --ratio and --out",
        ),
        (
            ("split", "--check", "s.json", "--seed", 0, "--family", "per-class"),
            "--check: found --family and --seed too",
        ),
        (("schemas", "--check", "--show", "run"), "--check: found --show too"),
        (("schemas", "--show", "run", "--out", "schemas"), "--show: found --out too"),
        (("config", "--table", "--preset", "fast"), "--table: found --preset too"),
        (("describe", "ucla", "--from", "raw"), "--from: found NAME too"),
        (("table", "--json", "--format", "csv"), "--json: found --format too"),
        (("train", "--profile", 3, "--dry-run"), "--profile: found --dry-run too"),
        (("train", "--like", "run", "--config", "run"), "--like: found --config too"),
        (("view", "a.json", "--model", "run", "--data", "a.yaml"), "--data: found --model too"),
        (("view", "data/ucla.h5", "--data", "mine.yaml"), "--data: found data/ucla.h5, which is a dataset"),
    ],
)
def test_options_that_would_be_ignored_are_refused(psptool, command, expected):
    assert expected in psptool(*command, code=2).err


def test_a_split_of_other_clips_of_the_same_dataset_is_refused(psptool, ucla_raw, tmp_path):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    psptool("split", "--ratio", "0.5")
    for number, path in enumerate(sorted(ucla_raw.rglob("*.json"))):
        if number % 9 != 8:
            put(tmp_path / "less" / path.name, path.read_bytes())
    psptool("prepare", "ucla", "--raw", tmp_path / "less")
    before = files()
    ran = psptool("train", "--device", "cpu", code=2)
    assert "fingerprint" in ran.err
    assert "psptool split" in ran.err
    assert files() == before


def test_cuda_requested_but_not_available_is_an_error(psptool, ucla_raw, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    psptool("prepare", "ucla", "--raw", ucla_raw)
    psptool("split", "--ratio", "0.5")
    before = files()
    ran = psptool("train", "--device", "cuda", code=2)
    assert "--device" in ran.err
    assert "cpu" in ran.err
    assert files() == before
    assert "--device" in psptool("evaluate", "--device", "cuda", code=2).err


def test_a_misspelled_device_gets_a_suggestion(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    psptool("split", "--ratio", "0.5")
    assert "cuda" in psptool("train", "--device", "cuad", code=2).err


def test_output_under_a_file_cannot_be_written(psptool, ucla_raw, tmp_path):
    blocked = put(tmp_path / "here" / "blocked", b"")
    ran = psptool("prepare", "ucla", "--raw", ucla_raw, "--out", blocked / "ucla.h5", code=2)
    assert "blocked" in ran.err
    assert "--out" in ran.err
    assert files() == ["blocked"]
    psptool("prepare", "ucla", "--raw", ucla_raw)
    before = files()
    ran = psptool("split", "--ratio", "0.5", "--out", blocked / "split.json", code=2)
    assert "blocked/split.json: cannot be written" in ran.err
    assert files() == before
    psptool("split", "--ratio", "0.5")
    before = files()
    arguments = ("--method", "supervised", "--device", "cpu", "--set", "optim.steps=1")
    ran = psptool("train", *arguments, "--out", blocked / "run", code=2)
    assert "blocked" in ran.err
    assert files() == before


def test_two_files_of_one_name_with_different_content_are_an_error(psptool, tmp_path, good):
    put(tmp_path / "raw" / "a" / f"{NAME}.skeleton", good)
    put(tmp_path / "raw" / "b" / f"{NAME}.skeleton", good.replace(b"\r\n2\r\n", b"\r\n1\r\n", 1) + b"\r\n")
    ran = psptool("prepare", "ntu", "--raw", tmp_path / "raw", code=2)
    assert f"a/{NAME}.skeleton" in ran.err
    assert f"b/{NAME}.skeleton" in ran.err
    assert files() == []


def truncated(lines):
    return lines[:-20], None


def word(lines):
    lines[4] = lines[4].replace(b" ", b" left ", 1).split(b" ", 1)[1]
    return lines, (5, "left")


def thirteen_fields(lines):
    lines[4] += b" 2"
    return lines, (5, "13")


def other_joint_count(lines):
    lines[3] = b"24"
    return lines, (4, "24")


def huge_frame_count(lines):
    return [b"1000000000000", *lines[1:10]], (1, "1000000000000")


def data_after_the_last_frame(lines):
    return [*lines[:-1], b"7", b""], (len(lines), "7")


def not_finite(lines):
    lines[4] = b"-inf " + lines[4].split(b" ", 1)[1]
    return lines, (5, "-inf")


def no_body_at_all(lines):
    return [b"2", b"0", b"0", b""], None


BREAKS = (
    truncated, word, thirteen_fields, other_joint_count, huge_frame_count, data_after_the_last_frame,
    not_finite, no_body_at_all,
)  # fmt: skip


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda function: function.__name__.replace("_", " "))
def test_a_damaged_skeleton_file_is_excluded_and_the_report_names_line_and_value(
    psptool, tmp_path, good, break_it
):
    clean = skeleton_text(record("S001C001P002R001A007"))
    put(tmp_path / "raw" / "S001C001P002R001A007.skeleton", clean)
    lines, expected = break_it(lines_of(good))
    put(tmp_path / "raw" / f"{NAME}.skeleton", b"\r\n".join(lines))
    ran = psptool("prepare", "ntu", "--raw", tmp_path / "raw", "--jobs", "1")
    assert "1 clip excluded (malformed)" in ran.err
    assert re.search(r"kept +1\b", ran.out)
    report = json.loads((tmp_path / "here" / "data" / "ntu60.report.json").read_text())
    (clip,) = report["quarantined"]
    assert clip["name"] == NAME
    assert f"{NAME}.skeleton" in clip["detail"]
    if expected is not None:
        line, found = expected
        assert f"line {line}" in clip["detail"]
        assert found in clip["detail"]


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]",
        '{"file_name": "a01_s01_e00_v01", "label": 1}',
        '{"file_name": "a01_s01_e00_v01", "skeletons": [[[1, 2]]], "label": 1}',
        "{",
    ],
    ids=["not an object", "no skeletons", "not (T, 20, 3)", "not JSON"],
)
def test_damaged_json_is_excluded(psptool, tmp_path, ucla_raw, content):
    for name in ("a01_s02_e00_v01", "a01_s02_e00_v03"):
        put(tmp_path / "raw" / f"{name}.json", (ucla_raw / "all_sqe" / f"{name}.json").read_bytes())
    put(tmp_path / "raw" / "a01_s01_e00_v01.json", content.encode())
    ran = psptool("prepare", "ucla", "--raw", tmp_path / "raw", "--jobs", "1")
    assert "1 clip excluded (malformed)" in ran.err
    report = json.loads((tmp_path / "here" / "data" / "ucla.report.json").read_text())
    assert [clip["name"] for clip in report["quarantined"]] == ["a01_s01_e00_v01"]
    assert "a01_s01_e00_v01.json" in report["quarantined"][0]["detail"]


def test_name_that_does_not_parse_is_skipped_and_counted(psptool, tmp_path, good):
    put(tmp_path / "raw" / f"{NAME}.skeleton", good)
    put(tmp_path / "raw" / "copy of it.skeleton", good)
    ran = psptool("prepare", "ntu", "--raw", tmp_path / "raw", "--json", "--jobs", "1")
    assert json.loads(ran.out)["skipped"] == 1


def test_strict_turns_an_excluded_clip_into_an_error(psptool, tmp_path, good):
    put(tmp_path / "raw" / f"{NAME}.skeleton", good[:-400])
    put(tmp_path / "raw" / "S001C001P002R001A007.skeleton", skeleton_text(record("S001C001P002R001A007")))
    ran = psptool("prepare", "ntu", "--raw", tmp_path / "raw", "--strict", "--jobs", "1", code=2)
    assert "--strict" in ran.err
    assert files() == []


def test_damaged_dataset_and_split_are_named(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    whole = Path("data/ucla.h5").read_bytes()
    Path("data/ucla.h5").write_bytes(whole[: len(whole) // 2])
    assert "data/ucla.h5" in psptool("split", "--ratio", "0.5", "--data", "data/ucla.h5", code=2).err
    Path("bad.json").write_text('{"dataset": "ucla", "seed": -1}')
    ran = psptool("inspect", "bad.json", code=2)
    assert "bad.json: not a valid Split file" in ran.err
    assert "seed" in ran.err
