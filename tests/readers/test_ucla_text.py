from __future__ import annotations

import numpy as np
import pytest

from psptool.common.errors import RawFormatError
from psptool.formats.readers.base import FileRef, RawClip
from psptool.formats.readers.ucla import MAX_TEXT_BYTES, UclaTextReader

from . import raw
from .conformance import TextReaderConformance

READER = UclaTextReader()
LIST = f"{raw.UCLA_FOLDER}/fileList.txt"


def parse(frames: dict[int, bytes], listed: str | None = None) -> RawClip:
    """The clip parsed from frame files (index -> content)."""
    files = {raw.ucla_frame_name(index): blob for index, blob in frames.items()}
    if listed is not None:
        files[LIST] = listed.encode()
    return READER.parse(*raw.source_of(READER, files))


class TestUclaTextConformance(TextReaderConformance):
    reader = READER
    name = raw.UCLA_NAME
    stray = "view_1/a07_s02_e03/frame_1_tc_1033_skeletons.txt"

    def files(self) -> dict[str, bytes]:
        return {raw.ucla_frame_name(9): raw.ucla_frame(0), raw.ucla_frame_name(10): raw.ucla_frame(1)}


def test_hand_made_files_are_read_with_the_expected_values() -> None:
    clip = parse({4: raw.ucla_frame(0), 5: raw.ucla_frame(2)})
    assert (clip.frames, clip.frame.tolist(), clip.body.tolist()) == (2, [0, 1], [0, 0])
    assert clip.xyz[1, 7].tolist() == [np.float32(v) for v in (-0.43, 0.34, 3.007)]
    assert clip.state[0, :4].tolist() == [0, 1, 2, 0]
    assert (clip.key.label, clip.key.subject, clip.key.camera, clip.key.repetition) == (0, 2, 1, 3)


def test_frames_are_sorted_by_number_and_not_by_name() -> None:
    clip = parse({10: raw.ucla_frame(10), 9: raw.ucla_frame(9), 100: raw.ucla_frame(100)})
    assert clip.xyz[:, 0, 1].tolist() == [np.float32(v) for v in (0.9, 1.0, 10.0)]


def test_two_files_with_the_same_number_are_two_frames_in_order_of_timestamp() -> None:
    names = [f"{raw.UCLA_FOLDER}/frame_1_tc_{time}_skeletons.txt" for time in (1000, 999)]
    files = {names[0]: raw.ucla_frame(1), names[1]: raw.ucla_frame(0)}
    clip = READER.parse(*raw.source_of(READER, files))
    assert clip.xyz[:, 0, 1].tolist() == [np.float32(v) for v in (0.0, 0.1)]


def test_without_a_file_list_the_files_are_consecutive_frames() -> None:
    clip = parse({1: raw.ucla_frame(1), 5: raw.ucla_frame(5)})
    assert (clip.frames, clip.frame.tolist()) == (2, [0, 1])


def test_a_listed_frame_without_a_file_has_no_body() -> None:
    listed = "1 1033\r\n2 1066\r\n\r\n3 frame_3.jpg 1099\r\n"
    clip = parse({1: raw.ucla_frame(1), 3: raw.ucla_frame(3), 4: raw.ucla_frame(4)}, listed)
    assert (clip.frames, clip.frame.tolist()) == (4, [0, 2, 3])


def test_an_empty_file_list_adds_no_frames() -> None:
    assert parse({1: raw.ucla_frame(1)}, "").frames == 1


@pytest.mark.parametrize(
    "blob",
    [b"", b"\r\n", b"60\r\n", raw.ucla_frame(1, rows=19), raw.ucla_frame(1)[:-12], b"0\r\n\r\n"],
    ids=["empty", "a blank line", "no rows", "19 rows", "a truncated last row", "an empty block"],
)
def test_a_frame_file_without_a_complete_body_is_a_frame_without_a_body(blob: bytes) -> None:
    clip = parse({1: raw.ucla_frame(1), 2: blob, 3: raw.ucla_frame(3)})
    assert (clip.frames, clip.frame.tolist()) == (3, [0, 2])


def test_the_first_of_two_blocks_is_used() -> None:
    two = raw.ucla_frame(1) + raw.ucla_frame(7)
    assert parse({1: two}).xyz[:, 0, 1].tolist() == [np.float32(0.1)]


def changed(old: bytes, new: bytes) -> bytes:
    blob = raw.ucla_frame(0)
    assert old in blob
    return blob.replace(old, new, 1)


# The row of joint 2, in line 4, is "-0.48,0.04,3.002,2".
FAULTS: list[tuple[str, bytes, str, str, str]] = [
    ("no header", raw.ucla_frame(0)[4:], "header", "line 1", "'-0.5,0,3,0"),
    ("text", changed(b"3.002", b"abc"), "not a number", "line 4", "'abc'"),
    ("underscore", changed(b"3.002", b"3_002"), "not a number", "line 4", "'3_002'"),
    ("nothing between commas", changed(b"3.002", b""), "not a number", "line 4", "''"),
    ("nan followed by a digit", changed(b"3.002", b"nan1"), "not a number", "line 4", "'nan1'"),
    ("infinity", changed(b"3.002", b"-1.0e999"), "not finite", "line 4", "'-1.0e999'"),
    ("above float32", changed(b"3.002", b"1e39"), "not finite", "line 4", "'1e39'"),
    ("5 fields", changed(b"3.002", b"3,.002"), "field count", "line 4", "5 fields"),
    ("3 fields", changed(b"3.002,", b""), "field count", "line 4", "3 fields"),
    ("state 3", changed(b"3.002,2", b"3.002,3"), "joint state", "line 4", "'3'"),
    ("21 rows", raw.ucla_frame(0) + b"1,2,3,2\r\n", "joint count", "line 22", "row 21"),
    ("not text", changed(b"3.002", b"3\xff"), "not text", "line 4", "byte 0xff"),
    ("too large", b"1\n" * MAX_TEXT_BYTES, "too large", "", "bytes"),
]


@pytest.mark.parametrize(
    ("blob", "reason", "place", "found"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_the_error_of_a_malformed_frame_file_names_the_line_and_the_text_found(
    blob: bytes, reason: str, place: str, found: str
) -> None:
    with pytest.raises(RawFormatError) as caught:
        parse({1: raw.ucla_frame(0), 2: blob})
    assert caught.value.reason == reason
    assert caught.value.where == raw.ucla_frame_name(2) + (f", {place}" if place else "")
    assert found in str(caught.value.found)
    assert caught.value.expected


def test_a_malformed_file_list_names_the_line() -> None:
    with pytest.raises(RawFormatError, match=r"fileList.txt, line 2: file list: found 'x'") as caught:
        parse({1: raw.ucla_frame(0)}, "1 1033\nx 1066\n")
    assert caught.value.reason == "file list"


def test_a_recording_without_any_body_is_refused() -> None:
    with pytest.raises(RawFormatError) as caught:
        parse({1: b"", 2: b"60\n"}, "3 1099\n")
    assert caught.value.reason == "no body"
    assert "3 frames" in str(caught.value.found)


def test_a_frame_file_with_an_invalid_name_is_a_stray() -> None:
    invalid = f"{raw.UCLA_FOLDER}/frame_x_tc_1_skeletons.txt"
    clips, (stray,) = READER.find([FileRef(invalid, None, 1), FileRef(raw.ucla_frame_name(1), None, 1)])
    assert len(clips) == 1
    assert stray.source == invalid


def test_folders_with_the_same_name_in_different_views_are_different_clips() -> None:
    names = [f"x/view_{view}/a01_s02_e03/frame_1_tc_1_skeletons.txt" for view in (2, 3)]
    clips, _ = READER.find([FileRef(name, None, 1) for name in names])
    assert [clip.name for clip in clips] == ["a01_s02_e03_v02", "a01_s02_e03_v03"]


def test_nan_is_kept_as_a_missing_joint() -> None:
    clip = parse({0: changed(b"3.002", b"NaN")})
    assert np.argwhere(np.isnan(clip.xyz)).tolist() == [[0, 2, 2]]
    assert clip.xyz[0, 2, :2].tolist() == [np.float32(-0.48), np.float32(0.04)]
