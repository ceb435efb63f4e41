"""All commands on a custom dataset, with only the HDF5 file after its preparation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from psptool.data.store.reading import open_store
from tests.cli.conftest import Psptool

OWN = """
name: own
skeleton: kinect20
keep: [hip centre, spine, shoulder centre, head, left shoulder, left elbow, left wrist, left hand,
  right shoulder, right elbow, right wrist, right hand]
rename: {head: skull}
format: {reader: ucla}
clips:
  pattern: a(?P<label>[0-9]+)_s(?P<subject>[0-9]+)_e(?P<repetition>[0-9]+)_v(?P<camera>[0-9]+)
classes: {1: reach, 5: sit}
frame_rate: 15
protocols:
  loso: {leave_one_out: subject}
  half: {share: 0.5}
  views: {field: camera, train: [1, 2]}
"""


@pytest.fixture
def prepared(psptool: Psptool, recordings: Path, small: None) -> Psptool:
    """The command line in a folder with ``data/own.h5``, whose description file has been deleted."""
    Path("own.yaml").write_text(OWN)
    psptool("prepare", "own.yaml", "--raw", recordings / "all_sqe", "--jobs", 1)
    Path("own.yaml").unlink()
    return psptool


def test_prepare_writes_the_selected_joints_and_the_complete_description(prepared: Psptool) -> None:
    with open_store("data/own.h5") as store:
        description = store.manifest.description
        assert store.clip(0).joint.shape[2] == 12
        assert store.manifest.topology.joints[3] == "skull"
        assert (store.manifest.class_names, len(store)) == (("reach", "sit"), 36)
        assert list(description.protocols) == ["loso", "half", "views"]
    assert prepared("validate", "data/own.h5").out.startswith("data/own.h5: valid")
    output = json.loads(prepared("inspect", "data/own.h5", "--json").out)
    assert (output["dataset"], output["joints"], output["classes"]) == ("own", 12, 2)


def test_split_writes_one_file_for_each_value_of_leave_one_out(prepared: Psptool) -> None:
    output = json.loads(prepared("split", "--count", 2, "--validation", "view=2", "--json").out)
    assert [one["protocol"] for one in output["splits"]] == ["loso-1", "loso-2"]
    assert [one["test"] for one in output["splits"]] == [18, 18]
    assert sorted(path.name for path in Path("splits").iterdir()) == [
        "own-loso-1-k2-s0-val-view-2.json", "own-loso-2-k2-s0-val-view-2.json"
    ]  # fmt: skip
    for path in Path("splits").iterdir():
        assert "identical" in prepared("split", "--check", path).out
    next_step = prepared("split", "--count", 2, "--validation", "view=2").out.splitlines()[-1]
    assert next_step == (
        'Next: for split in splits/own-loso-*-k2-s0-val-view-2.json; do psptool train --split "$split" '
        "&& psptool evaluate; done; psptool table runs/own-loso-*-k2-s0-val-view-2*"
    )
    result = prepared("split", "--count", 2, "--out", "one.json", code=2)
    assert "one file for 2 splits" in result.err
    assert not Path("one.json").exists()
    one = json.loads(
        prepared("split", "--count", 2, "--protocol", "loso-2", "--out", "one.json", "--json").out
    )
    assert (one["protocol"], one["labelled_per_class"]) == ("loso-2", {"reach": 2, "sit": 2})


def test_an_unknown_protocol_is_refused_with_a_list_of_the_known_ones(prepared: Psptool) -> None:
    result = prepared("split", "--count", 2, "--protocol", "lose", code=2)
    assert "found 'lose', expected one of loso, half, views. Did you mean loso?" in result.err
    result = prepared("split", "--count", 2, "--protocol", "loso-9", code=2)
    assert "found 'loso-9', expected one of loso-1, loso-2." in result.err


@pytest.mark.slow
def test_the_table_combines_all_folds_of_leave_one_out(prepared: Psptool) -> None:
    prepared("split", "--count", 2)
    for split in sorted(Path("splits").glob("own-loso-*-k2-s0.json")):
        prepared("train", "--split", split, "--set", "optim.steps=2")
        prepared("evaluate")
    found = json.loads(prepared("table", "--json").out)
    assert (found["protocol"], found["folds"], found["clips"]) == ("loso", ["loso-1", "loso-2"], 36)
    (group,) = found["groups"]
    assert group["draws"] == ["loso-1", "loso-2"]
    assert "top-5" not in prepared("table").out  # there are two classes


@pytest.mark.slow
def test_train_evaluate_view_predict_and_export_need_only_the_hdf5_file(
    prepared: Psptool, recordings: Path
) -> None:
    raw = recordings / "all_sqe"
    prepared("split", "--count", 3, "--protocol", "half")
    prepared("train", "--preset", "fast")
    prepared("evaluate", "--json")
    assert "own" in prepared("table", "runs").out
    prepared("view", "data/own.h5", "--model", "runs/own-half-k3-s0-psp-fast", "--out", "view.html")
    assert "skull" in Path("view.html").read_text()
    prepared("view", "data/own.h5", "--png", "--gif")
    clip = next(raw.glob("a05*.json"))
    output = json.loads(prepared("predict", clip, "--json", "--out", "predicted.json").out)
    assert output["dataset"] == "own"
    assert {top["class"] for top in output["clips"][0]["top"]} == {"reach", "sit"}
    prepared("view", "predicted.json", "--out", "predicted.html")
    prepared("view", clip, "--model", "runs/own-half-k3-s0-psp-fast", "--out", "raw.html")
    prepared("export", "runs/own-half-k3-s0-psp-fast", "--safetensors")
    prepared("embed", "runs/own-half-k3-s0-psp-fast")
    prepared("export-data", "--format", "pyskl", "--out", "own.pkl")
    assert "identical" in prepared("split", "--check", "splits/own-half-k3-s0.json").out
    assert prepared("validate", "splits/own-half-k3-s0.json").code == 0
    assert prepared("validate", "runs/own-half-k3-s0-psp-fast").code == 0
    assert "own" in prepared("inspect", "runs/own-half-k3-s0-psp-fast").out
    assert "own" in prepared("inspect", "splits/own-half-k3-s0.json").out
