"""All commands on other skeletons and file formats: a 2D pickle, tables, arrays, and segments of recordings."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from psptool.data.store.reading import open_store
from psptool.formats.synthesis.writing import write_ucla
from psptool.schemas.builtin_skeletons import builtin_skeleton
from psptool.schemas.protocols import FieldProtocol, ListProtocol
from tests.cli.conftest import Psptool

CLASSES = ("walk", "sit")
NAMES = [f"{action}_s{subject}_t{take}" for action in CLASSES for subject in (1, 2) for take in (1, 2, 3)]


def recordings(skeleton: str) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield name and positions (T, V, 3) of clips of a body that moves up in one class and sideways in the other."""
    size = builtin_skeleton(skeleton).topology.size
    for number, name in enumerate(NAMES):
        rng = np.random.default_rng(number)
        body = np.random.default_rng(7).normal((0, 0, 3), 0.4, (size, 3))
        drift = np.outer(np.arange(12) / 12, (0, 1, 0) if name.startswith("walk") else (1, 0, 0))
        yield name, body + drift[:, None] + rng.normal(0, 0.01, (12, size, 3))


def coco_pickle(folder: Path) -> dict[str, object]:
    items = []
    for name, xyz in recordings("coco17"):
        pixels = (500 * xyz[None, ..., :2] + 300).astype(np.float32)
        score = np.ones(pixels.shape[:3], np.float32)
        label = CLASSES.index(name.partition("_")[0])
        items.append(
            {
                "frame_dir": name,
                "total_frames": 12,
                "label": label,
                "keypoint": pixels,
                "keypoint_score": score,
            }
        )
    split = {f"xsub_{part}": [n for n in NAMES if f"_s{s}_" in n] for s, part in ((1, "train"), (2, "val"))}
    (folder / "clips.pkl").write_bytes(pickle.dumps({"split": split, "annotations": items}))
    return {"skeleton": "coco17", "format": {"reader": "pyskl"}, "unit": "px", "up": "-y"}


def mediapipe_tables(folder: Path) -> dict[str, object]:
    joints = builtin_skeleton("mediapipe33").joints
    header = ",".join(
        ["frame", *(f"{joint.replace(' ', '_').upper()}_{axis}" for joint in joints for axis in "xyz")]
    )
    for name, xyz in recordings("mediapipe33"):
        rows = [",".join(map(str, [t, *row.ravel().round(5).tolist()])) for t, row in enumerate(xyz)]
        (folder / f"{name}.csv").write_text("\n".join([header, *rows]))
    return {"skeleton": "mediapipe33", "format": {"reader": "table"}, "up": "-y"}


def azure_arrays(folder: Path) -> dict[str, object]:
    for name, xyz in recordings("azure32"):
        np.savez(folder / f"{name}.npz", joints=(1000 * xyz).astype(np.float32))
    return {"skeleton": "azure32", "format": {"reader": "arrays"}, "unit": "mm", "up": "-y"}


@pytest.mark.parametrize(("unit", "factor"), [("cm", 100), ("mm", 1000), ("m", 1)])
def test_a_unit_is_converted_to_metres(psptool: Psptool, small: None, unit: str, factor: float) -> None:
    Path("raw").mkdir()
    values = azure_arrays(Path("raw"))
    for path in Path("raw").glob("*.npz"):
        np.savez(path, joints=np.load(path)["joints"] * np.float32(factor / 1000))
    values |= {"name": "own", "classes": list(CLASSES), "unit": unit}
    values["clips"] = {"pattern": r"(?P<label>[a-z]+)_s(?P<subject>\d)_t(?P<repetition>\d)"}
    Path("own.yaml").write_text(yaml.safe_dump(values))
    result = psptool("prepare", "own.yaml", "--raw", "raw", "--jobs", 1)
    assert "unit" not in result.err
    with open_store("data/own.h5") as store:
        height = np.nanmax(np.ptp(store[0].recorded()[..., 1], axis=-1))
    assert 1 < height < 2.5  # metres


FORMATS: dict[str, Callable[[Path], dict[str, object]]] = {
    "coco17": coco_pickle,
    "mediapipe33": mediapipe_tables,
    "azure32": azure_arrays,
}


@pytest.fixture(params=FORMATS)
def dataset(request: pytest.FixtureRequest, psptool: Psptool, small: None) -> str:
    """The skeleton of a prepared dataset ``data/own.h5``, whose recordings are in ``raw``."""
    Path("raw").mkdir()
    values = {"name": "own", "classes": list(CLASSES), **FORMATS[request.param](Path("raw"))}
    if request.param != "coco17":
        values["clips"] = {"pattern": r"(?P<label>[a-z]+)_s(?P<subject>\d)_t(?P<repetition>\d)"}
        values["protocols"] = {"xsub": {"field": "subject", "train": [1]}}
    Path("own.yaml").write_text(yaml.safe_dump(values))
    psptool("prepare", "own.yaml", "--raw", "raw", "--jobs", 1)
    return str(request.param)


def test_every_clip_is_prepared_in_units_of_the_spine_length(dataset: str) -> None:
    with open_store("data/own.h5") as store:
        assert len(store) == len(NAMES)
        assert store.manifest.topology.name == dataset
        assert {clip.class_name: clip.key.label for clip in store} == {"walk": 0, "sit": 1}
        flat = builtin_skeleton(dataset).dimensions == 2
        assert store.manifest.settings.align == ("none" if flat else "body")
        for clip in store:
            assert (clip.joint[..., 2] == 0).all() == flat
            assert 0.5 < np.abs(clip.joint).max() < 20


def test_lists_in_a_pickle_are_protocols_if_the_description_has_none(dataset: str) -> None:
    with open_store("data/own.h5") as store:
        protocol = store.manifest.description.protocols["xsub"]
    if dataset == "coco17":
        assert isinstance(protocol, ListProtocol)
        assert (len(protocol.train_clips), len(protocol.test_clips or ())) == (6, 6)
    else:
        assert isinstance(protocol, FieldProtocol)


def test_clips_of_several_pickles_that_are_in_no_list_are_reported(psptool: Psptool) -> None:
    values = {"name": "own", "classes": list(CLASSES), **coco_pickle(Path.cwd())}
    Path("own.yaml").write_text(yaml.safe_dump(values))
    content = pickle.loads(Path("clips.pkl").read_bytes())
    Path("clips.pkl").unlink()
    Path("raw").mkdir()
    # Each pickle has half of the clips; three clips are missing in the lists of the second one.
    for number in (0, 1):
        own = content["annotations"][number::2]
        listed = [one["frame_dir"] for one in own][: 6 - 3 * number]
        split = {key: [name for name in names if name in listed] for key, names in content["split"].items()}
        Path("raw", f"{number}.pkl").write_bytes(pickle.dumps({"split": split, "annotations": own}))
    result = psptool("prepare", "own.yaml", "--raw", "raw", "--jobs", 1)
    missing = ", ".join(sorted(NAMES[1::2][3:]))
    assert f"protocol xsub: 3 of 12 clips in neither list, and so in no split: {missing}" in result.err
    with open_store("data/own.h5") as store:
        protocol = store.manifest.description.protocols["xsub"]
    assert isinstance(protocol, ListProtocol)
    assert {*protocol.train_clips, *(protocol.test_clips or ())} == {*NAMES} - {*NAMES[1::2][3:]}


def test_an_annotation_without_label_is_a_clip_without_a_label(psptool: Psptool) -> None:
    values = {"name": "own", "classes": list(CLASSES), **coco_pickle(Path.cwd())}
    Path("own.yaml").write_text(yaml.safe_dump(values))
    content = pickle.loads(Path("clips.pkl").read_bytes())
    del content["annotations"][0]["label"]
    Path("clips.pkl").write_bytes(pickle.dumps(content))
    psptool("prepare", "own.yaml", "--raw", "clips.pkl", "--jobs", 1)
    assert json.loads(Path("data/own.report.json").read_text())["skipped"] == []
    with open_store("data/own.h5") as store:
        assert [name for name in store.names if store.clip(name).key.label < 0] == [NAMES[0]]


def test_a_clip_in_both_lists_of_a_pickle_is_refused(psptool: Psptool) -> None:
    values = {"name": "own", "classes": list(CLASSES), **coco_pickle(Path.cwd())}
    Path("own.yaml").write_text(yaml.safe_dump(values))
    content = pickle.loads(Path("clips.pkl").read_bytes())
    content["split"]["xsub_val"].append(NAMES[0])
    Path("clips.pkl").write_bytes(pickle.dumps(content))
    result = psptool("prepare", "own.yaml", "--raw", "clips.pkl", code=2)
    assert f"the lists xsub_train and xsub_val of the files: found {NAMES[0]} in both lists" in result.err
    assert not Path("data").exists()


@pytest.mark.slow
def test_all_commands_work_without_the_description(dataset: str, psptool: Psptool) -> None:
    Path("own.yaml").unlink()
    psptool("split", "--count", 1)
    psptool("train", "--preset", "fast")
    run = next(Path("runs").iterdir())
    result = json.loads(psptool("evaluate", run, "--json").out)
    assert result["clips"] == len(NAMES) // 2
    psptool("view", "data/own.h5", "--model", run, "--out", "view.html")
    psptool("view", "data/own.h5", "--png", "--gif")
    psptool("view", "raw", "--model", run, "--out", "raw.html")
    psptool("predict", "raw", "--out", "predicted.json")
    assert len(json.loads(Path("predicted.json").read_text())["clips"]) == len(NAMES)
    psptool("predict", "raw", "--window", 0.2, "--out", "windows.json", "--page", "windows.html")
    recordings = json.loads(Path("windows.json").read_text())["recordings"]
    assert [len(one["windows"]) for one in recordings] == [3] * len(NAMES)  # 6 of 12 frames, every 3
    psptool("view", "windows.json", "--out", "windows.html")
    psptool("export", run, "--safetensors", "--torch-export")
    psptool("export-data", "--format", "pyskl", "--out", "back.pkl")
    psptool("validate", "data/own.h5")


def test_segments_of_a_long_recording_are_clips_and_wrong_ranges_are_reported(psptool: Psptool) -> None:
    Path("raw").mkdir()
    xyz = np.concatenate([positions for _, positions in recordings("kinect20")][:3])  # 36 frames
    rows = [" ".join(map(str, [100 + t, *row.ravel().round(5).tolist()])) for t, row in enumerate(xyz)]
    Path("raw", "long.txt").write_text("\n".join(rows))
    Path("clips.csv").write_text(
        "recording;action;first;last\nlong;walk;100;111\nlong.txt;sit;112;135\nlong;sit;NaN;NaN\nlong;run;100;111\n"
        "other;sit;1;2\nlong;sit;900;990\n"
    )
    values = {
        "name": "own",
        "skeleton": "kinect20",
        "format": {"reader": "table", "suffixes": [".txt"], "header": False, "columns": ["frame"]},
        "clips": {"table": "clips.csv", "columns": {"file": "recording", "label": "action"}},
        "classes": list(CLASSES),
    }
    Path("own.yaml").write_text(yaml.safe_dump(values))
    planned = json.loads(psptool("prepare", "own.yaml", "--raw", "raw", "--dry-run", "--json").out)
    assert planned["raw_bytes"] == Path("raw", "long.txt").stat().st_size
    result = json.loads(psptool("prepare", "own.yaml", "--raw", "raw", "--jobs", 1, "--json").out)
    assert result["clips"] == 2
    assert result["quarantined_by_reason"] == {"frame range": 1}
    reasons = " ".join(result["skipped_by_reason"])
    for reason in ("frames 'NaN' to 'NaN'", "label 'run' is not a class", "no recording other"):
        assert reason in reasons
    with open_store("data/own.h5") as store:
        assert store.names == ("long_000100_000111", "long_000112_000135")
        assert [clip.joint.shape[1] for clip in store] == [12, 24]


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?P<label>[a-z]+)_s(?P<subject>\d)_t(?P<repetition>\d)",
        r"raw/(?P<label>[a-z]+)_s(?P<subject>\d)_t(?P<repetition>\d)",
    ],
)
def test_a_label_that_is_not_a_class_is_reported(psptool: Psptool, pattern: str) -> None:
    Path("raw").mkdir()
    values = {"name": "own", "classes": ["walk", "sti"], **azure_arrays(Path("raw"))}
    Path("own.yaml").write_text(yaml.safe_dump({**values, "clips": {"pattern": pattern}}))
    result = psptool("prepare", "own.yaml", "--raw", "raw", "--jobs", 1, "--json")
    assert json.loads(result.out)["skipped_by_reason"] == {"label 'sit' is not a class of the description": 6}
    assert "own: no clip of class sti, but label 'sit' is not a class of the description" in result.err


def test_classes_without_clips_are_reported_except_for_built_in_datasets(psptool: Psptool) -> None:
    Path("raw").mkdir()
    pattern = r"(?P<label>[a-z]+)_s(?P<subject>\d)_t(?P<repetition>\d)"
    values = {**azure_arrays(Path("raw")), "clips": {"pattern": pattern}, "classes": ["walk", "sit", "run"]}
    Path("own.yaml").write_text(yaml.safe_dump({"name": "own", **values}))
    result = psptool("prepare", "own.yaml", "--raw", "raw", "--jobs", 1)
    assert "warning: own: no clip of class run\n" in result.err
    write_ucla(Path("ucla"), ["a01_s01_e00_v01"])
    assert psptool("prepare", "ucla", "--raw", "ucla", "--jobs", 1, "--quiet").err == ""


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "recording,first,last\nlong,1,2\n",
            "columns: found recording, first, last, expected 'file' (file) and 'label' (label)",
        ),
        ("file,label,first\nlong,walk,1\n", "expected both first and last"),
        ("file,label\nlong,walk\nlong,sit\n", "the clip name long: found also in line 2"),
        ("file,label\rlong,jump\r", "label 'jump' is not a class"),
        ("file,label\nlong,walk,sit\n", "clip table: more fields than columns"),
        ("file,label,label\nlong,walk,sit\n", "columns: found label more than once"),
        ("file," + "x" * 200_000, "line 1: field larger than field limit"),
        ("file,label\nlong," + "x" * 200_000, "line 2: field larger than field limit"),
        (None, "cannot be read"),
    ],
)
def test_an_invalid_clip_table_is_an_error(psptool: Psptool, table: str | None, message: str) -> None:
    Path("raw").mkdir()
    np.save(Path("raw", "long.npy"), np.ones((5, 20, 3)))
    if table is not None:
        Path("clips.csv").write_text(table)
    values = {"name": "own", "skeleton": "kinect20", "format": {"reader": "arrays"}, "classes": list(CLASSES)}
    Path("own.yaml").write_text(yaml.safe_dump({**values, "clips": {"table": "clips.csv"}}))
    result = psptool("prepare", "own.yaml", "--raw", "raw", "--jobs", 1, code=2)
    assert message in result.err
    assert "clips.csv" in result.err
    assert not Path("data").exists()


def test_folder_names_may_be_classes(psptool: Psptool) -> None:
    for name, xyz in recordings("kinect20"):
        action, _, rest = name.partition("_")
        Path("raw", action).mkdir(parents=True, exist_ok=True)
        np.save(Path("raw", action, f"{rest}.npy"), xyz)
    values = {
        "name": "own",
        "skeleton": "kinect20",
        "format": {"reader": "arrays"},
        "clips": {"pattern": r"(?P<label>[a-z]+)/s(?P<subject>\d)_t\d"},
        "classes": list(CLASSES),
        "protocols": {"loso": {"leave_one_out": "subject"}},
    }
    Path("own.yaml").write_text(yaml.safe_dump(values))
    psptool("prepare", "own.yaml", "--raw", "raw", "--jobs", 1)
    psptool("split", "--count", 1)
    assert len(list(Path("splits").iterdir())) == 2
    with open_store("data/own.h5") as store:
        assert set(store.names) == set(NAMES)
        assert store.clip("walk_s2_t1").key.subject == 2


def test_an_exported_pickle_of_own_data_can_be_prepared_again_with_a_description(
    dataset: str, psptool: Psptool
) -> None:
    psptool("export-data", "--format", "pyskl", "--out", "exchange/own.pkl")
    result = psptool("import", "exchange/own.pkl", code=2).err
    assert "psptool describe --from exchange/own.pkl" in result
    assert "psptool prepare DESCRIPTION.yaml --raw exchange/own.pkl" in result
    psptool("describe", "--from", "exchange/own.pkl", "--out", "back.yaml")
    values = yaml.safe_load(Path("back.yaml").read_text())
    with open_store("data/own.h5") as store:
        values |= {"name": "back", "classes": list(store.class_names), "skeleton": dataset}
        description = store.manifest.description
    values |= {"unit": description.unit_read, "up": description.up}
    Path("back.yaml").write_text(yaml.safe_dump(values))
    psptool("prepare", "back.yaml", "--raw", "exchange/own.pkl", "--jobs", 1)
    with open_store("data/own.h5") as store, open_store("data/back.h5") as back:
        assert back.names == store.names
        assert isinstance(back.manifest.description.protocols["xsub"], ListProtocol)
        for clip, other in zip(store, back, strict=True):
            assert clip.key.label == other.key.label
            np.testing.assert_allclose(other.joint, clip.joint, atol=1e-3)
