"""Prediction from raw recordings: logits equal those of evaluation, and unusable recordings are reported."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from psptool.common.errors import PspError
from psptool.data.store.reading import open_store
from psptool.evaluation.models import model_bytes, open_model
from psptool.evaluation.predicting import find_recordings, predict
from psptool.evaluation.scoring import score_clips, softmax
from psptool.formats.synthesis.names import clip_names
from psptool.formats.synthesis.writing import write_ntu, write_ucla
from psptool.preparation.pipeline import prepare
from psptool.schemas.description import DatasetDescription
from psptool.schemas.prediction import Prediction
from psptool.skeletons.keys import UNNAMED

from ..trained import make_network, make_run, make_split

CPU = torch.device("cpu")
NAMES = [f"a{a:02}_s{s:02}_e00_v{v:02}" for a in (1, 5) for s in (1, 2) for v in (1, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw recordings, the dataset prepared from them, and a run on it."""
    path = tmp_path_factory.mktemp("predict")
    write_ucla(path / "raw", NAMES)
    prepare("ucla", [path / "raw"], path / "ucla.h5")
    with open_store(path / "ucla.h5") as store:
        make_split(path / "split.json", store.manifest, {"test": NAMES})
        make_run(path / "run", store.manifest, path / "ucla.h5", path / "split.json")
    return path


def expected(folder: Path) -> dict[str, np.ndarray]:
    model = open_model(folder / "run")
    with open_store(folder / "ucla.h5") as store:
        scored = score_clips(model.net, model.config, store, np.arange(len(store)), CPU)
        return dict(zip(store.names, scored.fused, strict=True))


def logits(found: Prediction) -> dict[str, np.ndarray]:
    return {clip.name: np.array(clip.logits) for clip in found.clips}


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / "raw").rglob("*.json"))


@pytest.mark.parametrize("form", ["folder", "files", "zip"])
def test_predictions_on_raw_files_equal_the_evaluation_of_the_same_clips(
    folder: Path, tmp_path: Path, form: str
) -> None:
    paths = {"folder": [folder / "raw"], "files": files_of(folder), "zip": [tmp_path / "raw.zip"]}[form]
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for file in files_of(folder):
            archive.write(file, f"some/where/{file.name}")
    found = predict(open_model(folder / "run"), paths, top=10, logits=True)
    wanted = expected(folder)
    assert [clip.name for clip in found.clips] == sorted(NAMES)
    assert found.unusable == ()
    for clip in found.clips:
        both = wanted[clip.name]
        np.testing.assert_allclose(clip.logits, both, atol=1e-5)
        assert [guess.label for guess in clip.top] == np.argsort(-both, kind="stable").tolist()
        np.testing.assert_allclose(
            [guess.probability for guess in clip.top], -np.sort(-softmax(both[None])[0]), atol=1e-6
        )
        assert clip.top[0].class_name == found.classes[clip.top[0].label]


def test_recordings_with_any_file_name_and_without_a_label_are_accepted(folder: Path, tmp_path: Path) -> None:
    content = json.loads(files_of(folder)[0].read_text())
    (tmp_path / "my own.json").write_text(json.dumps({"skeletons": content["skeletons"], "who": "me"}))
    found = predict(open_model(folder / "run"), [tmp_path / "my own.json"], logits=True)
    np.testing.assert_allclose(logits(found)["my own"], expected(folder)[content["file_name"]], atol=1e-5)


def test_the_text_format_is_accepted_in_a_folder_of_any_name(folder: Path, tmp_path: Path) -> None:
    write_ucla(tmp_path / "text", [NAMES[0]], form="text")
    (original,) = {file.parent for file in tmp_path.rglob("frame_*_skeletons.txt")}
    shutil.copytree(original, tmp_path / "kitchen")
    model = open_model(folder / "run")
    original_name = predict(model, [tmp_path / "text"], logits=True)
    renamed = predict(model, [tmp_path / "kitchen"], logits=True)
    assert [clip.name for clip in original_name.clips + renamed.clips] == [NAMES[0], "kitchen"]
    assert renamed.clips[0].logits == original_name.clips[0].logits


def test_unusable_recordings_are_reported_and_the_others_are_predicted(folder: Path, tmp_path: Path) -> None:
    good = shutil.copy(files_of(folder)[0], tmp_path)
    (tmp_path / "cut.json").write_bytes(Path(good).read_bytes()[:500])
    (tmp_path / "notes.md").write_text("mine")
    write_ntu(tmp_path / "ntu", clip_names((7,), 1, 1, (1,))[:1])
    (skeleton,) = (tmp_path / "ntu").rglob("*.skeleton")
    paths = [Path(good), tmp_path / "cut.json", skeleton, tmp_path / "notes.md"]
    found = predict(open_model(folder / "run"), paths)
    assert [clip.name for clip in found.clips] == [NAMES[0]]
    reported = {clip.name: (clip.reason, clip.detail) for clip in found.unusable}
    assert reported["cut.json"[:3]][0] == "truncated"
    assert reported[skeleton.name][0] == reported["notes.md"][0] == "another format"
    assert "ntu-skeleton, 25 joints" in reported[skeleton.name][1]
    with pytest.raises(PspError) as caught:
        predict(open_model(folder / "run"), [tmp_path / "notes.md"])
    assert str(caught.value) == (
        f"{tmp_path}/notes.md: not in the format of the model's dataset: expected ucla-json or ucla-text. "
        "For other formats, use psptool.load(...).predict(joints=array) in Python."
    )


def test_predictions_include_the_notes_of_preparation(folder: Path, tmp_path: Path) -> None:
    content = json.loads(files_of(folder)[0].read_text())
    content["skeletons"][3][7] = [0, 0, 0]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    for frame in content["skeletons"]:
        frame[2] = frame[0]
    (tmp_path / "spineless.json").write_text(json.dumps(content))
    mine, spineless = predict(open_model(folder / "run"), [tmp_path]).clips
    assert mine.notes == ("1 missing joints (NaN or exactly (0, 0, 0)) interpolated over time",)
    assert any("scale is 1" in note for note in spineless.notes)


@pytest.mark.parametrize("form", ["tar", "gztar"])
def test_predictions_for_a_tar_archive_are_those_for_its_files(
    folder: Path, tmp_path: Path, form: str
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "raw"), form, folder / "raw"))
    model = open_model(folder / "run")
    packed, plain = (predict(model, [path], logits=True) for path in (archive, folder / "raw"))
    assert logits(packed).keys() == logits(plain).keys()
    assert all((logits(packed)[name] == logits(plain)[name]).all() for name in logits(plain))


def test_unsupported_archives_are_reported_once(folder: Path, tmp_path: Path) -> None:
    shutil.copy(files_of(folder)[0], tmp_path)
    (tmp_path / "more.rar").write_bytes(b"")
    (one,) = predict(open_model(folder / "run"), [tmp_path]).unusable
    assert (one.name, one.reason) == ("more.rar", "unsupported archive format")


def test_openpose_json_is_reported_as_another_format(folder: Path, tmp_path: Path) -> None:
    shutil.copy(files_of(folder)[0], tmp_path)
    person = {"person_id": [-1], "pose_keypoints_2d": [0.5] * 75}
    (tmp_path / "x_keypoints.json").write_text(json.dumps({"version": 1.3, "people": [person]}))
    (one,) = predict(open_model(folder / "run"), [tmp_path]).unusable
    assert one.reason == "another format"
    assert "OpenPose" in one.detail


PICKLES = DatasetDescription.model_validate(
    {
        "name": "own",
        "skeleton": "coco17",
        "format": {"reader": "pyskl"},
        "classes": ["walk", "sit"],
        "unit": "px",
        "up": "-y",
    }
)


def write_pickle(path: Path, **changes: object) -> Path:
    annotation = {"frame_dir": path.stem, "label": 1, "total_frames": 3, "keypoint": np.ones((1, 3, 17, 2))}
    path.write_bytes(pickle.dumps([annotation | changes]))
    return path


def test_pickles_given_by_path_are_read(tmp_path: Path) -> None:
    paths = [write_pickle(tmp_path / f"{name}.pkl") for name in "ab"]
    ((_, clips),), unusable = find_recordings(paths, PICKLES)
    assert ([clip.name for clip in clips], unusable) == (["a", "b"], [])


def test_an_annotation_without_label_is_used(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "a.pkl", label=None)
    ((_, (clip,)),), unusable = find_recordings([path], PICKLES)
    assert (clip.name, clip.key, unusable) == ("a", UNNAMED, [])


def test_an_unusable_annotation_is_reported_once(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "a.pkl", keypoint=None)
    _, (one,) = find_recordings([path], PICKLES)
    assert (one.name, one.source) == ("'a'", f"{path}: annotation 0")


def test_recordings_of_another_dataset_are_refused(folder: Path, tmp_path: Path) -> None:
    write_ntu(tmp_path / "ntu", clip_names((7,), 1, 1, (1,))[:2])
    with pytest.raises(PspError, match=r"kinect20, 20 joints.*ntu-skeleton, 25 joints.*--model"):
        predict(open_model(folder / "run"), [tmp_path / "ntu"])


def test_recordings_without_a_usable_one_are_an_error_with_the_reason(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text("{")
    with pytest.raises(PspError, match=r"1 recording found, of which none.*cut\.json.*truncated"):
        predict(open_model(folder / "run"), [tmp_path / "cut.json"])


def test_a_model_file_gives_the_predictions_of_its_run(folder: Path, tmp_path: Path) -> None:
    run = open_model(folder / "run")
    (tmp_path / "model.safetensors").write_bytes(model_bytes(run))
    one = open_model(tmp_path / "model.safetensors")
    assert (one.config, one.weights) == (run.config, "last")
    paths = [folder / "raw"]
    assert predict(one, paths, logits=True).clips == predict(run, paths, logits=True).clips


def test_weights_without_a_valid_configuration_are_refused(tmp_path: Path) -> None:
    save_file(make_network().state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(PspError, match=r"has no psptool configuration.*export --safetensors"):
        open_model(tmp_path / "bare.safetensors")
    save_file(
        make_network().state_dict(),
        tmp_path / "odd.safetensors",
        metadata={"psptool.config": "{}", "psptool.weights": "last"},
    )
    with pytest.raises(
        PspError, match=r"odd\.safetensors.*not the configuration of a run.*description: Field required"
    ):
        open_model(tmp_path / "odd.safetensors")


class _Trap:
    """Unpickling this object creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_checkpoint_that_contains_code_is_refused_and_the_code_does_not_run(
    tmp_path: Path, name: str
) -> None:
    torch.save(_Trap(tmp_path / "executed"), tmp_path / name)
    with pytest.raises(PspError, match=r"cannot be read as safetensors.*can contain code"):
        open_model(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skeleton": "octopus"}, "description.skeleton: .*octopus.*kinect20"),
        ({"classes": 3}, "description.classes"),
        ({"classes": {"1": "one"}}, "does not fit the network"),
        ({"preparation": {"align": "__import__"}}, "preparation.align"),
        ({"huge": 4096}, "does not fit the network"),
        ({"huge": 1_000_000}, "less than or equal to 4096"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_with_invalid_values_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    if size := change.get("huge"):
        # Gigabytes of weights, which must not be allocated before the shapes are compared with those in the file.
        content["training"]["model"]["channels"] = [size, size]
        change = {}
    for key in change.keys() & content["description"].keys():
        content["description"][key] = change[key]
        change = {}
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(PspError, match=message):
        open_model(tmp_path / "run")


def test_the_key_of_an_unnamed_clip_has_label_minus_one() -> None:
    assert UNNAMED.label == -1


@pytest.mark.real
@pytest.mark.skipif("PSPTOOL_UCLA_RAW" not in os.environ, reason="PSPTOOL_UCLA_RAW names no folder")
def test_logits_of_all_real_test_clips_equal_those_of_evaluation(tmp_path: Path) -> None:
    raw = Path(os.environ["PSPTOOL_UCLA_RAW"])
    prepare("ucla", [raw], tmp_path / "ucla.h5")
    with open_store(tmp_path / "ucla.h5") as store:
        make_split(tmp_path / "split.json", store.manifest, {})
        make_run(tmp_path / "run", store.manifest, tmp_path / "ucla.h5", tmp_path / "split.json")
        chosen = np.flatnonzero(store.table.camera == 3)
        model = open_model(tmp_path / "run")
        wanted = score_clips(model.net, model.config, store, chosen, CPU).fused
        names = [store.names[n] for n in chosen]
    files = sorted(raw.rglob("*_v03.json"))
    found = predict(model, files, top=1, logits=True)
    assert [clip.name for clip in found.clips] == names
    np.testing.assert_allclose([clip.logits for clip in found.clips], wanted, atol=1e-5)
    assert [clip.top[0].label for clip in found.clips] == wanted.argmax(axis=1).tolist()
