"""The commands ``export-data`` and ``import``: datasets for and from other tools."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from psptool.data.store.reading import open_store
from tests.cli.conftest import files
from tests.exchange.annotations import NTU, annotation, motion, saved


@pytest.fixture
def ntu(psptool, ntu_raw):
    psptool("prepare", "ntu", "--raw", ntu_raw, "--jobs", 1)
    return Path("data/ntu60.h5")


@pytest.fixture
def ucla(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw, "--jobs", 1)
    return Path("data/ucla.h5")


@pytest.mark.parametrize(
    ("kind", "file", "splits"),
    [
        ("pyskl", "ntu60.pkl", ["ntu60-xsub-1-s0", "ntu60-xview-1-s0"]),
        ("ctrgcn", "ntu60.npz", ["ntu60-xsub-1-s0"]),
        ("stgcn", "ntu60", ["ntu60-xsub-1-s0"]),
    ],
)
def test_an_exported_dataset_is_imported_unchanged_with_its_splits(psptool, ntu, kind, file, splits):
    out = psptool("export-data", "--format", kind, "--coordinates", "normalized")
    assert "warning: lost in the" in out.err
    assert "the tracking states of the joints" in out.err
    result = json.loads(
        psptool("import", f"exchange/{file}", "--coordinates", "normalized", "--out", "back.h5", "--json").out
    )
    assert (result["format"], result["read"], result["kept"]) == (kind, 24, 24)
    assert result["splits"] == [f"splits/{name}.json" for name in splits]
    assert result["splits_not_kept"] == []
    with open_store(ntu) as store, open_store("back.h5") as back:
        assert store.manifest.fingerprints.clips == back.manifest.fingerprints.clips
        # Only frames with a person: a CTR-GCN file has no others.
        old, new = (one.array("joint")[:][one.array("present")[:]] for one in (store, back))
        np.testing.assert_array_equal(old, new)
    for name in splits:
        # A split depends only on the clips that it names, so it fits the original dataset as well.
        psptool("split", "--check", f"splits/{name}.json", "--data", ntu)
        psptool("split", "--check", f"splits/{name}.json", "--data", "back.h5")


def test_a_split_with_few_labels_is_exported_as_lists_and_what_is_lost_is_reported(psptool, ucla):
    psptool("split", "--count", 1)
    split = "splits/ucla-xview-k1-s0.json"
    psptool("export-data", "--format", "pyskl", "--split", split, "--out", "a.pkl")
    with Path("a.pkl").open("rb") as file:
        lists = pickle.load(file)["split"]
    assert lists["xview_labelled"] == json.loads(Path(split).read_text())["labelled"]
    ran = psptool("import", "a.pkl", "--out", "a.h5")
    assert "not imported as a split: a.pkl: xview_labelled: a single list" in ran.err
    assert "splits/ucla-xview-1-s0.json" in ran.err
    ran = psptool("export-data", "--format", "stgcn", "--split", split, "--data", "data/ucla.h5")
    assert "which 2 clips of the training part are labelled" in ran.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("export-data", "--format", "ctrgnc"), "Did you mean ctrgcn?"),
        (("export-data", "--format", "ctrgcn"), "20 joints (kinect20), expected 25"),
        (("export-data", "--format", "pyskl", "--coordinates", "raw"), "recorded, centred, normalized"),
        (("export-data", "--format", "pyskl", "--split", "other.json"), "the split does not belong to"),
        (("import", "absent.pkl"), "absent.pkl: no such file"),
        (("import", "data/ucla.h5"), "Set the format with --format"),
        (("import", "data/ucla.h5", "--format", "ctrgcn"), "File is not a zip file"),
        (("import", "data"), "no ST-GCN data"),
        (("import", "bad.pkl"), "bad.pkl: refused: found a pickle with posix.system"),
        (("import", "good.pkl"), "data/ucla.h5: the file exists already"),
        (("import", "good.pkl", "data", "--out", "b.h5"), "files of different formats"),
        (("import", "named.pkl", "--out", "b.h5"), "clip names: found 'somebody'"),
        (("import", "joints.pkl", "--out", "b.h5"), "joints: found 17, expected 20 (ucla)"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_an_error_and_write_nothing(psptool, ucla, arguments, expected):
    psptool("split", "--count", 1)
    split = json.loads(Path("splits/ucla-xview-k1-s0.json").read_text())
    Path("other.json").write_text(json.dumps({**split, "clips_fingerprint": "0" * 64}))
    for path, name, joints in (("named", "somebody", 20), ("joints", "a01_s01_e00_v01", 17)):
        keypoint = np.ones((1, 4, joints, 3), np.float32)
        items = [{"frame_dir": name, "total_frames": 4, "label": 0, "keypoint": keypoint}]
        Path(f"{path}.pkl").write_bytes(pickle.dumps(items))

    class Command:
        def __reduce__(self):
            return os.system, ("touch here",)

    Path("bad.pkl").write_bytes(pickle.dumps({"annotations": [Command()]}))
    psptool("export-data", "--format", "pyskl", "--out", "good.pkl")
    before = files()
    assert expected in psptool(*arguments, code=2).err
    assert files() == before


def test_half_precision_is_reported(psptool):
    keypoint = (np.ones((1, 4, 20, 3)) * np.arange(1, 21)[:, None]).astype(np.float16)
    items = [{"frame_dir": "a01_s01_e00_v01", "total_frames": 4, "label": 0, "keypoint": keypoint}]
    Path("a.pkl").write_bytes(pickle.dumps(items))
    # All joints are on one line: the body axes are undefined, but the positions are kept.
    ran = psptool("import", "a.pkl", "--out", "a.h5", "--coordinates", "normalized")
    assert "a.pkl: positions in float16" in ran.err
    with open_store("a.h5") as store:
        np.testing.assert_array_equal(store.array("joint")[:][0, :, 0], np.arange(1, 21))


def test_an_export_is_replaced_only_with_force(psptool, ucla):
    psptool("export-data", "--format", "stgcn")
    ran = psptool("export-data", "--format", "stgcn", code=2)
    assert "exchange/ucla/train_data.npy: exists already" in ran.err
    psptool("export-data", "--format", "stgcn", "--force")


def test_a_split_that_names_an_excluded_clip_is_imported_without_it_and_that_is_reported(psptool):
    split = {
        "xview_train": [name for name in NTU if "C001" not in name],
        "xview_val": [*(name for name in NTU if "C001" in name), None],
    }
    items = [annotation(name, keypoint=motion(seed=n)) for n, name in enumerate(NTU)]
    items[NTU.index(split["xview_train"][0])]["keypoint"] = motion()[:0]
    saved(Path("a.pkl"), items, split)
    ran = psptool("import", "a.pkl", "--out", "a.h5")
    excluded = split["xview_train"][0]
    assert f"a.pkl: xview_train: 1 of 4 clips are not in the dataset: {excluded}" in ran.err
    assert "a.pkl: xview_val: 1 of 3 clips are not in the dataset: None" in ran.err
    assert (
        f"1 clip excluded (malformed): {excluded} (no body). a.report.json gives the reason for each"
        in ran.err
    )
    kept = json.loads(Path("splits/ntu60-xview-1-s0.json").read_text())
    assert kept["labelled"] == sorted(set(split["xview_train"]) - {excluded})
    psptool("split", "--check", "splits/ntu60-xview-1-s0.json", "--data", "a.h5")
    result = json.loads(psptool("import", "a.pkl", "--out", "a.h5", "--force", "--json").out)
    assert result["splits"] == ["splits/ntu60-xview-1-s0.json"]
    assert (result["left_out_by_reason"], len(result["splits_without"])) == ({"no body": 1}, 2)


def test_an_export_whose_default_protocol_has_an_empty_test_set_suggests_a_split(psptool):
    names = [name for name in NTU if "P001" in name]
    saved(Path("a.pkl"), [annotation(name, keypoint=motion(seed=n)) for n, name in enumerate(names)])
    psptool("import", "a.pkl", "--out", "data/ntu60.h5")
    ran = psptool("export-data", "--format", "ctrgcn", code=2)
    assert "protocol xsub: the test set of ntu60 is empty" in ran.err
    assert "use it with --split" in ran.err
    assert "--protocol" not in ran.err
    psptool("split", "--protocol", "xview", "--ratio", 1)
    psptool("export-data", "--format", "ctrgcn", "--split", "splits/ntu60-xview-1-s0.json")
