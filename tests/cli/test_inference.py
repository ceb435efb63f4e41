"""The commands ``predict``, ``export`` and ``embed``."""

import json
import shutil
from pathlib import Path

import pytest

from psptool.evaluation.models import INCLUDED
from psptool.schemas.prediction import Prediction
from psptool.schemas.timeline import Timelines
from tests.cli.conftest import files


def test_predict_classifies_usable_files_and_has_exit_code_1_if_others_are_unusable(here):
    shutil.copy(next(Path("all_sqe").glob("*.json")), "mine.json")
    Path("cut.json").write_text("{")
    ran = here("predict", "mine.json", "cut.json", "--top", 2, "--json", "--out", "p.json", code=1)
    printed = json.loads(ran.out)
    assert [clip["name"] for clip in printed["clips"]] == ["mine"]
    assert [set(guess) for guess in printed["clips"][0]["top"]] == [{"class", "label", "probability"}] * 2
    assert printed["unusable"][0]["reason"] == "truncated"
    assert "cut.json" in ran.err
    assert Prediction.load(Path("p.json")).model_dump(mode="json", by_alias=True) == printed
    run = json.loads(Path("runs/ucla-xview-0.05-s0-psp-fast/config.json").read_text())
    assert printed["preparation"] == run["preparation"]


def test_the_card_of_an_exported_included_model_has_its_accuracy(psptool):
    psptool("export", "ucla", "--safetensors")
    exported = Path("ucla/export/ucla.md").read_text(encoding="utf-8")
    included = INCLUDED["ucla"].with_suffix(".md").read_text(encoding="utf-8")
    section = included[included.index("## Accuracy") : included.index("## Limits")]
    assert "top-1 89.7 %" in section
    assert section in exported


def test_predict_with_an_included_model_names_no_next_command(here):
    Path("ucla").mkdir()
    one = next(Path("all_sqe").glob("*.json"))
    assert "Next:" not in here("predict", "--model", "ucla", one).out
    run = "runs/ucla-xview-0.05-s0-psp-fast"
    assert f"Next: psptool evaluate {run}" in here("predict", "--model", run, one).out


def test_the_name_of_a_run_instead_of_its_path_gets_a_suggestion(here):
    one = next(Path("all_sqe").glob("*.json"))
    name = "ucla-xview-0.05-s0-psp-fast"
    for arguments in (("evaluate", name), ("predict", one, "--model", name)):
        printed = here(*arguments, code=2).err
        assert f"{name}: there is no such run. Did you mean runs/{name}?" in printed
    assert "last.safetensors" not in here("evaluate", "last", code=2).err
    Path("runs", name).rename("runs/ucla")
    here("predict", one, "--model", "ucla")  # the included model


def test_predict_without_usable_files_or_with_invalid_options_writes_nothing(here):
    Path("cut.json").write_text("{")
    before = files()
    assert "none can be used" in here("predict", "cut.json", "--out", "p.json", code=2).err
    assert "nowhere: no such file" in here("predict", "nowhere", "--out", "p.json", code=2).err
    assert "--top" in here("predict", "all_sqe", "--top", 0, "--out", "p.json", code=2).err
    assert "joints of the model" in here("predict", "nturgb+d_skeletons", "--out", "p.json", code=2).err
    assert "last, best" in here("predict", "all_sqe", "--weights", "lst", code=2).err
    assert files() == before


def test_predict_with_windows_writes_a_page_and_a_timeline_that_view_and_inspect_read(here):
    ran = here(
        "predict", "all_sqe", "--window", 0.5, "--json", "--out", "t.json", "--page", "t.html", "--top", 2
    )
    printed = json.loads(ran.out)
    assert (printed["window"], printed["stride"], printed["frame_rate"]) == (15, 8, 30)
    for recording in printed["recordings"]:
        windows = recording["windows"]
        assert windows[0]["first"] == 0
        assert windows[-1]["last"] == recording["frames"] - 1
        assert windows[-1]["end"] == recording["frames"] / 30
        assert all(len(window["top"]) == 2 for window in windows)
    assert Timelines.load(Path("t.json")).model_dump(mode="json", by_alias=True) == printed
    assert "class Timeline" in Path("t.html").read_text(encoding="utf-8")
    here("view", "t.json", "--out", "view.html")
    assert "class Timeline" in Path("view.html").read_text(encoding="utf-8")
    shown = json.loads(here("inspect", "t.json", "--json").out)
    assert shown["recordings"] == len(printed["recordings"])
    assert shown["windows"] == sum(len(one["windows"]) for one in printed["recordings"])
    assert "valid" in here("validate", "t.json").out
    rows = here("predict", "all_sqe", "--window", 0.5).out
    assert "mean probability %" in rows


@pytest.mark.parametrize("options", [(), ("--window", 0.5)])
def test_inspect_lists_the_recordings_that_predict_could_not_use(here, options):
    Path("notes.txt").write_text("nothing")
    here("predict", "all_sqe", "notes.txt", *options, "--out", "t.JSON", code=1)
    shown = here("inspect", "t.JSON").out
    assert "Not used:\n  notes.txt: not in the format" in shown


def test_predict_also_writes_a_page_without_windows(here):
    here("predict", "all_sqe", "--page", "p.html")
    page = Path("p.html").read_text(encoding="utf-8")
    assert "class Player" in page
    assert "class Timeline" not in page


def test_predict_with_invalid_windows_writes_nothing(here):
    Path("cut.json").write_text("{")
    Path("folder").mkdir()
    before = files()

    def error(*options):
        return here("predict", "all_sqe", "--page", "t.html", *options, code=2).err

    assert "--window: found 0, expected a positive" in error("--window", 0)
    assert "--window: found -2" in error("--window", -2)
    assert "--window" in error("--window", "long")
    assert "--stride: found 2 s, expected at most" in error("--window", 1, "--stride", 2)
    assert "--stride: found no --window" in error("--stride", 1)
    assert "--top" in error("--window", 1, "--top", 0)
    assert "the file of --out" in error("--out", "t.html")
    assert "folder: is a folder" in here("predict", "all_sqe", "--page", "folder", code=2).err
    assert "none can be used" in here("predict", "cut.json", "--window", 1, "--page", "t.html", code=2).err
    assert files() == before


def test_an_exported_file_makes_the_same_predictions_as_its_run(here):
    run = sorted(Path("runs").iterdir())[0]
    printed = json.loads(here("export", run, "--safetensors", "--json").out)
    (file,) = printed["files"]
    assert file["difference"] == 0
    assert Path(printed["card"]).read_text().startswith(f"# {run.name}\n")
    one = json.loads(here("predict", "all_sqe", "--model", file["file"], "--json").out)
    other = json.loads(here("predict", "all_sqe", "--model", run, "--json").out)
    assert one["clips"] == other["clips"]


def test_export_without_the_dataset_compares_on_synthetic_recordings(here):
    shutil.rmtree("data")
    run = sorted(Path("runs").iterdir())[0]
    ran = here("export", run, "--safetensors", "--out", "out", "--json")
    assert json.loads(ran.out)["compared_on"] == "20 synthetic recordings"
    assert "synthetic" in ran.err
    assert "no format" in here("export", run, code=2).err


def test_embed_writes_features_and_prints_measures_of_their_quality(here):
    run = next(path for path in sorted(Path("runs").iterdir()) if "0.05" in path.name)
    printed = json.loads(here("embed", run, "--neighbours", 1, "--out", "f.npz", "--json").out)
    assert [one["labels"] for one in printed["measures"]] == ["labelled", "all"]
    assert all(0 <= one[key] <= 1 for one in printed["measures"] for key in ("nearest", "linear"))
    assert Path("f.npz").exists()
    before = files()
    wrong = here("embed", run, "--neighbours", 999, "--out", "g.npz", code=2).err
    assert "--neighbours: found 999, expected 1 to" in wrong
    assert "computing" not in wrong
    wrong = here("embed", run, "--out", "g.csv", code=2).err
    assert ".npz or .parquet" in wrong
    assert "computing" not in wrong
    assert files() == before
