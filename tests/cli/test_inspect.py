"""The commands ``inspect`` and ``validate`` on valid and damaged files."""

import json
import re
import shutil
from pathlib import Path

import h5py
import pytest

from psptool.cli.prepare import MOST_REASONS, _indented
from psptool.formats.synthesis.writing import write_ntu
from psptool.schemas.report import LeftOut


@pytest.fixture
def prepared(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    psptool("split", "--count", "1", "--validation", "view=2")
    return psptool


def test_inspect_of_a_dataset_shows_its_counts_and_the_next_command(prepared):
    out = prepared("inspect", "data/ucla.h5").out
    assert "clips                   18" in out
    assert out.endswith("Next: psptool split --ratio 0.05 --data data/ucla.h5\n")


def test_inspect_of_a_split_shows_its_parts(prepared):
    path = "splits/ucla-xview-k1-s0-val-view-2.json"
    seen = json.loads(prepared("inspect", path, "--json").out)
    assert (seen["labelled"], seen["unlabelled"], seen["validation"], seen["test"]) == (2, 4, 6, 6)
    assert seen["labelled_per_class"] == {"pick up with one hand": 1, "sit down": 1}
    assert seen["performances"] == 2
    assert "  performances" in prepared("split", "--count", "1").out
    assert re.search(r"^skeleton +kinect20 *$", prepared("inspect", "data/ucla.h5").out, re.MULTILINE)
    assert "validation rule" in prepared("inspect", path).out


def test_validate_finds_nothing_wrong_with_a_prepared_dataset(prepared):
    assert "valid: all checks passed" in prepared("validate", "data/ucla.h5").out
    assert json.loads(prepared("validate", "data/ucla.h5", "--json").out)["valid"] is True


def test_validate_names_the_clip_whose_motion_is_not_the_frame_difference(prepared):
    with h5py.File("data/ucla.h5", "r+") as file:
        file["motion"][3, 0, 0] += 1
    ran = prepared("validate", "data/ucla.h5", code=1)
    assert "a01_s01_e00_v01" in ran.out
    assert "motion" in ran.out
    assert json.loads(prepared("validate", "data/ucla.h5", "--json", code=1).out)["valid"] is False


def test_validate_of_a_file_that_is_not_a_dataset_names_it_once(prepared):
    Path("notes.h5").write_text("nothing")
    out = prepared("validate", "notes.h5", code=1).out
    assert out.count("notes.h5") == 1


@pytest.mark.parametrize("command", ["inspect", "validate"])
def test_a_folder_that_is_not_a_run_is_an_error_that_names_what_is_accepted(prepared, command):
    ran = prepared(command, "data", code=2)
    assert "data: not a run folder: found no config.json" in ran.err
    assert "a dataset (.h5), a JSON file of psptool or a run folder" in ran.err


@pytest.mark.parametrize("arguments", [("split", "--check"), ("train", "--split")])
def test_a_dataset_instead_of_a_split_is_an_error_that_names_its_format(prepared, arguments):
    ran = prepared(*arguments, "data/ucla.h5", code=2)
    assert "data/ucla.h5: not a valid Split file: found an HDF5 file" in ran.err
    Path("notes.bin").write_bytes(b"\xff\xfe")
    assert "found a binary file" in prepared(*arguments, "notes.bin", code=2).err


@pytest.mark.parametrize("arguments", [("split", "--check"), ("train", "--split")])
def test_the_name_of_a_split_instead_of_its_path_gets_a_suggestion(prepared, arguments):
    prepared("split", "--count", "1", "--out", "splits/few.json")
    assert (
        "few: there is no such split. Did you mean splits/few.json?"
        in prepared(*arguments, "few", code=2).err
    )


def test_an_option_of_another_command_names_that_command(psptool):
    ran = psptool("train", "--ratio", "0.05", code=2)
    assert "No such option: --ratio. It is an option of psptool split." in ran.err
    assert "--ratio)" in psptool("split", "--ratoi", "0.05", code=2).err


def test_inspect_shows_every_file_that_psptool_writes_as_json(workspace, psptool):
    shutil.copytree(workspace, ".", dirs_exist_ok=True)
    run = "runs/ucla-xview-0.05-s0-psp-fast"
    psptool("predict", "all_sqe", "--model", run, "--out", "p.json")
    psptool("evaluate", run)
    psptool("table", run, "--out", "t.json")
    report = json.loads(psptool("inspect", "data/ucla.report.json", "--json").out)
    assert (report["dataset"], report["clips"], report["quarantined"]) == ("ucla", 36, 0)
    assert "excluded (malformed)" in psptool("inspect", "data/ucla.report.json").out
    assert json.loads(psptool("inspect", f"{run}/config.json", "--json").out)["method"] == "psp"
    assert json.loads(psptool("inspect", f"{run}/scores.json", "--json").out)["clips"] == 12
    assert json.loads(psptool("inspect", "p.json", "--json").out)["clips"] == 36
    assert json.loads(psptool("inspect", "t.json", "--json").out)["clips"] == 12


def test_inspect_of_other_json_is_an_error_that_names_its_keys(prepared):
    Path("mine.json").write_text('{"skeletons": [], "file_name": "x"}')
    err = prepared("inspect", "mine.json", code=2).err
    assert "mine.json: not a file of psptool: found keys file_name, skeletons" in err
    assert "psptool view" in err


def test_evaluate_prints_the_accuracy_first_and_numbers_agree_with_nouns(workspace, psptool):
    shutil.copytree(workspace, ".", dirs_exist_ok=True)
    out = psptool("evaluate", "runs/ucla-xview-0.05-s0-psp-fast").out
    assert re.match(r"Top-1 \d+\.\d %  \S+: 12 test clips, last checkpoint\n", out)
    one = sorted(Path("all_sqe").iterdir())[0]
    out = psptool("predict", one, "--model", "runs/ucla-xview-0.05-s0-psp-fast").out
    assert out.startswith("1 recording ")


def test_inspect_of_a_report_names_skipped_files(psptool, ucla_raw):
    names = ["S001C001P001R001A007.skeleton", "S001C002P005R002A008.skeleton", "other.skeleton"]
    Path("raw").mkdir()
    write_ntu(Path("raw"), [Path(name).stem for name in names[:2]])
    Path("raw/other.skeleton").touch()
    psptool("prepare", "ntu", "--raw", "raw", "--jobs", 1)
    seen = json.loads(psptool("inspect", "data/ntu60.report.json", "--json").out)
    assert seen["skipped_by_reason"]["missing-skeleton list"] == 1
    assert seen["skipped_files"] == {
        f"raw/{names[1]}": "missing-skeleton list",
        "raw/other.skeleton": "the name is not SsssCcccPpppRrrrAaaa",
    }
    lines = psptool("inspect", "data/ntu60.report.json").out.splitlines()
    assert f"  raw/{names[1]}: missing-skeleton list" in lines
    assert "  raw/other.skeleton: the name is not SsssCcccPpppRrrrAaaa" in lines


def test_inspect_of_a_report_has_readable_names_and_no_trailing_blanks(psptool, ucla_raw):
    shutil.copytree(ucla_raw, "raw")
    Path("raw/a01_s09_e00_v01.json").touch()
    Path("raw/more").mkdir()
    shutil.copy("raw/all_sqe/a01_s01_e00_v01.json", "raw/more")
    psptool("prepare", "ucla", "--raw", "raw", "--jobs", 1)
    lines = psptool("inspect", "data/ucla.report.json").out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    names = [re.split(r" {2,}", line.strip())[0] for line in lines]
    assert {"excluded (malformed)", "empty file", "tracks joined", "identical copies"} <= set(names)
    assert [name for name in names if "_" in name and not name.startswith(("settings.", "raw/"))] == []
    assert "  raw/more/a01_s01_e00_v01.json: identical to raw/all_sqe/a01_s01_e00_v01.json" in lines
    assert any(line.startswith("  raw/a01_s09_e00_v01.json: empty file") for line in lines)


def test_inspect_of_a_prediction_shows_each_recording_with_its_class(here):
    here("predict", "all_sqe", "--model", "runs/ucla-xview-0.05-s0-psp-fast", "--out", "p.json")
    out = here("inspect", "p.json").out
    first = json.loads(Path("p.json").read_text())["clips"][0]
    found = {"name": first["name"], "class": first["top"][0]["class"]}
    assert re.search(rf"^{found['name']} +{found['class']} +\d+\.\d$", out, re.MULTILINE)
    assert "description" not in out


def test_prepare_lists_the_most_frequent_reasons():
    skipped = [LeftOut(name=f"f{n}", source=f"f{n}", reason=f"reason {n // 2}") for n in range(25)]
    rows = _indented(skipped)
    assert rows[0] == ("  reason 0", 2)
    assert rows[MOST_REASONS:] == [("  3 other reasons", 5)]


@pytest.mark.parametrize("command", ["inspect", "validate"])
def test_a_description_is_an_error_that_names_what_is_accepted(prepared, command):
    Path("mine.yaml").write_text("name: mine")
    err = prepared(command, "mine.yaml", code=2).err
    assert (
        "mine.yaml: not a file of psptool: expected a dataset (.h5), a JSON file of psptool or a run folder"
        in err
    )
    assert "psptool describe" in err


def test_a_dataset_instead_of_a_description_is_an_error_that_names_its_format(prepared):
    err = prepared("prepare", "data/ucla.h5", "--raw", ".", code=2).err
    assert "data/ucla.h5: not a description of a dataset: found an HDF5 file, such as a dataset" in err
    assert "psptool split --ratio 0.05 --data data/ucla.h5" in err


def test_table_of_files_without_scores_is_an_error_of_one_line(prepared):
    err = prepared("table", "data", code=2).err
    assert "data: no scores.json in it or one folder below" in err
    err = prepared("table", "data/ucla.report.json", code=2).err
    assert err.startswith("error: data/ucla.report.json: has no scores.")
    assert err.count("\n") == 1
