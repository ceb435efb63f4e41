"""Evaluation of a run: measures, output files and refused inputs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from psptool.cli.evaluate import show
from psptool.common.errors import PspError
from psptool.data.store.arrays import PreparedClip
from psptool.evaluation.api import evaluate, measure
from psptool.evaluation.clip_predictions import predictions_csv
from psptool.evaluation.scoring import StreamLogits
from psptool.schemas.run import RunConfig
from psptool.schemas.scores import Scores
from psptool.schemas.split import Split
from psptool.schemas.training import OptimSettings
from psptool.training.api import train
from psptool.view.report import _accuracy, _tiles
from tests.builtin import NTU60, UCLA

from ..stores import make_clip, write_ucla
from ..trained import TRAINING, make_network, make_run, make_split

# Seed of the coordinates of each clip: clips with the same seed are duplicates.
SEEDS = {
    "a01_s01_e00_v01": 1,  # labelled
    "a02_s01_e00_v01": 2,  # unlabelled
    "a05_s01_e00_v02": 3,  # validation
    "a08_s01_e00_v02": 2,  # validation, duplicate of the unlabelled clip
    "a01_s01_e00_v03": 1,  # test, duplicate of the labelled clip
    "a02_s01_e00_v03": 2,  # test, duplicate of the unlabelled clip
    "a05_s01_e00_v03": 3,  # test, duplicate of a validation clip
    "a06_s01_e00_v03": 4,  # test, no duplicate
    "a06_s02_e00_v03": 5,  # test, no duplicate
    "a12_s01_e00_v03": 6,  # test, no duplicate
}
PARTS = {
    "labelled": ["a01_s01_e00_v01"],
    "unlabelled": ["a02_s01_e00_v01"],
    "validation": ["a05_s01_e00_v02", "a08_s01_e00_v02"],
    "test": [name for name in SEEDS if name.endswith("v03")],
}


def clips(**other_seeds: int) -> list[PreparedClip]:
    return [make_clip(name, seed) for name, seed in {**SEEDS, **other_seeds}.items()]


@dataclass(frozen=True)
class Trained:
    folder: Path
    data: Path
    split: Path
    config: RunConfig


@pytest.fixture
def run(tmp_path: Path) -> Trained:
    data, split, folder = tmp_path / "data" / "ucla.h5", tmp_path / "splits" / "s0.json", tmp_path / "run"
    data.parent.mkdir()
    manifest = write_ucla(data, clips())
    make_split(split, manifest, PARTS)
    return Trained(folder, data, split, make_run(folder, manifest, data, split))


def written(run: Trained) -> set[str]:
    return {path.name for path in run.folder.iterdir()} - {"config.json", "last.safetensors"}


def test_only_scores_predictions_and_confusion_matrix_are_written(run: Trained, pictures: None) -> None:
    scores = evaluate(run.folder)
    assert written(run) == {"scores.json", "predictions.csv", "confusion.png"}
    assert Scores.load(run.folder / "scores.json") == scores
    assert (run.folder / "confusion.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (scores.clips, scores.weights, scores.part, scores.seed) == (6, "last", "test", 7)
    assert (scores.split, scores.method, scores.preset) == ("s0.json", "psp", "fast")
    assert np.sum(scores.confusion) == 6
    assert scores.content_fingerprint == run.config.content_fingerprint


def test_predictions_contain_the_class_probabilities_of_each_test_clip(run: Trained) -> None:
    scores = evaluate(run.folder)
    lines = (run.folder / "predictions.csv").read_text(encoding="utf-8").splitlines()
    header, *rows = csv.reader(lines)
    assert header == ["clip", "true class", "predicted class", *UCLA.class_names]
    assert [row[0] for row in rows] == list(Split.load(run.split).test)
    probabilities = np.array([row[3:] for row in rows], float)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert [row[2] for row in rows] == [UCLA.class_names[label] for label in probabilities.argmax(axis=1)]
    assert sum(row[1] == row[2] for row in rows) == round(scores.top1 * 6)


def test_predictions_quote_names_with_commas_and_quotes() -> None:
    names = ("a,b", 'say "hi"')
    written = predictions_csv(
        ["x,1"], np.array([0]), StreamLogits({"joint": np.array([[0.0, np.log(3)]], np.float32)}), names
    )
    assert [*csv.reader(written.splitlines())] == [
        ["clip", "true class", "predicted class", *names],
        ["x,1", *names, "0.25", "0.75"],
    ]


def test_duplicates_of_test_clips_may_be_labelled_unlabelled_or_validation_clips(
    run: Trained,
) -> None:
    scores = evaluate(run.folder)
    assert scores.clips_unseen == 3
    assert scores.classes_unseen == ("stand up", "carry")
    assert set(scores.per_class) == {UCLA.class_names[label] for label in (0, 1, 4, 5, 9)}


def test_files_of_validation_scores_have_separate_names(run: Trained) -> None:
    evaluate(run.folder)
    before = (run.folder / "scores.json").read_bytes()
    scores = evaluate(run.folder, part="validation")
    assert written(run) == {
        *("scores.json", "predictions.csv", "confusion.png"),
        *("scores-validation.json", "predictions-validation.csv", "confusion-validation.png"),
    }
    assert (run.folder / "scores.json").read_bytes() == before
    # The training set is the labelled and unlabelled clips here: no validation clip is a duplicate of itself.
    assert (scores.clips, scores.clips_unseen, scores.classes_unseen) == (2, 1, ("sit down",))


def test_the_best_checkpoint_is_evaluated_on_request_with_separate_file_names(run: Trained) -> None:
    other = make_network(seed=99)
    other.classifier.weight.data.zero_()
    other.classifier.bias.data = torch.eye(10)[5]  # always predicts "stand up", correct for two of six clips
    save_file(other.state_dict(), run.folder / "best.safetensors")
    scores = evaluate(run.folder, weights="best")
    assert scores.weights == "best"
    assert scores.top1 == pytest.approx(2 / 6)
    assert [own.top1 for own in scores.streams.values()] == [scores.top1] * 2
    assert scores.top1_unseen == pytest.approx(2 / 3)
    assert scores.per_class["stand up"] == 1
    assert scores.per_class["carry"] == 0
    assert written(run) == {
        "best.safetensors",
        "scores-best.json",
        "predictions-best.csv",
        "confusion-best.png",
    }


def test_evaluating_again_writes_the_same_bytes(run: Trained) -> None:
    evaluate(run.folder)
    first = {name: (run.folder / name).read_bytes() for name in written(run)}
    evaluate(run.folder)
    assert {name: (run.folder / name).read_bytes() for name in written(run)} == first


def test_moved_files_are_found_by_the_paths_given(run: Trained, tmp_path: Path) -> None:
    data, split = tmp_path / "moved.h5", tmp_path / "elsewhere" / "s0.json"
    split.parent.mkdir()
    run.data.rename(data)
    run.split.rename(split)
    assert evaluate(run.folder, data=data, split=split).clips == 6
    with pytest.raises(PspError, match=r"s0\.json: .* was trained from this file, .* --split"):
        evaluate(run.folder)
    with pytest.raises(PspError, match=r"ucla\.h5: .* was trained from this file, .* --data"):
        evaluate(run.folder, split=split)


def test_a_dataset_whose_content_changed_is_refused(run: Trained) -> None:
    write_ucla(run.data, clips(a06_s01_e00_v03=44))
    with pytest.raises(PspError, match=r"ucla\.h5: its content differs from .*run was trained on.*--data"):
        evaluate(run.folder)
    assert not written(run)


def test_a_different_dataset_is_refused(run: Trained) -> None:
    run.config.model_copy(update={"description": NTU60.complete()}).save(run.folder / "config.json")
    with pytest.raises(PspError, match=r"not the dataset that .* found ucla, expected ntu60"):
        evaluate(run.folder)
    assert not written(run)


def test_a_split_of_other_clips_is_refused(run: Trained) -> None:
    other = Split.load(run.split).model_copy(update={"clips_fingerprint": "f" * 64})
    other.save(run.split)
    with pytest.raises(
        PspError, match=r"s0\.json: not a split of the clips .* found clips fingerprint ffff.*--split"
    ):
        evaluate(run.folder)
    assert not written(run)


def test_another_split_of_the_same_clips_is_refused(run: Trained) -> None:
    # Its test clips may be clips that the run was trained on, although the file has the name of the run's split.
    split = Split.load(run.split)
    swapped = split.model_copy(update={"labelled": split.unlabelled, "unlabelled": split.labelled})
    swapped.save(run.split)
    with pytest.raises(
        PspError,
        match=rf"s0\.json: not the split that .* found .*{swapped.digest[:12]}…, expected {split.digest[:12]}…",
    ):
        evaluate(run.folder)
    assert not written(run)


def test_the_same_split_under_another_name_is_accepted(run: Trained) -> None:
    renamed = run.split.with_name("renamed.json")
    run.split.rename(renamed)
    assert evaluate(run.folder, split=renamed).clips == 6


def test_an_empty_part_is_refused_with_a_suggestion(run: Trained) -> None:
    without = Split.load(run.split).model_copy(update={"validation": ()})
    without.save(run.split)
    run.config.model_copy(update={"split_digest": without.digest}).save(run.folder / "config.json")
    with pytest.raises(PspError, match=r"s0\.json: validation: found no clips.*psptool split --validation"):
        evaluate(run.folder, part="validation")


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PspError, match=r"not a run"):
        evaluate(tmp_path)


@pytest.mark.parametrize("taken", ["scores.json", "predictions.csv", "confusion.png"])
def test_an_output_that_cannot_be_written_is_an_error_and_leaves_no_partial_file(
    run: Trained, taken: str
) -> None:
    (run.folder / taken).mkdir()
    with pytest.raises(PspError, match=rf"{taken}: cannot be written"):
        evaluate(run.folder)
    assert not [name for name in written(run) if "partial" in name]


def test_measures_equal_values_computed_by_hand(run: Trained) -> None:
    labels = np.array([0, 0, 3, 5])
    predicted = {"joint": [0, 1, 1, 1], "motion": [1, 0, 3, 1]}
    # The more confident stream determines the sum.
    confidence = {"joint": [3, 1, 1, 1], "motion": [1, 3, 3, 1]}
    logits = {name: np.zeros((4, 10), np.float32) for name in predicted}
    for name, classes in predicted.items():
        logits[name][np.arange(4), classes] = confidence[name]
    without_duplicate = np.array([False, True, False, True])
    scores = measure(run.config, "s0.json", StreamLogits(logits), labels, without_duplicate, "last", "test")
    assert (scores.streams["joint"].top1, scores.streams["motion"].top1, scores.top1) == (0.25, 0.5, 0.75)
    # Class 5 ranks after class 1 and, because their logits are equal, after classes 0, 2, 3 and 4.
    assert scores.top5 == 0.75
    assert (scores.clips, scores.clips_unseen, scores.top1_unseen) == (4, 2, 0.5)
    assert scores.classes_unseen == (UCLA.class_names[0], UCLA.class_names[5])
    assert scores.per_class == {UCLA.class_names[0]: 1.0, UCLA.class_names[3]: 1.0, UCLA.class_names[5]: 0.0}
    assert scores.confusion[0][0] == 2
    assert scores.confusion[5][1] == 1


def test_accuracy_without_duplicates_is_null_if_every_clip_has_a_duplicate(run: Trained) -> None:
    logits = StreamLogits({"joint": np.zeros((1, 10), np.float32)})
    scores = measure(run.config, "s0.json", logits, np.array([0]), np.array([False]), "last", "test")
    assert scores.top1_unseen is None
    assert (scores.clips_unseen, scores.classes_unseen) == (0, ())


def test_the_best_checkpoint_has_the_validation_accuracy_that_training_reported(tmp_path: Path) -> None:
    data, split = tmp_path / "ucla.h5", tmp_path / "s0.json"
    # Two classes that differ in height and twelve validation clips, for an accuracy between 0 and 1.
    seeds = {f"a{a:02}_s{s:02}_e00_v02": 100 * a + s for a in (1, 2) for s in range(1, 7)}
    more = [make_clip(name, seed, lift=float(name[2]) / 4) for name, seed in seeds.items()]
    labelled, unlabelled = ("a01_s01_e00_v01", "a02_s01_e00_v01"), ("a05_s01_e00_v02", "a08_s01_e00_v02")
    parts = {"labelled": labelled, "unlabelled": unlabelled, "validation": seeds, "test": PARTS["test"]}
    make_split(split, write_ucla(data, clips() + more), parts)
    optim = OptimSettings(steps=8, labelled_batch=2, pool_batch=2, lr=0.02)
    training = TRAINING.model_copy(update={"optim": optim, "validate_every": 2})
    done = train(data, split, training, device=torch.device("cpu"), out=tmp_path / "run")
    scores = evaluate(done.folder, weights="best", part="validation")
    assert scores.top1 == pytest.approx(done.best)
    assert scores.clips == 12


def test_scores_record_split_device_and_settings_of_the_run(run: Trained) -> None:
    (run.folder / "log.jsonl").write_text('{"step": 1, "seconds": 1.5}\n{"step": 2, "seconds": 2.5}\n')
    scores, split = evaluate(run.folder), Split.load(run.split)
    assert (scores.protocol, scores.test_view, scores.count, scores.ratio) == ("xview", 3, 1, None)
    assert (scores.draw, scores.labelled, scores.split_digest) == (0, 1, split.digest)
    assert (scores.device, scores.precision, scores.seconds) == ("cpu", "float32", 2.5)
    assert scores.changes is not None
    assert "sampling.frames=4" in scores.changes
    assert "model.strides=[1, 2]" in scores.changes
    other = evaluate(run.folder, part="validation")
    assert other.scored_digest != scores.scored_digest
    assert other.recipe_digest == scores.recipe_digest


@pytest.mark.parametrize("difference", [0, 1])
def test_only_a_pool_batch_other_than_the_whole_pool_is_a_change(run: Trained, difference: int) -> None:
    pool = len(Split.load(run.split).pool(with_labelled=True))
    config = RunConfig.load(run.folder / "config.json")
    optim = config.training.optim.model_copy(update={"pool_batch": pool + difference})
    training = config.training.model_copy(update={"optim": optim})
    config.model_copy(update={"training": training}).save(run.folder / "config.json")
    changes = evaluate(run.folder).changes
    assert changes is not None
    assert [one for one in changes if "pool_batch" in one] == difference * [f"optim.pool_batch={pool + 1}"]


def test_training_time_is_null_without_a_log(run: Trained) -> None:
    assert evaluate(run.folder).seconds is None


TOP5, DUPLICATES = "top-5", "without a duplicate"


@pytest.mark.parametrize(
    ("classes", "unseen", "hidden"),
    [(5, 4, {TOP5}), (6, 10, {DUPLICATES}), (6, 4, set()), (5, 10, {TOP5, DUPLICATES})],
)
def test_uninformative_accuracies_are_not_shown(
    run: Trained, capsys: pytest.CaptureFixture[str], classes: int, unseen: int, hidden: set[str]
) -> None:
    scores = evaluate(run.folder).model_copy(
        update={
            "clips": 10,
            "clips_unseen": unseen,
            "top1_unseen": 0.5,
            "confusion": tuple((0,) * classes for _ in range(classes)),
        }
    )
    show(run.folder, scores)
    shown = capsys.readouterr().out.replace("Without duplicates", DUPLICATES)
    report = f"{_tiles(scores)} {_accuracy(scores)}"
    for text in (shown, report):
        assert {word for word in (TOP5, DUPLICATES) if word not in text} == hidden
