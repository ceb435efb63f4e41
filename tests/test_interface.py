"""The Python functions: the example of each docstring runs, and results equal those of the commands."""

from __future__ import annotations

import doctest
import inspect
import json
import pydoc
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import psptool
from psptool.cli.main import app
from psptool.evaluation.loaded import LoadedModel, resampled
from psptool.formats.synthesis.writing import write_ucla
from psptool.schemas.builtin import builtin_dataset
from psptool.schemas.scores import Scores

from .stores import make_clip
from .stores import write_ucla as write_dataset

ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)
NAMES = [f"a{a:02}_s{s:02}_e00_v{v:02}" for a in ACTIONS for s in (1, 2) for v in (1, 2, 3)]
FUNCTIONS = ("prepare", "split", "read_split", "train", "evaluate", "score", "predict", "open", "load")
"""In the order of use, from recordings to predictions: an example uses files of earlier examples."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings, in which the examples of the docstrings were run."""
    path = tmp_path_factory.mktemp("interface")
    write_ucla(path, NAMES)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        patch.chdir(path)
        for name in FUNCTIONS:
            run_examples(getattr(psptool, name), name)
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def run_examples(documented: object, name: str) -> None:
    (found,) = doctest.DocTestFinder(recurse=False).find(documented, name, globs={"psptool": psptool})
    assert found.examples, f"{name} has no example"
    output: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(found, out=output.append).failed
    assert not failed, "".join(output)


def test_every_function_has_an_example_that_runs(here: Path) -> None:
    functions = {name for name in psptool.__all__ if inspect.isfunction(getattr(psptool, name))}
    assert functions == set(FUNCTIONS)
    assert (here / "runs/first/scores.json").is_file()  # the examples ran in `folder`


def test_the_example_of_predicting_a_clip_runs(here: Path) -> None:
    run_examples(LoadedModel.predict, "LoadedModel.predict")


def test_the_example_of_the_pytorch_dataset_runs(here: Path) -> None:
    run_examples(psptool.ClipDataset, "ClipDataset")


def test_help_names_everything_public() -> None:
    text = pydoc.render_doc(psptool, renderer=pydoc.plaintext)
    assert "class ClipDataset" in text
    assert [name for name in psptool.__all__ if name not in text] == []


def test_read_split_returns_the_split_that_was_written(here: Path) -> None:
    created = psptool.split("data/ucla.h5", count=1, seed=3, out="splits/read.json")
    assert psptool.read_split("splits/read.json") == created.split


def test_importing_psptool_imports_no_dependency() -> None:
    code = "import psptool, sys; print(*{'torch', 'numpy', 'h5py', 'pydantic', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_no_module_has_the_name_of_a_function() -> None:
    # The import of a submodule sets an attribute of the package, which would replace the function.
    modules = {path.stem for path in Path(psptool.__file__).parent.iterdir()}
    assert not modules & set(psptool.__all__)
    code = "import psptool.preparation.pipeline, psptool.cli.main, inspect; "
    code += "print(all(inspect.isfunction(getattr(psptool, n)) for n in psptool.__all__ if n in %r))"
    done = subprocess.run(
        [sys.executable, "-c", code % (FUNCTIONS,)], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "True"


def test_predict_returns_what_the_command_prints(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = app(["predict", "all_sqe", "--model", "runs/first", "--logits", "--json"], standalone_mode=False)
    assert not code
    printed = json.loads(capsys.readouterr().out)
    found = psptool.predict("runs/first", ["all_sqe"], logits=True)
    assert json.loads(found.dump()) == printed
    again = psptool.predict(psptool.load("runs/first"), "all_sqe", logits=True)
    assert again == found


def test_a_prepared_clip_has_the_same_probabilities_as_its_recording(here: Path) -> None:
    model = psptool.load("runs/first")
    raw = {clip.name: clip for clip in psptool.predict("runs/first", "all_sqe", top=10).clips}
    with psptool.open("data/ucla.h5") as dataset:
        for clip in list(dataset)[:5]:
            expected = {guess.class_name: guess.probability for guess in raw[clip.name].top}
            stored = model.predict(clip)
            assert list(stored) == list(expected)
            assert stored == pytest.approx(expected, abs=1e-5)


def test_an_array_of_recorded_positions_has_the_same_probabilities_as_its_file(here: Path) -> None:
    model = psptool.load("runs/first")
    file = here / f"all_sqe/{NAMES[2]}.json"
    joints = np.array(json.loads(file.read_text())["skeletons"])  # (T, V, 3)
    (clip,) = psptool.predict(model, file, top=10).clips
    expected = {guess.class_name: guess.probability for guess in clip.top}
    assert model.predict(joints=joints) == pytest.approx(expected, abs=1e-6)
    assert model.predict(joints=joints[None].tolist()) == pytest.approx(expected, abs=1e-6)
    absent = np.zeros_like(joints)
    assert model.predict(joints=np.stack([joints, absent])) == pytest.approx(expected, abs=1e-6)


def test_positions_at_60_frames_per_second_are_subsampled_to_every_second_frame(here: Path) -> None:
    model = psptool.load("runs/first")
    joints = np.array(json.loads((here / f"all_sqe/{NAMES[0]}.json").read_text())["skeletons"])
    assert model.predict(joints=joints, frame_rate=60) == model.predict(joints=joints[::2])
    assert model.predict(joints=joints, frame_rate=60) != model.predict(joints=joints)


def test_resampling_interpolates_over_time_and_keeps_missing_joints_missing() -> None:
    joints = np.ones((1, 4, 2, 3), np.float32)  # (M, T, V, 3)
    joints[0, :, 0] = [[1], [2], [3], [4]]
    joints[0, 1, 1] = np.nan
    found = resampled(joints, 15.0, 30.0)
    assert found.shape == (1, 7, 2, 3)
    assert found[0, :, 0, 0].tolist() == [1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert np.isnan(found[0, :, 1, 0]).tolist() == [False, True, True, True, False, False, False]
    assert resampled(joints, 30.0, 30.0) is joints


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "clip and joints: found neither, expected exactly one"),
        ({"joints": np.zeros((5, 25, 3))}, r"shape \(5, 25, 3\), expected \(T, 20, 3\) or \(M, T, 20, 3\)"),
        ({"joints": np.zeros((5, 20, 3))}, "joints: no body"),
        ({"joints": np.full((5, 20, 3), np.inf)}, "joints: found infinity"),
        ({"joints": "a clip"}, "joints: "),
        ({"joints": np.ones((5, 20, 3)), "frame_rate": 0}, "frame_rate: found 0"),
        ({"joints": np.empty((0, 20, 3))}, r"shape \(0, 20, 3\), expected at least one person and one frame"),
        ({"joints": np.empty((0, 5, 20, 3))}, "at least one person"),
        ({"joints": np.ones((5, 20, 3)), "frame_rate": "30"}, "frame_rate: found '30', expected a positive"),
        ({"joints": np.ones((5, 20, 3)), "frame_rate": 1e-9}, "frame_rate: found 1e-09, .* at most"),
        ({"clip": "a01_s01_e00_v03"}, "clip: found str, expected a clip of a prepared dataset"),
    ],
)
def test_invalid_input_of_predict_is_an_error_with_the_reason(
    here: Path, given: dict[str, object], message: str
) -> None:
    with pytest.raises(psptool.PspError, match=message):
        psptool.load("runs/first").predict(**given)  # type: ignore[arg-type]


def test_a_clip_with_other_preparation_settings_is_refused_and_the_differences_are_named(
    here: Path, tmp_path: Path
) -> None:
    done = psptool.prepare("ucla", "all_sqe", tmp_path / "released.h5", align="released", jobs=1)
    with (
        psptool.open(done.path) as dataset,
        pytest.raises(psptool.PspError, match=r"align=released.*expected align=body.*joints=clip.recorded"),
    ):
        psptool.load("runs/first").predict(dataset.clip(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psptool.prepare("uclaa", "all_sqe"), "dataset: found 'uclaa'.*Did you mean ucla"),
        (lambda: psptool.prepare("ucla", "all_sqe", align="bodies"), "align: .*Did you mean body"),
        (lambda: psptool.prepare("ucla", "all_sqe", jobs=0), "jobs: found 0"),
        (lambda: psptool.split("data/ucla.h5"), "exactly one"),
        (lambda: psptool.split("data/ucla.h5", count="3"), "count: found '3', expected an integer"),
        (lambda: psptool.split("data/ucla.h5", "0.05"), "ratio: found '0.05', expected a number"),
        (lambda: psptool.split("data/ucla.h5", 0.05, seed=1.0), "seed: found 1.0, expected an integer"),
        (lambda: psptool.split("data/ucla.h5", 0.05, protocol=1), "protocol: found 1, expected text"),
        (lambda: psptool.split("data/ucla.h5", 0.05, validation=2), "validation: found 2, expected text"),
        (lambda: psptool.train("data/ucla.h5", "splits/s.json", method="pps"), "method: .*mean psp"),
        (lambda: psptool.train("data/ucla.h5", "splits/s.json", settings={"optim.rl": 1}), "no key optim.rl"),
        (
            lambda: psptool.train("data/ucla.h5", "splits/s.json", settings={"optim.lr": Path("x")}),
            "optim.lr: .*found 'x'",
        ),
        (lambda: psptool.evaluate("runs/first", part="train"), "part: found 'train'"),
        (lambda: psptool.load("runs/first", weights="first"), "weights: found 'first'"),
        (lambda: psptool.load("runs/none"), "none"),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(here: Path, call, message: str) -> None:
    with pytest.raises(psptool.PspError, match=message):
        call()


def test_scores_of_the_probabilities_of_a_run_equal_the_scores_of_the_run(here: Path) -> None:
    expected = psptool.evaluate("runs/first")
    model, split = psptool.load("runs/first"), "splits/ucla-xview-k1-s0.json"
    with psptool.open("data/ucla.h5") as dataset:
        found = {name: model.predict(dataset[name]) for name in psptool.read_split(split).test}
    scores = psptool.score("data/ucla.h5", split, found, method="again")
    same = (
        "top1",
        "top5",
        "confusion",
        "per_class",
        "clips",
        "top1_unseen",
        "clips_unseen",
        "classes_unseen",
    )
    same += ("split_digest", "scored_digest", "protocol", "ratio", "count", "labelled", "draw", "seed")
    same += ("content_fingerprint", "clips_fingerprint", "split", "dataset", "weights", "part")
    assert {key: getattr(scores, key) for key in same} == {key: getattr(expected, key) for key in same}
    assert Scores.load_consistent(Path("scores/ucla-xview-k1-s0-again.json")) == scores


def test_score_accepts_arrays_labels_and_class_names(here: Path) -> None:
    data, split = "data/ucla.h5", "splits/ucla-xview-k1-s0.json"
    with psptool.open(data) as dataset:
        truth = {name: dataset[name].key.label for name in psptool.read_split(split).test}
        names = {name: dataset.class_names[label] for name, label in truth.items()}
    by_array = {name: np.eye(10)[label] for name, label in truth.items()}
    given = {"labels": truth, "names": names, "arrays": by_array}
    found = {
        how: psptool.score(data, split, predictions, method=how, out=f"scores/kinds/{how}.json")
        for how, predictions in given.items()
    }
    assert [scores.top1 for scores in found.values()] == [1, 1, 1]
    assert [scores.top5 for scores in found.values()] == [None, None, 1]


def test_table_lists_scores_of_other_predictions_beside_runs(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data, split = "data/ucla.h5", "splits/ucla-xview-k1-s0.json"
    psptool.evaluate("runs/first")
    predictions = dict.fromkeys(psptool.read_split(split).test, 3)
    psptool.score(data, split, predictions, method="stgcn", out=tmp_path / "own/stgcn.json")
    command = ["table", "runs/first", str(tmp_path / "own"), "--against", "stgcn"]
    assert not app([*command, "--json", "--html", str(tmp_path / "table.html")], standalone_mode=False)
    table = json.loads(capsys.readouterr().out)
    first, stgcn = table["groups"]
    assert {first["name"].split("/")[0], stgcn["name"]} == {"psp", "stgcn"}
    assert table["differences"][0]["against"] == "stgcn"
    for form in ("text", "markdown", "csv"):
        assert not app([*command, "--format", form], standalone_mode=False)
        assert "stgcn" in capsys.readouterr().out


def _without_the_first(names: dict[str, object]) -> dict[str, object]:
    return dict(list(names.items())[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_the_first, "a01_s01_e00_v03 of the test set .* not predicted.*19 predictions"),
        (lambda names: {**names, "a01_s01_e00_v01": 0}, "a01_s01_e00_v01 not in the test set"),
        (lambda names: {**names, "a01_s01_e00_v03": "stand upp"}, "v03: found 'stand upp'.*mean stand up"),
        (lambda names: {**names, "a01_s01_e00_v03": 10}, "v03: found 10, expected .* from 0 to 9"),
        (lambda names: {**names, "a01_s01_e00_v03": 0.5}, "v03: found 0.5, expected"),
        (lambda names: {**names, "a01_s01_e00_v03": [0.5] * 9}, r"v03: found shape \(9,\)"),
        (lambda names: {**names, "a01_s01_e00_v03": [[1], [1, 2]]}, "v03: found .*, expected 10 prob"),
        (lambda names: {**names, "a01_s01_e00_v03": None}, "v03: found None, expected"),
        (lambda names: {**names, "a01_s01_e00_v03": [np.nan] * 10}, "v03: found a number that is not finite"),
        (lambda names: {**names, "a01_s01_e00_v03": {"stand up": 1.0}}, "v03: found no number for pick up"),
        (lambda names: list(names), "predictions: found list"),
    ],
)
def test_invalid_predictions_are_refused_and_named(here: Path, change, message: str) -> None:
    split = "splits/ucla-xview-k1-s0.json"
    predictions = change(dict.fromkeys(psptool.read_split(split).test, "stand up"))
    with pytest.raises(psptool.PspError, match=message):
        psptool.score("data/ucla.h5", split, predictions, method="stgcn", out="scores/wrong.json")
    assert not Path("scores/wrong.json").exists()


@pytest.mark.parametrize("predictions", [{}, {"a01_s01_e00_v03": 0}])
def test_score_refuses_a_split_without_test_clips(here: Path, tmp_path: Path, predictions) -> None:
    split = tmp_path / "edited.json"
    psptool.read_split("splits/ucla-xview-k1-s0.json").model_copy(update={"test": ()}).save(split)
    with pytest.raises(
        psptool.PspError, match=r"edited\.json: test: found no clips, expected at least one\. Make"
    ):
        psptool.score("data/ucla.h5", split, predictions, method="stgcn")


@pytest.mark.parametrize("seed", [1.5, "1", -1, True])
def test_score_refuses_a_seed_that_is_not_an_integer_of_at_least_0(seed: object) -> None:
    with pytest.raises(psptool.PspError, match=f"seed: found {seed!r}, expected an integer of at least 0"):
        psptool.score("none.h5", "none.json", {}, method="stgcn", seed=seed)  # type: ignore[arg-type]


def test_settings_of_any_type_are_passed_to_the_training(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def train(data, split, recipe, **others):
        seen.append((data, split, recipe, others))

    monkeypatch.setattr("psptool.training.api.train", train)
    settings = {
        "optim": {"lr": 1e-5},
        "optim.steps": np.int64(7),
        "optim.nesterov": np.bool_(False),
        "loss.temperature": np.float32(0.5),
        "model.channels": (8, 8, 8),
        "streams.motion": "drawn",
    }
    psptool.train("a.h5", "b.json", preset="best", settings=settings, precision="float32", seed=3, out="c")
    ((data, split, recipe, others),) = seen
    assert (data, split, others["out"], others["resume"]) == (Path("a.h5"), Path("b.json"), Path("c"), "auto")
    assert (recipe.optim.lr, recipe.optim.steps, recipe.model.channels) == (1e-5, 7, (8, 8, 8))
    assert (recipe.optim.nesterov, recipe.loss.temperature) == (False, 0.5)
    assert (recipe.streams.motion, recipe.precision, recipe.seed) == ("drawn", "float32", 3)


def test_warnings_name_the_line_of_the_caller(here: Path) -> None:
    other = builtin_dataset("ucla").model_dump() | {"name": "other", "up": "z"}
    Path("other.yaml").write_text(json.dumps(other))
    split = psptool.split("data/ucla.h5", count=1).path
    settings = {"optim.steps": 1, "optim.pool_batch": 8}
    for call, message in (
        (lambda: psptool.prepare("other.yaml", "all_sqe", jobs=1), "Check up: z of the description"),
        (lambda: psptool.train("data/ucla.h5", split, settings=settings), "clips are repeated"),
    ):
        with pytest.warns(UserWarning, match=message) as warned:
            call()
        assert {one.filename for one in warned if message in str(one.message)} == {__file__}


def test_repr_of_datasets_and_clips(tmp_path: Path) -> None:
    path = tmp_path / "one.h5"
    write_dataset(path, [make_clip("a01_s01_e00_v01", 0, [(True,) * 6, (False, True) * 3])])
    with psptool.open(path) as dataset:
        assert repr(dataset) == f"<Store {path}: ucla, 1 clip, 10 classes, kinect20>"
        (clip,) = dataset
        expected = "<StoredClip a01_s01_e00_v01: 'pick up with one hand', 2 persons, 6 frames, 20 joints>"
        assert repr(clip) == expected
    assert repr(dataset).endswith(", closed>")
