"""``predict``, ``export`` and ``embed`` as a user meets them."""

import json
import shutil
from pathlib import Path

from psptool.schemas.prediction import Prediction
from tests.cli.conftest import files


def test_predict_answers_for_good_files_and_ends_with_one_where_others_cannot_be_used(here):
    shutil.copy(next(Path("all_sqe").glob("*.json")), "mine.json")
    Path("cut.json").write_text("{")
    ran = here("predict", "mine.json", "cut.json", "--top", 2, "--json", "--out", "p.json", code=1)
    said = json.loads(ran.out)
    assert [clip["name"] for clip in said["clips"]] == ["mine"]
    assert [set(guess) for guess in said["clips"][0]["top"]] == [{"class", "label", "probability"}] * 2
    assert said["unusable"][0]["reason"] == "truncated"
    assert "cut.json" in ran.err
    assert Prediction.load(Path("p.json")).model_dump(mode="json", by_alias=True) == said


def test_predict_with_nothing_usable_or_no_sense_writes_nothing(here):
    Path("cut.json").write_text("{")
    before = files()
    assert "none can be used" in here("predict", "cut.json", "--out", "p.json", code=2).err
    assert "nowhere: no such file" in here("predict", "nowhere", "--out", "p.json", code=2).err
    assert "--top" in here("predict", "all_sqe", "--top", 0, "--out", "p.json", code=2).err
    assert "joints of the model" in here("predict", "nturgb+d_skeletons", "--out", "p.json", code=2).err
    assert "last, best" in here("predict", "all_sqe", "--weights", "lst", code=2).err
    assert files() == before


def test_an_exported_file_predicts_as_its_run(here):
    run = sorted(Path("runs").iterdir())[0]
    told = json.loads(here("export", run, "--safetensors", "--json").out)
    (file,) = told["files"]
    assert file["difference"] == 0
    assert Path(told["card"]).read_text().startswith(f"# {run.name}\n")
    one = json.loads(here("predict", "all_sqe", "--model", file["file"], "--json").out)
    other = json.loads(here("predict", "all_sqe", "--model", run, "--json").out)
    assert one["clips"] == other["clips"]


def test_export_without_the_dataset_compares_on_made_up_recordings(here):
    shutil.rmtree("data")
    run = sorted(Path("runs").iterdir())[0]
    ran = here("export", run, "--safetensors", "--out", "out", "--json")
    assert json.loads(ran.out)["compared_on"] == "20 synthetic recordings"
    assert "synthetic" in ran.err
    assert "no format" in here("export", run, code=2).err


def test_embed_writes_features_and_measures_them(here):
    run = next(path for path in sorted(Path("runs").iterdir()) if "0.05" in path.name)
    said = json.loads(here("embed", run, "--neighbours", 1, "--out", "f.npz", "--json").out)
    assert [one["labels"] for one in said["measures"]] == ["labelled", "all"]
    assert all(0 <= one[key] <= 1 for one in said["measures"] for key in ("nearest", "linear"))
    assert Path("f.npz").exists()
    before = files()
    assert "--neighbours" in here("embed", run, "--neighbours", 999, "--out", "g.npz", code=2).err
    assert ".npz or .parquet" in here("embed", run, "--out", "g.csv", code=2).err
    assert files() == before
