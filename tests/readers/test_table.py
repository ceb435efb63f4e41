from __future__ import annotations

import importlib.util
import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from psptool.common.errors import PspError, RawFormatError
from psptool.formats.readers import table
from psptool.formats.readers.base import RawClip
from psptool.formats.readers.scanner import MOST_TEXTS
from psptool.formats.readers.table import TableReader
from psptool.formats.readers.table_layout import MAX_COLUMNS, MAX_LAYOUTS
from psptool.schemas.formats import TableOptions
from psptool.skeletons.keys import ClipKey

from .conformance import ReaderConformance, TextReaderConformance
from .general import FLAT, JOINTS, NAME, SKELETON, key_of, lines, long, positions, wide
from .raw import source_of

needs_arrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")


def reader_of(dimensions: int = 3, joints: Sequence[str | None] = (), **options: Any) -> TableReader:
    skeleton = SKELETON if dimensions == 3 else FLAT
    return TableReader(skeleton, TableOptions(reader="table", **options), key_of, joints)


def parse(blob: bytes, dimensions: int = 3, **options: Any) -> RawClip:
    reader = reader_of(dimensions, **options)
    return reader.parse(*source_of(reader, {f"{NAME}.csv": blob}))


def assert_positions(clip: RawClip, xyz: np.ndarray[Any, Any] | None = None) -> None:
    xyz = positions() if xyz is None else xyz
    assert clip.xyz[..., : xyz.shape[-1]].tolist() == xyz.astype(np.float32).tolist()


class TestWideConformance(TextReaderConformance):
    reader = reader_of()
    name = NAME
    stray = "run_s03.csv"

    def files(self) -> dict[str, bytes]:
        return {f"{NAME}.csv": wide()}


class TestLongConformance(TextReaderConformance):
    reader = reader_of(form="long")
    name = NAME
    stray = "a/run_s03.tsv"

    def files(self) -> dict[str, bytes]:
        return {f"{NAME}.tsv": long(person="A").replace(b",", b"\t")}


class TestSpaceSeparatedConformance(TextReaderConformance):
    reader = reader_of(header=False, columns=("frame",), suffixes=(".pos",))
    name = NAME
    stray = "run_s03.pos"

    def files(self) -> dict[str, bytes]:
        rows = wide(separator="  ").split(b"\n", 1)[1].replace(b"\n", b"  \n")
        return {f"{NAME}.pos": rows}


@needs_arrow
class TestParquetConformance(ReaderConformance):
    reader = reader_of()
    name = NAME
    stray = "run_s03.parquet"

    def files(self) -> dict[str, bytes]:
        return {f"{NAME}.parquet": parquet(wide())}


def parquet(csv: bytes, **changed: Any) -> bytes:
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet as arrow_parquet

    found = arrow_csv.read_csv(io.BytesIO(csv))
    for name, values in changed.items():
        found = found.set_column(found.column_names.index(name), name, [values])
    stream = io.BytesIO()
    arrow_parquet.write_table(found, stream)
    return stream.getvalue()


def test_positions_and_frame_numbers_are_read_from_the_wide_form() -> None:
    clip = parse(wide())
    assert (clip.frames, clip.first_frame, clip.frame.tolist()) == (3, 5, [0, 1, 2])
    assert (clip.key, clip.body.tolist(), clip.notes) == (ClipKey(1, 3), [0, 0, 0], ())
    assert_positions(clip)


def test_rows_of_the_long_form_may_be_in_any_order() -> None:
    header, *rows = long(person=7).splitlines(keepends=True)
    for order in (rows, rows[::-1], rows[::2] + rows[1::2]):
        clip = parse(header + b"".join(order), form="long")
        assert (clip.frames, clip.frame.tolist(), clip.body.tolist()) == (3, [0, 1, 2], [7, 7, 7])
        assert_positions(clip)


@pytest.mark.parametrize("form", ["wide", "long"])
def test_a_2d_skeleton_ignores_the_z_column(form: str) -> None:
    flat = positions(channels=2)
    tables = {"wide": [wide(flat, axes="xy"), wide()], "long": [long(flat), long()]}[form]
    for blob in tables:
        clip = parse(blob, dimensions=2, form=form)
        assert_positions(clip, flat)
        assert not clip.xyz[..., 2].any()


@pytest.mark.parametrize(
    ("separator", "blob"),
    [(",", wide()), (";", wide(separator=";")), ("\t", wide(separator="\t")), (" ", wide(separator="   "))],
)
def test_the_separator_is_detected_or_set_by_an_option(separator: Any, blob: bytes) -> None:
    assert_positions(parse(blob))
    assert_positions(parse(blob, separator=separator))


@pytest.mark.parametrize("separator", [";", "\t", " "])
def test_decimal_commas_are_read_with_any_other_separator(separator: str) -> None:
    header, rows = wide(separator=separator).split(b"\n", 1)
    assert_positions(parse(header + b"\n" + rows.replace(b".", b","), decimal=","))


def test_quoted_fields_with_separators_and_line_breaks_are_read() -> None:
    header, *rows = wide().decode().splitlines()
    quoted = "\n".join(
        [",".join(f'"{name}"' for name in (*header.split(","), "a, note"))]
        + [",".join(f'"{field}"' for field in row.split(",")) + ',"one, ""two""\nthree"' for row in rows]
    )
    assert_positions(parse(quoted.encode()))
    assert_positions(parse(quoted.replace('","', '", "').encode()))
    plain = quoted.replace(', note"', ' note"').replace('"one, ""two""\nthree"', '"one two"')
    assert_positions(parse(plain.encode()))
    with pytest.raises(RawFormatError, match=r"line 3: not a number: found 'x'"):
        parse(plain.replace('"1.5"', '"x"', 1).encode())
    with pytest.raises(RawFormatError, match=r"line 6: not a number: found 'x'"):
        parse(quoted.replace('"2.5"', '"x"', 1).encode())


def test_names_are_compared_without_case_spaces_and_punctuation() -> None:
    header, rows = wide().split(b"\n", 1)
    for spelling in (b"left hand.", b"LeftHand ", b"LEFT-HAND_"):
        assert_positions(parse(header.replace(b"left_hand_", spelling) + b"\n" + rows))
        assert_positions(parse(long().replace(b"left hand", spelling), form="long"))


def test_column_names_follow_a_pattern_and_joints_may_be_renamed() -> None:
    rows = wide(numbers=None).split(b"\n", 1)[1]
    numbered = ",".join(f"{axis}{n}" for n in range(1, 5) for axis in "XYZ").encode()
    assert_positions(parse(numbered + b"\n" + rows, coordinate_columns="{axis}{number}", first_number=1))
    named = ",".join(f"pos_{axis}({joint})" for joint in ("h", *JOINTS[1:]) for axis in "uvw").encode()
    options = {"axes": ("u", "v", "w"), "joint_names": {"hip": "h"}}
    assert_positions(parse(named + b"\n" + rows, coordinate_columns="pos_{axis}({joint})", **options))


@pytest.mark.parametrize("first", [0, 1])
def test_joints_may_be_numbers_in_the_order_of_the_file(first: int) -> None:
    order = ("right hand", "nose", *JOINTS[:3])
    rows = [
        [t, order.index(joint) + first, *positions()[t, v]]
        for t in range(3)
        for v, joint in enumerate(JOINTS)
    ]
    blob = lines(["frame", "joint", "x", "y", "z"], *rows)
    assert_positions(parse(blob, form="long", joints=order, first_number=first))
    with pytest.raises(RawFormatError, match=f"joint number: found 9, expected {first} to {first + 4}"):
        parse(
            lines(["frame", "joint", "x", "y", "z"], [0, 9, 1, 2, 3]),
            form="long",
            joints=order,
            first_number=first,
        )


def test_rows_of_joints_that_are_not_in_the_skeleton_are_ignored() -> None:
    assert_positions(parse(long() + b"0,nose,9,9,9\n", form="long"))


def test_files_without_a_header_have_the_coordinates_joint_by_joint() -> None:
    rows = wide().split(b"\n", 1)[1]
    clip = parse(rows, header=False, columns=("frame",))
    assert clip.first_frame == 5
    assert_positions(clip)
    assert_positions(parse(rows.replace(b"\n", b",\n"), header=False, columns=("frame",)))
    assert_positions(parse(wide(numbers=None).split(b"\n", 1)[1], header=False))
    rows = long().split(b"\n", 1)[1]
    assert_positions(parse(rows, header=False, form="long", columns=("frame", "joint", "x", "y", "z")))


def test_files_without_a_header_may_have_confidences_and_joints_of_a_larger_skeleton() -> None:
    order = (None, *JOINTS)
    rows = [[1, *np.concatenate([[9, 9, 9, 1], *np.c_[frame, np.ones(4)]])] for frame in positions()]
    for t, row in enumerate(rows):
        row[0] = t
    rows[1][8] = 0  # the confidence of the hip in frame 1
    clip = parse(lines(*rows), header=False, columns=("frame",), joints=order)
    assert np.argwhere(np.isnan(clip.xyz).any(axis=-1)).tolist() == [[1, 0]]
    clip.xyz[1, 0] = positions()[1, 0]
    assert_positions(clip)


def test_a_column_without_a_name_is_ignored() -> None:
    rows = wide().decode().splitlines()
    indexed = "\n".join(f"{'' if n == 0 else n}\t{row}" for n, row in enumerate(rows)).replace(",", "\t")
    assert_positions(parse(indexed.encode()))


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_lines_may_end_with_carriage_returns(end: bytes) -> None:
    assert_positions(parse(wide().replace(b"\n", end)))
    with pytest.raises(RawFormatError, match="line 3: not a number"):
        parse(changed("1.61", "x").replace(b"\n", end))


def test_lines_before_the_header_and_blank_lines_are_skipped() -> None:
    assert_positions(parse(b"made by a program\n\nframes,3\n" + wide(), skip_lines=3))
    assert_positions(parse(b"\n\r\n" + wide().replace(b"\n", b"\n\n")))


@pytest.mark.parametrize("missing", ["", "NaN", "nan", "NA", "n/a", "null", "None", "-", "-NaN", " "])
def test_a_coordinate_without_a_number_is_missing(missing: str) -> None:
    clip = parse(wide().replace(b"1.61", missing.encode(), 1))
    assert np.argwhere(np.isnan(clip.xyz)).tolist() == [[1, 1, 1]]
    clip = parse(long().replace(b"1.61", missing.encode(), 1), form="long")
    assert np.argwhere(np.isnan(clip.xyz)).tolist() == [[1, 1, 1]]


def test_a_joint_without_a_row_is_missing() -> None:
    rows = long().splitlines(keepends=True)
    clip = parse(b"".join(rows[:6] + rows[7:]), form="long")
    assert np.argwhere(np.isnan(clip.xyz).any(axis=-1)).tolist() == [[1, 1]]


@pytest.mark.parametrize("form", ["wide", "long"])
def test_a_joint_with_low_confidence_is_missing(form: str) -> None:
    score = np.ones((3, 4, 1))
    score[1, 2], score[2, 0] = 0.5, 0
    values = np.concatenate([positions(), score], axis=2)
    if form == "wide":
        blob = wide(values, axes="xyzc").replace(b"_c", b"_confidence")
    else:
        rows = [[t, j, *values[t, v].tolist()] for t in range(3) for v, j in enumerate(JOINTS)]
        blob = lines(["frame", "joint", "x", "y", "z", "confidence"], *rows)
    for minimum, missing in ((0, [[2, 0]]), (0.5, [[1, 2], [2, 0]])):
        clip = parse(blob, form=form, min_confidence=minimum)
        assert np.argwhere(np.isnan(clip.xyz).any(axis=-1)).tolist() == missing
    clip = parse(blob.replace(b"confidence", b"score"), form=form, confidence="score")
    assert np.isnan(clip.xyz).any()


def test_a_skipped_frame_number_is_a_frame_without_a_body() -> None:
    clip = parse(wide(positions(3), (-2, 0, 5)))
    assert (clip.frames, clip.first_frame, clip.frame.tolist()) == (8, -2, [0, 2, 7])
    clip = parse(wide(positions(3), (1, 3, 7)), max_gap=1)
    assert clip.frame.tolist() == [0, 1, 2, 6]
    assert np.allclose(clip.xyz[1], positions()[:2].mean(axis=0))


def test_a_missing_joint_is_not_interpolated_across_a_gap() -> None:
    clip = parse(
        wide(positions(2), (1, 4)).replace(b"0.61", b"0").replace(b",0.6,", b",0,").replace(b"0.62", b"0"),
        max_gap=5,
    )
    assert clip.frame.tolist() == [0, 1, 2, 3]
    assert np.argwhere(np.isnan(clip.xyz).any(axis=-1)).tolist() == [[1, 1], [2, 1]]


@pytest.mark.parametrize("separator", [b",", b"\t"])
@pytest.mark.parametrize("quote", [b"", b'"'])
def test_without_frame_numbers_rows_are_consecutive_frames_and_empty_rows_have_no_body(
    separator: bytes, quote: bytes
) -> None:
    header, first, second, third = wide(numbers=None).replace(b",", separator).splitlines(keepends=True)
    first = quote + first.replace(separator, quote + separator, 1)
    clip = parse(header + first + separator * 11 + b"\r\n" + second + b" \n" + third)
    assert (clip.frames, clip.first_frame, clip.frame.tolist()) == (4, 0, [0, 2, 3])


@pytest.mark.parametrize("quote", [b"", b'"'])
def test_without_a_header_rows_of_tabs_have_no_body_also_before_the_first_coordinate(quote: bytes) -> None:
    first, second, third = wide(numbers=None).replace(b",", b"\t").splitlines(keepends=True)[1:]
    second = quote + second.replace(b"\t", quote + b"\t", 1)
    empty = b"\t" * 11 + b"\n"
    blob = b"skipped\n" + b"\n" + empty + empty + first + empty + second + third
    clip = parse(blob, header=False, skip_lines=1)
    assert (clip.frames, clip.frame.tolist()) == (6, [2, 4, 5])
    with pytest.raises(RawFormatError, match="line 2: field count: found 3 fields"):
        parse(blob.replace(b"\n" + empty, b"\t\t\n", 1), header=False, skip_lines=1)


def test_the_first_of_several_rows_for_the_same_frame_is_used_and_the_others_are_reported() -> None:
    header, *rows = wide().splitlines(keepends=True)
    clip = parse(b"".join([header, rows[0], rows[0].replace(b"0.5", b"9"), *rows[1:]]))
    assert_positions(clip)
    assert clip.notes == ("1 row with the frame and person of an earlier row, ignored",)
    clip = parse(long() + b"1,neck,9,9,9\n1,hip,9,9,9\n", form="long")
    assert_positions(clip)
    assert clip.notes == ("2 rows with the frame, person and joint of an earlier row, ignored",)


@pytest.mark.parametrize("names", [("4", "9"), ("9.0", "4.0"), ("Eva", "Adam"), ("Eva", "4"), ("", "4")])
def test_persons_may_have_numbers_or_names(names: tuple[str, str]) -> None:
    other = 10 + positions()
    blob = long(person=names[0]) + long(other, person=names[1]).split(b"\n", 1)[1]
    clip = parse(blob, form="long")
    assert clip.frame.tolist() == [0, 0, 1, 1, 2, 2]
    numbers = [int(float(name)) for name in names] if names[0][:1].isdigit() else [0, 1]
    for number, xyz in zip(numbers, (positions(), other), strict=True):
        assert clip.xyz[clip.body == number].tolist() == xyz.astype(np.float32).tolist()


def test_each_person_has_its_own_row_in_the_wide_form() -> None:
    rows = [[t, p, *(p + positions()[t]).ravel()] for t in range(3) for p in (2, 1)]
    names = [f"{joint}_{axis}" for joint in JOINTS for axis in "xyz"]
    clip = parse(lines(["frame", "person", *names], *rows))
    assert (clip.frame.tolist(), clip.body.tolist()) == ([0, 0, 1, 1, 2, 2], [1, 2] * 3)
    assert np.allclose(clip.xyz[clip.body == 2], 2 + positions())


@pytest.mark.parametrize(
    "text", ["0.1234567890123456", "-1.234567890123456789e-01", "7e-5", "12345678901234567890", ".5", "1e-30"]
)
def test_numbers_of_any_length_are_read(text: str) -> None:
    clip = parse(wide().replace(b"0.61", text.encode(), 1))
    assert clip.xyz[0, 1, 1] == np.float32(float(text))


def test_a_csv_file_of_deeplabcut_is_read_without_its_three_header_lines() -> None:
    nodes = ("right hand", "tail", "hip", "neck", "left hand")
    joints = [None if node == "tail" else node for node in nodes]
    xy = positions(2, 2)
    rows: list[list[object]] = [
        ["scorer", *["DLC_resnet50"] * 15],
        ["bodyparts", *np.repeat(nodes, 3)],
        ["coords", *["x", "y", "likelihood"] * 5],
    ]
    for t in range(2):
        places = [[9, 9, 0.9] if joint is None else [*xy[t, JOINTS.index(joint)], 0.9] for joint in joints]
        rows.append([t, *np.ravel(places).tolist()])
    rows[4][15] = 0.1  # the left hand in frame 1
    options: dict[str, Any] = {"skip_lines": 3, "header": False, "columns": ["frame"], "min_confidence": 0.6}
    reader = reader_of(2, joints, **options)
    clip = reader.parse(*source_of(reader, {f"{NAME}.csv": lines(*rows)}))
    expected = xy.astype(np.float32)
    expected[1, 2] = np.nan
    assert np.array_equal(clip.xyz[..., :2], expected, equal_nan=True)


@needs_arrow
def test_parquet_is_read_as_the_same_clips_as_csv() -> None:
    import pyarrow as arrow

    for blob, options in (
        (wide(), {}),
        (long(person="Eva"), {"form": "long"}),
        (long(person=12345678901234567), {"form": "long"}),
    ):
        expected, found = parse(blob, **options), parse(parquet(blob), **options)
        for field in ("frame", "body", "xyz", "state", "frames", "first_frame"):
            assert np.array_equal(getattr(found, field), getattr(expected, field))
    numbers = arrow.array([5, None, 7], arrow.int32())
    assert np.isnan(parse(parquet(wide(), neck_x=numbers)).xyz).sum() == 1


def test_the_layouts_of_a_reader_are_cached_and_limited_in_number() -> None:
    reader = reader_of()
    header, rows = wide().split(b"\n", 1)
    for n in range(MAX_LAYOUTS + 5):
        blob = header + f",more{n}".encode() + b"\n" + rows.replace(b"\n", b",1\n")
        assert_positions(reader.parse(*source_of(reader, {f"{NAME}.csv": blob})))
    assert len(reader._layouts._known) == MAX_LAYOUTS
    assert_positions(pickle.loads(pickle.dumps(reader)).parse(*source_of(reader, {f"{NAME}.csv": wide()})))


def test_joint_options_that_do_not_match_the_skeleton_are_refused() -> None:
    with pytest.raises(PspError, match="no joint 'neck' of the skeleton small4"):
        reader_of(joints=("hip", "Neck", "left hand", "right hand"))
    with pytest.raises(PspError, match=r"joint_names: .*'hips'.* Did you mean hip\?"):
        reader_of(joint_names={"hips": "pelvis"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reader": "tables"}, "'table'"),
        ({"suffixes": ["csv"]}, "'csv' is not a lower-case suffix"),
        ({"suffixes": []}, "at least 1"),
        ({"separator": "|"}, "separator"),
        ({"decimal": ",", "separator": ","}, "needs another separator"),
        ({"columns": ["frame"]}, "only for files without a header"),
        ({"header": False, "form": "long"}, "names of all columns"),
        ({"axes": ["x"]}, "at least 2"),
        ({"axes": ["x", "x"]}, "'x' occurs more than once"),
        ({"coordinate_columns": "{joint}"}, "{joint}_{axis}"),
        ({"coordinate_columns": "{joint.x}_{axis}"}, "{joint}_{axis}"),
        ({"coordinate_columns": "{joint!r}_{axis}"}, "{joint}_{axis}"),
        ({"coordinate_columns": "{joint"}, "expected"),
        ({"max_gap": -1}, "max_gap"),
        ({"sep": ";"}, "sep"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TableOptions(**{"reader": "table", **options})
    assert message in str(caught.value)


def changed(old: str, new: str, blob: bytes | None = None) -> bytes:
    blob = wide() if blob is None else blob
    assert old.encode() in blob
    return blob.replace(old.encode(), new.encode(), 1)


LONG = {"form": "long"}
ROW = ["frame", "joint", "x", "y", "z"]
OTHERS = lines(ROW, *([0, f"j{n}", 1, 2, 3] for n in range(MOST_TEXTS + 1)))
# name, bytes, options, reason, where, text in the message. The value 1.61 is in line 3 (long form: line 7).
FAULTS: list[tuple[str, bytes, dict[str, Any], str, str, str]] = [
    ("no bytes", b"", {}, "empty file", "", "0 bytes"),
    ("only whitespace", b" \n\n", {}, "empty file", "", "3 bytes"),
    ("UTF-16", wide().decode().encode("utf-16"), {}, "not text", "line 1", "UTF-8"),
    ("Latin-1", changed("1.61", "1.61").replace(b"1.61", b"\xe4"), {}, "not text", "line 3", "byte 0xe4"),
    ("a zero byte", changed("1.61", "\0"), {}, "not text", "line 3", "byte 0x00"),
    ("header only", wide().splitlines()[0], {}, "no body", "", "0 frames"),
    ("fewer lines than are skipped", wide(), {"skip_lines": 9}, "truncated", "", "the first 9"),
    ("a joint without a column", changed("neck_y", "neck_q"), {}, "columns", "header", "did you mean neck_z?"),
    ("a joint with two columns", changed("neck_y", "neck_x"), {}, "columns", "header", "2 columns 'neck_x'"),
    ("no frame column", wide(), {"frame": "time"}, "columns", "header", "a column 'time' (option `frame`)"),
    ("no person column", wide(), {"person": "id"}, "columns", "header", "(option `person`)"),
    ("no confidence", wide(), {"confidence": "c"}, "columns", "header", "'hip_c' (option `confidence`)"),
    ("a column with two uses", wide(), {"person": "frame"}, "columns", "header", "for two things"),
    ("a person column without a frame column", changed("frame", "person"), {}, "columns", "header", "(option `frame`)"),
    ("one axis too few", wide(), {"axes": ("x", "y")}, "axes", "header", "3 dimensions"),
    ("text", changed("1.61", "abc"), {}, "not a number", "line 3", "'abc'"),
    ("an underscore", changed("1.61", "1_61"), {}, "not a number", "line 3", "'1_61'"),
    ("a decimal comma", changed("1.61", "1,61"), {}, "field count", "line 3", "14 fields"),
    ("infinity", changed("1.61", "-inf"), {}, "not finite", "line 3", "'-inf'"),
    ("beyond float32", changed("1.61", "1e39"), {}, "not finite", "line 3", "'1e39'"),
    ("many digits beyond float32", changed("1.61", "1" + "0" * 17 + "e22"), {}, "not finite", "line 3", "e22'"),
    ("one field too few", changed("1.61,", ""), {}, "field count", "line 3", "12 fields"),
    ("another separator in one line", wide().replace(b"6,1.5,", b"6;1.5;"), {}, "field count", "line 3", "11 fields"),
    ("a fractional frame number", changed("6,1.5", "6.5,1.5"), {}, "frame number", "line 3, column frame", "6.5"),
    ("no frame number", changed("6,1.5", ",1.5"), {}, "frame number", "line 3, column frame", "no number"),
    ("an inexact frame number", changed("6,1.5", "1e17,1.5"), {}, "frame number", "line 3, column frame", "1e+17"),
    ("times as frame numbers", changed("6,1.5", "1690000000,1.5"), {}, "frame numbers", "column frame", "not times"),
    ("several persons", wide(numbers=(1, 1, 1)), {}, "several persons", "", "(option `person`)"),
    ("several persons, long form", long() + long().split(b"\n", 1)[1], LONG, "several persons", "", "row per joint"),
    ("no coordinates", lines(ROW, [0, "hip", "", "", ""]), LONG, "no body", "", "in 1 frame,"),
    ("no joint column", long(), {**LONG, "joint": "part"}, "columns", "header", "(option `joint`)"),
    ("no joint of the skeleton", lines(ROW, [0, "a", 1, 2, 3]), LONG, "joint names", "column joint", "'hip'"),
    ("no frame column, long form", long().replace(b"frame", b"time"), LONG, "columns", "header", "a column 'frame'"),
    ("text, long form", changed("1.61", "x", long()), LONG, "not a number", "line 7", "'x'"),
    ("too many joints", OTHERS, LONG, "names", f"line {MOST_TEXTS + 2}", f"at most {MOST_TEXTS}"),
    ("too many columns", lines(range(MAX_COLUMNS + 1)), {}, "columns", "header", "20001 columns"),
    ("a first line of spaces", "\xa0\n1 2\n".encode(), {"header": False}, "columns", "first line", "found 0 columns"),
    ("no header", wide().split(b"\n", 1)[1], {"header": False}, "field count", "line 1", "13, expected 12: 4 joints"),
    ("an open quote", changed("1.61", '"1.61'), {}, "field count", "line 3", "expected 13 fields"),
    ("damaged Parquet", b"PAR1" + b"\0" * 50, {}, "damaged", "", "Parquet"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("blob", "options", "reason", "where", "text"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_the_error_of_a_broken_file_names_the_line_or_column_and_the_reason(
    blob: bytes, options: dict[str, Any], reason: str, where: str, text: str
) -> None:
    with pytest.raises(RawFormatError) as caught:
        parse(blob, **options)
    assert caught.value.reason == reason
    assert caught.value.where == f"{NAME}.csv" + (f", {where}" if where else "")
    assert text in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_size_of_a_long_table_with_few_joints_per_frame_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table, "MAX_CELLS", 11)
    with pytest.raises(RawFormatError, match="too large: found 3 bodies of 4 joints, expected at most 11"):
        parse(long(), form="long")


@needs_arrow
def test_the_error_of_a_broken_parquet_file_names_the_column() -> None:
    import pyarrow as arrow

    for changes, reason, text in (
        ({"neck_x": arrow.array(["a", "b", "c"])}, "type", "column neck_x"),
        ({"neck_x": arrow.array([[1], [2], [3]])}, "type", "column neck_x"),
        ({"neck_x": arrow.array([1.0, float("inf"), 2.0])}, "not finite", "row 2, column neck_x: .*'inf'"),
        ({"frame": arrow.array([1.5, 2.0, 3.0])}, "frame number", "row 1, column frame"),
    ):
        with pytest.raises(RawFormatError, match=text) as caught:
            parse(parquet(wide(), **changes))
        assert caught.value.reason == reason
    # Encoded row counts in the metadata: 3 and -3.
    whole, rows, negative = parquet(wide()), b"\x16\x06\x19\x1c", b"\x16\x05\x19\x1c"
    assert whole.count(rows) == 1
    for blob in (whole[:-20], whole.replace(rows, negative)):
        with pytest.raises(RawFormatError) as caught:
            parse(blob)
        assert caught.value.reason == "damaged"


def test_without_pyarrow_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(PspError, match="pip install pyarrow"):
        parse(b"PAR1")


def test_a_file_of_utkinect_is_read_as_a_wide_table_separated_by_spaces() -> None:
    rows = [f"{190 + 2 * t}   " + "  ".join(f"{t + v / 100:.6f}" for v in range(60)) + "  " for t in range(3)]
    joints = (*JOINTS, *[None] * 16)
    options = {"header": False, "columns": ("frame",), "joints": joints, "max_gap": 10}
    clip = parse("\n".join([rows[0], *rows]).encode(), **options)
    assert (clip.first_frame, clip.frames, clip.frame.tolist()) == (190, 5, [0, 1, 2, 3, 4])
    assert clip.notes == ("1 row with the frame and person of an earlier row, ignored",)
    assert np.allclose(clip.xyz[3].ravel(), 1.5 + np.arange(12) / 100)
