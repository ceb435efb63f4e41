from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from psptool.common.errors import RawFormatError
from psptool.formats.readers.base import STATE_UNKNOWN, RawClip
from psptool.formats.readers.making import make_readers
from psptool.formats.readers.sources import find_clips, read_clip
from psptool.formats.readers.ucla import MAX_JSON_BYTES, UclaJsonReader
from psptool.schemas.description import DatasetDescription
from psptool.skeletons.keys import NO_LABEL
from tests.builtin import UCLA

from . import raw
from .conformance import TextReaderConformance, assert_same

READER = UclaJsonReader()
FILE = f"all_sqe/{raw.UCLA_NAME}.json"


def parse(blob: bytes) -> RawClip:
    return READER.parse(*raw.source_of(READER, {FILE: blob}))


class TestUclaJsonConformance(TextReaderConformance):
    reader = READER
    name = raw.UCLA_NAME
    stray = "all_sqe/a07_s01_e00_v01.json"

    def files(self) -> dict[str, bytes]:
        return {FILE: raw.ucla_json()}


def test_a_hand_made_file_is_read_with_the_expected_values() -> None:
    clip = parse(raw.ucla_json(3))
    assert (clip.frames, clip.frame.tolist(), clip.body.tolist()) == (3, [0, 1, 2], [0, 0, 0])
    assert clip.xyz[2, 7].tolist() == [np.float32(v) for v in (-0.43, 0.34, 3.007)]
    assert (clip.state == STATE_UNKNOWN).all()
    key = clip.key
    assert (key.label, key.subject, key.camera, key.repetition) == (0, 2, 1, 3)


def test_additional_keys_are_ignored() -> None:
    more = raw.ucla_json(3, author="José", device={"fps": 30})
    assert_same(parse(more), parse(raw.ucla_json(3)))
    assert_same(parse(json.dumps(json.loads(more), ensure_ascii=False).encode()), parse(raw.ucla_json(3)))


def test_file_joints_in_another_order_are_read_by_name() -> None:
    joints = tuple(reversed(UCLA.skeleton.joints))
    dataset = DatasetDescription.model_validate({**UCLA.model_dump(), "file_joints": joints})
    (reader, _) = make_readers(dataset)
    clip = reader.parse(*raw.source_of(reader, {FILE: raw.ucla_json(3)}))
    assert (clip.xyz == parse(raw.ucla_json(3)).xyz[:, ::-1]).all()


def test_a_single_frame_is_a_clip() -> None:
    assert parse(raw.ucla_json(1)).frames == 1


def test_joints_at_exactly_zero_are_kept() -> None:
    skeletons = [[[0, 0.0, -0.0]] * 20]
    assert (parse(raw.ucla_json(skeletons=skeletons)).xyz == 0).all()


def with_joint(joint: object) -> bytes:
    """A clip with this value as joint 4 of frame 1."""
    content = json.loads(raw.ucla_json())
    content["skeletons"][1][4] = joint
    return json.dumps(content).encode()


JOINT = "skeletons[1][4]"
FAULTS: list[tuple[str, bytes, str, str, str]] = [
    ("a list", b"[1, 2]", "not an object", "", "[1, 2]"),
    ("a number", b"3", "not an object", "", "3"),
    ("null", b"null", "not an object", "", "None"),
    ("truncated", raw.ucla_json()[:-1], "truncated", ", line 1", "the end of the file"),
    ("not JSON", b'{"file_name": x}', "not JSON", ", line 1", "'x}'"),
    ("data after the object", raw.ucla_json() + b"\n{}", "not JSON", ", line 2", "'{}'"),
    ("a missing key", b'{"label": 1, "skeletons": []}', "keys", "", "['label', 'skeletons']"),
    ("OpenPose", b'{"version": 1.3, "people": []}', "another format", "", "OpenPose"),
    (
        "another file's name",
        raw.ucla_json(file_name="a01_s02_e03_v02"),
        "file name",
        ", file_name",
        "e03_v02",
    ),
    ("another label", raw.ucla_json(label=2), "label", ", label", "2"),
    ("label true", raw.ucla_json(label=True), "label", ", label", "True"),
    ("label as a string", raw.ucla_json(label="1"), "label", ", label", "'1'"),
    ("no frames", raw.ucla_json(skeletons=[]), "shape", ", skeletons", "[]"),
    ("skeletons as an object", raw.ucla_json(skeletons={}), "shape", ", skeletons", "{}"),
    ("19 joints", raw.ucla_json(skeletons=[[[0, 0, 0]] * 19]), "joint count", ", skeletons[0]", "19 joints"),
    ("no list of joints", raw.ucla_json(skeletons=[0.5]), "joint count", ", skeletons[0]", "0.5"),
    ("2 coordinates", with_joint([1, 2]), "shape", f", {JOINT}", "[1, 2]"),
    ("4 coordinates", with_joint([1, 2, 3, 4]), "shape", f", {JOINT}", "[1, 2, 3, 4]"),
    ("nested deeper", with_joint([[1], [2], [3]]), "not a number", f", {JOINT}", "[1]"),
    ("text", with_joint([1, "2", 3]), "not a number", f", {JOINT}", "'2'"),
    ("true", with_joint([1, True, 3]), "not a number", f", {JOINT}", "True"),
    ("null as coordinate", with_joint([1, None, 3]), "not a number", f", {JOINT}", "None"),
    ("Infinity", with_joint([1, 2, -float("inf")]), "not finite", f", {JOINT}", "-Infinity"),
    ("above float32", with_joint([1, 1e39, 3]), "not finite", f", {JOINT}", "1e+39"),
    ("an integer above float64", with_joint([1, 10**400, 3]), "not finite", f", {JOINT}", "inf"),
    ("not UTF-8", raw.ucla_json().replace(b"s02", b"s\xe9"), "not text", ", line 1", "byte 0xe9"),
    ("lists nested deep", b"[" * 1_000_000, "not JSON", "", "brackets"),
    ("objects nested deep", b'{"a":' * 500_000, "not JSON", "", "brackets"),
    ("too large", b" " * (MAX_JSON_BYTES + 1), "too large", "", f"{MAX_JSON_BYTES + 1} bytes"),
]


@pytest.mark.parametrize(
    ("blob", "reason", "place", "found"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_the_error_of_a_malformed_file_names_the_key_and_the_value_found(
    blob: bytes, reason: str, place: str, found: str
) -> None:
    with pytest.raises(RawFormatError) as caught:
        parse(blob)
    assert caught.value.reason == reason
    assert caught.value.where == FILE + place
    assert found in str(caught.value.found)
    assert caught.value.expected


def test_a_clip_whose_class_is_unknown_may_have_any_label_in_its_file() -> None:
    clips = {**UCLA.clips.model_dump(), "unlabelled": ["7"]}
    dataset = DatasetDescription.model_validate({**UCLA.model_dump(), "clips": clips})
    (reader, _) = make_readers(dataset)
    name = "a07_s02_e03_v01"
    blob = raw.ucla_json(file_name=name, label=7)
    assert reader.parse(*raw.source_of(reader, {f"all_sqe/{name}.json": blob})).key.label == NO_LABEL
    with pytest.raises(RawFormatError, match="label"):
        reader.parse(*raw.source_of(reader, {FILE: raw.ucla_json(label=7)}))


def test_a_number_of_a_million_digits_is_refused_within_a_second() -> None:
    began = time.thread_time()
    with pytest.raises(RawFormatError):
        parse(b'{"label":' + b"7" * 1_000_000 + b"}")
    assert time.thread_time() - began < 1


@pytest.mark.slow
@pytest.mark.real
def test_the_real_recordings_all_parse() -> None:
    folder = os.environ.get("PSPTOOL_UCLA_RAW")
    if folder is None:
        pytest.skip("PSPTOOL_UCLA_RAW is not set")
    clips, strays = find_clips([Path(folder)], READER)
    parsed = [READER.parse(source, read_clip(source)) for source in clips]
    assert strays == []
    assert (len(parsed), sum(clip.frames for clip in parsed)) == (1484, 58_534)
    assert [sum(clip.key.camera == view for clip in parsed) for view in (1, 2, 3)] == [516, 504, 464]
    assert sorted(clip.name for clip in parsed if clip.frames == 1) == ["a02_s09_e04_v02", "a02_s09_e04_v03"]
    zero = {clip.name: int((clip.xyz == 0).all(-1).sum()) for clip in parsed if (clip.xyz == 0).all(-1).any()}
    assert sorted(zero) == ["a04_s01_e01_v01", "a04_s04_e02_v01"]
    assert sum(zero.values()) == 12


def test_nan_is_kept_as_a_missing_joint() -> None:
    clip = parse(with_joint([1, float("nan"), 3]))
    assert np.argwhere(np.isnan(clip.xyz)).tolist() == [[1, 4, 1]]
    assert clip.xyz[1, 4, ::2].tolist() == [1, 3]
