"""Written files have the format of the real files, and the readers return what was recorded."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from psptool.formats.readers.ntu import NtuReader
from psptool.formats.readers.sources import find_clips, read_clip
from psptool.formats.readers.ucla import UclaJsonReader, UclaTextReader
from psptool.formats.synthesis.actions import NTU_ACTIONS
from psptool.formats.synthesis.names import DEMO_ACTIONS, clip_names, demo_names
from psptool.formats.synthesis.recording import Faults, record
from psptool.formats.synthesis.writing import skeleton_text, write_ntu, write_ucla
from psptool.schemas.builtin import builtin_dataset
from tests.builtin import NTU60, NTU120, parse_ntu

NAMES = ["S001C001P003R001A023", "S002C002P005R001A050", "S003C003P008R002A080"]
UCLA_NAMES = ["a01_s01_e00_v01", "a04_s03_e02_v02", "a12_s10_e05_v03"]
# 1-based joints of Kinect v2 at the positions of the joints of Kinect v1.
UCLA_AS_NTU = [1, 2, 21, 4, *range(5, 21)]


def _read(folder: Path, reader):
    clips, strays = find_clips([folder], reader)
    assert not strays
    return {clip.name: reader.parse(clip, read_clip(clip)) for clip in clips}


def test_skeleton_files_have_the_line_structure_of_the_real_files():
    clip = record(NAMES[1])
    text = skeleton_text(clip).decode("ascii")
    assert text.endswith("\r\n")
    assert text.count("\n") == text.count("\r\n")
    lines = iter(text.split("\r\n")[:-1])
    assert int(next(lines)) == clip.frames
    for count in np.bincount(clip.frame, minlength=clip.frames):
        assert int(next(lines)) == count
        for _ in range(count):
            body = next(lines).split(" ")
            assert len(body) == 10
            assert re.fullmatch(r"\d{17}", body[0])
            assert next(lines) == "25"
            joints = [next(lines).split(" ") for _ in range(25)]
            assert {len(fields) for fields in joints} == {12}
            assert {fields[-1] for fields in joints} <= {"1", "2"}
    assert next(lines, None) is None


def test_numbers_have_up_to_7_digits_and_small_numbers_an_exponent():
    text = b"".join(skeleton_text(record(name)) for name in NAMES).decode("ascii")
    numbers = re.findall(r"(?<=[ \n])-?[0-9.]+(?:E-?[0-9]+)?(?=[ \r])", text)
    mantissas = [n.split("E")[0].lstrip("-").replace(".", "").lstrip("0") for n in numbers]
    assert max(len(m) for m in mantissas if len(m) != 17) == 7
    assert any(re.fullmatch(r"-?\d(\.\d+)?E-0[5-9]", n) for n in numbers)
    assert "-0" not in numbers


def test_quaternions_have_unit_norm_except_at_end_joints_where_they_are_zero():
    rows = [
        line.split(" ")
        for line in skeleton_text(record(NAMES[0], faults=Faults.none())).decode().split("\r\n")
    ]
    quaternions = np.array([row[7:11] for row in rows if len(row) == 12], float).reshape(-1, 25, 4)
    tips = [3, 15, 19, 21, 22, 23, 24]
    norms = np.linalg.norm(quaternions, axis=-1)
    assert (norms[:, tips] == 0).all()
    assert np.delete(norms, tips, axis=1) == pytest.approx(1, abs=1e-5)


def test_an_empty_frame_is_a_body_count_of_zero():
    clip = record(NAMES[0], faults=Faults(gap=0, ghost=0, empty_start=1))
    assert skeleton_text(clip).startswith(f"{clip.frames}\r\n0\r\n".encode())


@pytest.mark.parametrize("target", ["raw", "raw.zip"])
def test_the_ntu_reader_returns_what_was_recorded(tmp_path, target):
    assert write_ntu(tmp_path / target, NAMES, seed=7) == len(NAMES)
    read = _read(tmp_path / target, NtuReader())
    assert sorted(read) == sorted(NAMES)
    for name, raw in read.items():
        clip = record(name, seed=7)
        assert (raw.key, raw.frames) == (parse_ntu(name), clip.frames)
        np.testing.assert_array_equal(raw.frame, clip.frame)
        np.testing.assert_array_equal(raw.body, clip.body)
        np.testing.assert_array_equal(raw.state, clip.state)
        np.testing.assert_allclose(raw.xyz, clip.xyz, rtol=6e-7, atol=0)


@pytest.mark.parametrize(("form", "reader"), [("json", UclaJsonReader()), ("text", UclaTextReader())])
def test_the_ucla_readers_return_what_was_recorded(tmp_path, form, reader):
    write_ucla(tmp_path, UCLA_NAMES, seed=7, form=form)
    read = _read(tmp_path, reader)
    assert sorted(read) == sorted(UCLA_NAMES)
    for name, raw in read.items():
        clip = record(name, seed=7, faults=Faults(gap=0, ghost=0, empty_start=0))
        assert raw.frames == clip.frames
        np.testing.assert_allclose(raw.xyz, clip.xyz[:, [j - 1 for j in UCLA_AS_NTU]], rtol=6e-6)


def test_ucla_json_has_exactly_three_keys_and_a_consecutive_label(tmp_path):
    write_ucla(tmp_path, UCLA_NAMES)
    content = json.loads((tmp_path / "all_sqe" / "a12_s10_e05_v03.json").read_text())
    assert sorted(content) == ["file_name", "label", "skeletons"]
    assert (content["file_name"], content["label"]) == ("a12_s10_e05_v03", 10)


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(tmp_path):
    for jobs in (1, 2):
        assert write_ntu(tmp_path / str(jobs), NAMES, jobs=jobs) == len(NAMES)
    for name in NAMES:
        one, two = ((tmp_path / str(jobs) / f"{name}.skeleton").read_bytes() for jobs in (1, 2))
        assert one == two


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_files_with_the_same_names_and_seed_have_the_same_bytes(tmp_path, suffix):
    def content(path):
        files = [path] if suffix else sorted(path.iterdir())
        return [file.read_bytes() for file in files]

    for folder in ("one", "two"):
        write_ntu(tmp_path / f"{folder}{suffix}", NAMES[:2], seed=1)
    write_ntu(tmp_path / f"other{suffix}", NAMES[:2], seed=2)
    assert content(tmp_path / f"one{suffix}") == content(tmp_path / f"two{suffix}")
    assert content(tmp_path / f"one{suffix}") != content(tmp_path / f"other{suffix}")


def test_archives_contain_compressed_members(tmp_path):
    write_ntu(tmp_path / "raw.zip", NAMES[:1])
    with zipfile.ZipFile(tmp_path / "raw.zip") as archive:
        (member,) = archive.infolist()
    assert member.filename == f"{NAMES[0]}.skeleton"
    assert member.compress_size < 0.6 * member.file_size


def test_clip_names_are_divided_by_every_protocol_and_do_not_include_missing_clips():
    names = clip_names()
    keys = [NTU120.parse(name) for name in names]
    assert len(set(names)) == len(names)
    assert not frozenset(builtin_dataset("ntu120").missing) & set(names)
    assert {key.label + 1 for key in keys} == set(NTU_ACTIONS)
    assert {key.subject for key in keys} == set(range(1, 41))
    for protocol in (*NTU60.protocols.values(), *NTU120.protocols.values()):
        trained = Counter(getattr(key, protocol.field) in protocol.train for key in keys)
        assert min(trained.values()) > 0.3 * len(keys)


def test_the_demo_has_two_labels_per_class_at_5_percent():
    keys = [NTU120.parse(name) for name in demo_names()]
    train = Counter(key.label for key in keys if key.subject in NTU120.protocols["xsub"].train)
    assert {label + 1 for label in train} == set(DEMO_ACTIONS)
    assert {round(0.05 * count) for count in train.values()} == {2}
    test = Counter(key.label for key in keys if key.subject not in NTU120.protocols["xsub"].train)
    assert min(test.values()) >= 15
