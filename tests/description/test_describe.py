"""``psptool describe``: lists, descriptions as YAML, and guesses from recordings."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from psptool.data.store.reading import open_store
from psptool.preparation.guessing import guess, in_order, name_pattern
from psptool.preparation.guessing_units import frame_rate, time_column
from psptool.schemas.builtin import builtin_dataset, dataset_names, load_description
from psptool.schemas.builtin_skeletons import builtin_skeleton, skeleton_names
from psptool.schemas.skeleton import SkeletonDescription
from tests.cli.conftest import Psptool
from tests.readers.general import npy

from .test_formats import CLASSES, FORMATS, NAMES, coco_pickle


def test_the_list_contains_all_datasets_and_skeletons(psptool: Psptool) -> None:
    output = json.loads(psptool("describe", "--json").out)
    assert output == {"datasets": list(dataset_names()), "skeletons": list(skeleton_names())}
    out = psptool("describe").out
    assert all(name in out for name in (*output["datasets"], *output["skeletons"]))


@pytest.mark.parametrize("name", dataset_names())
def test_the_output_for_a_dataset_is_a_valid_description(psptool: Psptool, name: str) -> None:
    Path("own.yaml").write_text(psptool("describe", name).out)
    assert load_description(Path("own.yaml")).complete() == builtin_dataset(name).complete()
    assert yaml.safe_load(psptool("describe", "own.yaml").out)["name"] == name


@pytest.mark.parametrize("name", skeleton_names())
def test_the_output_for_a_skeleton_is_complete(psptool: Psptool, name: str) -> None:
    found = SkeletonDescription.model_validate(yaml.safe_load(psptool("describe", name).out))
    assert found.topology == builtin_skeleton(name).topology
    assert None not in found.model_dump().values()


def test_an_unknown_name_is_refused_with_a_suggestion(psptool: Psptool) -> None:
    assert "found 'coco18'" in psptool("describe", "coco18", code=2).err
    assert "Did you mean coco17?" in psptool("describe", "coco18", code=2).err
    assert "no such file" in psptool("describe", "--from", "none", code=2).err
    assert "--from: found NAME too" in psptool("describe", "ucla", "--from", ".", code=2).err


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["walk_s01_t1", "sit_s02_t2"], {"label": "walk", "subject": "01", "repetition": "1"}),
        (["sit_down_s01_e02", "walk_s01_e02"], {"label": "sit_down", "subject": "01", "repetition": "02"}),
        (
            ["a01_s01_e01_v01", "a02_s03_e01_v02"],
            {"label": "01", "subject": "01", "repetition": "01", "camera": "01"},
        ),
        (["walk/001", "sit/002"], {"label": "walk"}),
        (["walk/clip a", "sit/clip b"], {"label": "walk"}),
        (["001_walk", "002_sit"], {"label": "walk"}),
        (["P1_wave_front", "P2_sit_side"], {"label": "wave", "subject": "1"}),
    ],
)
def test_a_pattern_is_guessed_from_clip_names(names: list[str], match: dict[str, str]) -> None:
    pattern = name_pattern(names)
    assert pattern is not None
    found = [re.fullmatch(pattern, name) for name in names]
    assert all(found)
    assert found[0] is not None
    assert found[0].groupdict() == match


@pytest.mark.parametrize(
    "names", [["clip1", "clip2"], ["joints_s01_e01", "joints_s02_e02"], ["a", "b3", "c_d"], []]
)
def test_no_pattern_is_guessed_from_names_without_classes(names: list[str]) -> None:
    assert name_pattern(names) is None


def test_classes_are_in_alphabetical_order_and_numbers_in_ascending_order() -> None:
    assert in_order({"throw", "sit_down", "pick_up"}) == ["pick_up", "sit_down", "throw"]
    assert in_order({"10", "2", "1"}) == ["1", "2", "10"]


@pytest.mark.parametrize("skeleton", FORMATS)
def test_a_guessed_description_can_be_used_for_prepare(psptool: Psptool, skeleton: str) -> None:
    Path("raw").mkdir()
    expected = FORMATS[skeleton](Path("raw"))
    psptool("describe", "--from", "raw", "--out", "own.yaml")
    values = yaml.safe_load(Path("own.yaml").read_text())
    assert values["skeleton"] == skeleton
    assert values["format"]["reader"] == expected["format"]["reader"]  # type: ignore[index]
    if skeleton != "coco17":
        assert values["classes"] == sorted(CLASSES)
        assert "leave_one_out" in values["protocols"]["loso"]
    psptool("prepare", "own.yaml", "--raw", "raw", "--jobs", 1)
    with open_store("data/raw.h5") as store:
        assert len(store) == len(NAMES)
        assert store.manifest.topology.dimensions == builtin_skeleton(skeleton).dimensions
    assert "exists already" in psptool("describe", "--from", "raw", "--out", "own.yaml", code=2).err


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([f"{n / 120:.6f}" for n in range(50)], (120, "seconds")),
        ([f"{n / 120:.3f}" for n in range(500)], (120, "seconds")),  # steps of 8 and 9 ms
        ([f"{n / 0.03:.0f}" for n in range(500)], (30, "milliseconds")),
        ([f"{n / 29.97:.6f}" for n in range(50)], (29.97, "seconds")),
        (["0", "0", "0.04", "0.04", "5.00", "5,04"], (25, "seconds")),  # two persons, and a gap
        (["0", "1", "0"], None),
        (["0", "a"], None),
        (["0", "0"], None),
        (["0", "nan", "1"], None),
        (["0", "86400", "172800"], None),
        ([], None),
    ],
)
def test_a_frame_rate_is_guessed_from_times(texts: list[str], expected: tuple[float, str] | None) -> None:
    assert frame_rate(texts) == expected


def test_a_column_of_times_is_found_by_its_name() -> None:
    assert time_column(["frame", "Time", "hip_x"]) == 1
    assert time_column(["time_ms"]) == time_column(["Time (s)"]) == time_column(["Timestamp"]) == 0
    assert time_column(["frame", "times_x", "sx"]) is None


@pytest.mark.parametrize(("unit", "factor"), [("m", 1), ("cm", 100), ("mm", 1000)])
def test_frame_rate_and_unit_of_motion_capture_are_guessed_and_the_reason_is_written(
    psptool: Psptool, unit: str, factor: float
) -> None:
    Path("raw").mkdir()
    joints = {"Hips": (0.1, 0.9, 0.2), "Neck": (0.1, 1.5, 0.2), "LeftFoot": (0.3, 0.05, 0.2)}
    head = ",".join(["Time", *(f"{name}.{axis}" for name in joints for axis in "XYZ")])
    where = ",".join(f"{factor * x:.3f}" for xyz in joints.values() for x in xyz)
    for name in ("walk_1", "run_1"):
        rows = [f"{n / 120:.6f},{where}" for n in range(20)]
        Path("raw", f"{name}.csv").write_text("\n".join([head, *rows]))
    text = psptool("describe", "--from", "raw").out
    values = yaml.safe_load(text)
    assert (values["frame_rate"], values["unit"]) == (120, unit)
    assert "# Frames per second. Guessed from the steps of column 'Time', in seconds" in text
    assert f"extend over {factor * 1.45:.3g} units" in text


def test_recordings_of_a_built_in_dataset_need_no_description(psptool: Psptool, recordings: Path) -> None:
    result = psptool("describe", "--from", recordings / "all_sqe")
    assert "recordings of NW-UCLA" in result.err
    assert "psptool prepare ucla" in result.out
    known = json.loads(psptool("describe", "--from", recordings / "all_sqe", "--json").out)
    assert known["known"] == "ucla"
    assert guess(recordings / "nturgb+d_skeletons").values["name"] == "ntu"


def test_joints_of_an_unknown_skeleton_are_listed_and_their_bones_left_to_the_user(psptool: Psptool) -> None:
    Path("raw").mkdir()
    rows = [f"{t},{t}.5,1,2,{t}.25,4,5" for t in range(4)]
    Path("raw", "fly_a1.csv").write_text(
        "\n".join(["frame,head.x,head.y,head.p,tail.x,tail.y,tail.p", *rows])
    )
    Path("raw", "fly_a2.csv").write_text(
        "\n".join(["frame,head.x,head.y,head.p,tail.x,tail.y,tail.p", *rows])
    )
    values = yaml.safe_load(psptool("describe", "--from", "raw").out)
    assert values["skeleton"]["joints"] == ["head", "tail"]
    assert values["format"]["coordinate_columns"] == "{joint}.{axis}"
    assert values["dimensions"] == 2
    Path("own.yaml").write_text(yaml.safe_dump(values))
    result = psptool("prepare", "own.yaml", "--raw", "raw", code=2)
    assert "skeleton.bones.0: found '?'" in result.err


def test_arrays_of_an_unknown_shape_and_other_files_are_errors(psptool: Psptool) -> None:
    Path("raw").mkdir()
    Path("raw", "notes.md").write_text("nothing")
    assert "found 1 file of other kinds" in psptool("describe", "--from", "raw", code=2).err
    np.save(Path("raw", "a.npy"), np.zeros(3))
    assert "a.npy: shape: found (3,)" in psptool("describe", "--from", "raw", code=2).err


def header_of(shape: str) -> bytes:
    """The header of an npy file of float64 values, without the data."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + f"{text:117}\n".encode()


def arrays_file(**arrays: object) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


CLIP = np.zeros((4, 20, 3))
DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "npz": ("a.npz", arrays_file(clip=CLIP)[:500], "a.npz: damaged"),
    "npy with a huge shape": ("a.npy", header_of("(9999999999, 20, 9999)"), "a.npy: truncated"),
    "npy of objects": ("a.npy", npy(np.array([None])), "an array of object"),
    "npy of too many joints": (
        "a.npy",
        header_of("(0, 9999999999, 3)"),
        "found 9,999,999,999, expected 2 to 500",
    ),
    "npz without positions": (
        "a.npz",
        arrays_file(label=3, o=[None]),
        "found 'label' (), 'o', expected one of numbers",
    ),
    "pickle of a number": ("a.pkl", pickle.dumps(3), "a.pkl: annotations: found 3"),
    "compressed pickle": ("a.pkl.gz", gzip.compress(pickle.dumps([])), "unpack it first"),
    "empty table": ("a.csv", b" \n\n", "a.csv: empty"),
}


@pytest.mark.parametrize(("name", "blob", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_an_error_that_names_it(
    psptool: Psptool, name: str, blob: bytes, message: str
) -> None:
    Path(name).write_bytes(blob)
    assert message in psptool("describe", "--from", name, code=2).err


def test_a_damaged_parquet_file_is_an_error_that_names_it(psptool: Psptool) -> None:
    pytest.importorskip("pyarrow")
    Path("a.parquet").write_bytes(b"PAR1")
    assert "a.parquet: damaged" in psptool("describe", "--from", "a.parquet", code=2).err


def test_an_array_of_objects_in_addition_to_the_positions_is_ignored(psptool: Psptool) -> None:
    Path("a.npz").write_bytes(arrays_file(notes=np.array([None]), clip=CLIP))
    values = yaml.safe_load(psptool("describe", "--from", "a.npz").out)
    assert values["format"] == {"reader": "arrays", "key": "clip"}
    assert values["skeleton"] == "kinect20"


def test_a_pickle_in_an_archive_is_not_looked_for_in_the_working_directory(psptool: Psptool) -> None:
    Path("data").mkdir()
    coco_pickle(Path("data"))
    with zipfile.ZipFile("pick.zip", "w") as archive:
        archive.writestr("data/clips.pkl", b"other")
    assert (
        "pick.zip:data/clips.pkl: pickle file in an archive"
        in psptool("describe", "--from", "pick.zip", code=2).err
    )


@pytest.mark.parametrize("header", ["hip_x;hip_y;neck_x;neck_y\n", ""])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_guessed(psptool: Psptool, header: str, separator: str) -> None:
    Path("a.csv").write_text((header + "1,5;2;3;4\n1;2,5;3;4\n").replace(";", separator))
    assert yaml.safe_load(psptool("describe", "--from", "a.csv").out)["format"]["decimal"] == ","


@pytest.mark.parametrize(
    ("columns", "expected"),
    [("index,frame,id,Person", {}), ("index,track", {"frame": "index", "person": "track"})],
)
def test_a_common_column_name_is_preferred(psptool: Psptool, columns: str, expected: dict[str, str]) -> None:
    Path("a.csv").write_text(
        f"{columns},hip_x,hip_y,neck_x,neck_y\n" + "1," * (columns.count(",") + 1) + "1,2,3,4\n"
    )
    assert yaml.safe_load(psptool("describe", "--from", "a.csv").out)["format"] == {
        "reader": "table",
        **expected,
    }


def test_a_table_without_joints_in_the_folder_of_the_recordings_is_ignored(psptool: Psptool) -> None:
    Path("raw").mkdir()
    Path("raw", "labels.csv").write_text("1,2\n2,5\n")
    assert "labels.csv: joints: found 0" in psptool("describe", "--from", "raw", code=2).err
    Path("raw", "walk_1.csv").write_text("hip_x,hip_y,neck_x,neck_y\n1,2,3,4\n")
    values = yaml.safe_load(psptool("describe", "--from", "raw").out)
    assert (values["format"], values["skeleton"]["joints"]) == ({"reader": "table"}, ["hip", "neck"])


def test_a_digit_that_is_not_decimal_is_not_a_frame_number(psptool: Psptool) -> None:
    Path("a.txt").write_text("1 2 3 4\n\u00b2 2 3 4\n", encoding="utf-8")
    assert "columns" not in yaml.safe_load(psptool("describe", "--from", "a.txt").out)["format"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_joints_of_a_long_table_are_those_of_all_its_rows(psptool: Psptool, form: str) -> None:
    joints = [f"joint {letter}" for letter in "abcdef"]
    columns = {"frame": [0] * 6, "joint": joints, **{axis: [1.5] * 6 for axis in "xyz"}}
    if form == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table(columns), "a.parquet")
    else:
        rows = [columns, *zip(*columns.values(), strict=True)]
        Path("a.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    values = yaml.safe_load(psptool("describe", "--from", f"a.{form}").out)
    assert values["format"] == {"reader": "table", "form": "long"}
    assert values["skeleton"]["joints"] == joints
