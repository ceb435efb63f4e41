from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from psptool.common.errors import RawFormatError
from psptool.formats.readers.base import FileRef, RawClip
from psptool.formats.readers.ntu import NtuReader

from . import raw
from .conformance import TextReaderConformance, assert_same

READER = NtuReader()


def parse(blob: bytes) -> RawClip:
    source, blobs = raw.source_of(READER, {f"{raw.NTU_NAME}.skeleton": blob})
    return READER.parse(source, blobs)


def parse_lines(lines: list[str]) -> RawClip:
    return parse(("\r\n".join(lines) + "\r\n").encode())


class TestNtuConformance(TextReaderConformance):
    reader = READER
    name = raw.NTU_NAME
    stray = "nturgb+d_skeletons/S001C001P001R001A121.skeleton"

    def files(self) -> dict[str, bytes]:
        return {f"nturgb+d_skeletons/{raw.NTU_NAME}.skeleton": raw.ntu()}


def test_a_hand_made_file_is_read_with_the_expected_values() -> None:
    clip = parse(raw.ntu((1, 2, 0, 1)))
    assert clip.frames == 4
    assert clip.frame.tolist() == [0, 1, 1, 3]
    assert clip.body.tolist() == [raw.BODY_IDS[0], raw.BODY_IDS[0], raw.BODY_IDS[1], raw.BODY_IDS[0]]
    assert clip.xyz[2, 7].tolist() == [np.float32(v) for v in (-0.18, 0.24, 3.007)]
    assert clip.xyz[3, 24].tolist() == [np.float32(v) for v in (-0.26, 0.78, 3.024)]
    assert clip.state[0, :4].tolist() == [0, 1, 2, 0]
    key = clip.key
    assert (key.label, key.subject, key.camera, key.setup, key.repetition) == (23, 3, 2, 1, 1)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda blob: blob.replace(b"\r\n", b"\n"),
        lambda blob: blob.replace(b" ", b"\t"),
        lambda blob: blob.replace(b" ", b"  \t "),
        lambda blob: blob.replace(b"\r\n", b" \r\n "),
        lambda blob: blob.rstrip(),
        lambda blob: blob + b"\r\n \t\r\n",
        lambda blob: blob.replace(b"254.1", b"-Infinity"),
        lambda blob: blob.replace(b"254.1", b"0." + b"1" * 200),
        lambda blob: blob.replace(b" 3.001 ", b" " + b"0" * 90 + b"3.001 "),
    ],
    ids=[
        "LF line endings",
        "tabs",
        "several spaces between fields",
        "spaces around lines",
        "no newline at the end",
        "blank lines at the end",
        "infinity in an ignored field",
        "a line of several blocks",
        "a coordinate longer than a block",
    ],
)
def test_whitespace_and_ignored_fields_do_not_change_the_clip(rewrite: Callable[[bytes], bytes]) -> None:
    blob = raw.ntu()
    assert rewrite(blob) != blob
    assert_same(parse(rewrite(blob)), parse(blob))


@pytest.mark.parametrize("text", ["NaN", "nan", "-nan", "+NAN"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nan_is_kept_as_a_missing_joint_and_nothing_else_changes(text: str, axis: int) -> None:
    lines = raw.ntu_lines()
    fields = lines[6].split(" ")
    fields[axis] = text
    clip, plain = parse_lines([*lines[:6], " ".join(fields), *lines[7:]]), parse_lines(lines)
    assert np.argwhere(np.isnan(clip.xyz)).tolist() == [[0, 2, axis]]
    clip.xyz[0, 2, axis] = plain.xyz[0, 2, axis]
    assert_same(clip, plain)


def test_frames_without_a_body_count_as_frames() -> None:
    clip = parse(raw.ntu((0, 0, 1, 0)))
    assert (clip.frames, clip.frame.tolist()) == (4, [2])


def put(index: int, line: str) -> Callable[[list[str]], list[str]]:
    """An edit that replaces the line at a 0-based index."""
    return lambda lines: [*lines[:index], line, *lines[index + 1 :]]


# 1-based lines: 1 frame count, 2 body count, 3 body, 4 joint count, 5 to 29 joints; frame 2 begins in line 30.
FAULTS: list[tuple[str, Callable[[list[str]], list[str]], str, int, str]] = [
    ("truncated after a line", lambda ln: ln[:40], "truncated", 41, "the end of the file"),
    ("a truncated joint count", lambda ln: [*ln[:3], "2"], "joint count", 4, "'2'"),
    ("text as x", put(6, raw.joint_line("abc", "1", "2")), "not a number", 7, "'abc'"),
    ("text as z", put(6, raw.joint_line("1", "2", "1.2.3")), "not a number", 7, "'1.2.3'"),
    ("underscore", put(6, raw.joint_line("1_0", "1", "2")), "not a number", 7, "'1_0'"),
    ("a sign without digits", put(6, raw.joint_line("1", "-", "2")), "not a number", 7, "'-'"),
    ("an empty exponent", put(6, raw.joint_line("1e", "1", "2")), "not a number", 7, "'1e'"),
    ("hexadecimal", put(6, raw.joint_line("0x1", "1", "2")), "not a number", 7, "'0x1'"),
    ("a zero byte in x", put(6, raw.joint_line("1\0", "1", "2")), "not a number", 7, "x00"),
    ("NaN with another letter", put(6, raw.joint_line("1", "NaNs", "2")), "not a number", 7, "'NaNs'"),
    ("a point before NaN", put(6, raw.joint_line("1", ".nan", "2")), "not a number", 7, "'.nan'"),
    ("-inf", put(6, raw.joint_line("1", "-inf", "2")), "not finite", 7, "'-inf'"),
    ("above float64", put(6, raw.joint_line("1", "1e999", "2")), "not finite", 7, "'1e999'"),
    ("above float32", put(6, raw.joint_line("1", "-4E38", "2")), "not finite", 7, "'-4E38'"),
    ("above float32 without exponent", put(6, raw.joint_line("1", "1" * 40, "2")), "not finite", 7, "'111"),
    ("13 fields", lambda ln: [*ln[:9], ln[9].replace("0.97", "0. 97"), *ln[10:]], "field count", 10, "13 fields"),
    ("11 fields", lambda ln: [*ln[:9], ln[9].replace("0.97", ""), *ln[10:]], "field count", 10, "11 fields"),
    ("an empty joint line", put(9, ""), "field count", 10, "0 fields"),
    ("body of 9 fields", lambda ln: [*ln[:2], ln[2][:-2], *ln[3:]], "field count", 3, "9 fields"),
    ("body of 11 fields", lambda ln: [*ln[:2], ln[2] + " 1", *ln[3:]], "field count", 3, "11 fields"),
    ("20 joints", put(3, "20"), "joint count", 4, "'20'"),
    ("joint count as a word", put(3, "many"), "joint count", 4, "'many'"),
    ("no frame count", lambda ln: ["frames", *ln[1:]], "frame count", 1, "'frames'"),
    ("negative frame count", lambda ln: ["-4", *ln[1:]], "frame count", 1, "'-4'"),
    ("frame count with a point", lambda ln: ["4.0", *ln[1:]], "frame count", 1, "'4.0'"),
    ("two frame counts", lambda ln: ["4 4", *ln[1:]], "frame count", 1, "'4 4'"),
    ("10^12 frames", lambda ln: ["1000000000000", *ln[1:10]], "frame count", 1, "'1000000000000'"),
    ("10^9 frames", lambda ln: ["1000000000", *ln[1:10]], "truncated", 11, "the end of the file"),
    ("10^30 bodies", lambda ln: [ln[0], "1" + 30 * "0", *ln[2:]], "body count", 2, "'1000"),
    ("negative body count", lambda ln: [ln[0], "-1", *ln[2:]], "body count", 2, "'-1'"),
    ("body id with a letter", lambda ln: [*ln[:2], "x" + ln[2], *ln[3:]], "body id", 3, "'x7205"),
    ("body id over 64 bits", lambda ln: [*ln[:2], "999" + ln[2], *ln[3:]], "body id", 3, "'9997205"),
    ("state 3", put(5, raw.joint_line("1", "1", "2", "3")), "joint state", 6, "'3'"),
    ("state 22", put(5, raw.joint_line("1", "1", "2", "22")), "joint state", 6, "'22'"),
    ("data after the last frame", lambda ln: [*ln, "1"], "data after the last frame", 115, "'1'"),
    ("a digit of another script", lambda ln: [*ln[:6], "١" + ln[6], *ln[7:]], "not text", 7, "byte 0xd9"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "reason", "line", "found"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_the_error_of_a_malformed_file_names_the_line_and_the_text_found(
    edit: Callable[[list[str]], list[str]], reason: str, line: int, found: str
) -> None:
    with pytest.raises(RawFormatError) as caught:
        parse_lines(edit(raw.ntu_lines((1, 1, 0, 1, 1))))
    assert caught.value.reason == reason
    assert caught.value.where == f"{raw.NTU_NAME}.skeleton, line {line}"
    assert found in str(caught.value.found)
    assert caught.value.expected


def test_a_file_that_ends_within_a_line_is_truncated() -> None:
    with pytest.raises(RawFormatError, match="line 7: truncated") as caught:
        parse(b"\n".join(raw.ntu(end="\n").split(b"\n")[:7])[:-20])
    assert "the end of the file after '-0.48" in str(caught.value.found)


def test_a_recording_without_any_body_is_refused() -> None:
    for blob in (b"3\n0\n0\n0\n", b"0\n"):
        with pytest.raises(RawFormatError) as caught:
            parse(blob)
        assert caught.value.reason == "no body"


def test_no_memory_is_allocated_for_a_count_in_the_file() -> None:
    parse(raw.ntu())
    tracemalloc.start()
    try:
        for count in ("1000000000000", "2147483647"):
            with pytest.raises(RawFormatError):
                parse_lines([count, "2147483647", *raw.ntu_lines()[2:10]])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_body_ids_are_64_bit_integers() -> None:
    lines = raw.ntu_lines((1, 1))
    for line, identity in ((2, 2**63 - 1), (31 - 1, -5)):
        lines[line] = f"{identity} {lines[line].split(' ', 1)[1]}"
    assert parse_lines(lines).body.tolist() == [2**63 - 1, -5]


def test_a_file_name_that_is_only_a_suffix_is_a_stray() -> None:
    clips, (stray,) = NtuReader(any_name=True).find([FileRef(".skeleton", None, 1)])
    assert (clips, stray.name) == ([], ".skeleton")
