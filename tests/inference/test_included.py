"""The models that are part of the package."""

import os
from pathlib import Path

import numpy as np
import pytest

import psptool
from psptool.common.errors import PspError
from psptool.evaluation.models import INCLUDED, open_model
from psptool.evaluation.predicting import predict
from psptool.schemas.builtin import builtin_dataset


@pytest.mark.parametrize("name", sorted(INCLUDED))
def test_an_included_model_is_small_and_its_card_has_accuracy_and_training_command(name: str) -> None:
    assert INCLUDED[name].stat().st_size <= 3e6
    card = INCLUDED[name].with_suffix(".md").read_text(encoding="utf-8")
    assert "top-1" in card
    assert "psptool train --preset best" in card
    assert open_model(Path(name)).config.split_digest in card


@pytest.mark.parametrize("name", sorted(INCLUDED))
def test_an_included_model_has_no_absolute_paths(name: str) -> None:
    for record in open_model(Path(name)).config.provenance:
        assert not Path(record.data_path).is_absolute()
        assert not Path(record.split_path).is_absolute()


def test_ucla_predicts_the_classes_of_nw_ucla_from_positions() -> None:
    model = psptool.load("ucla", device="cpu")
    found = model.predict(joints=np.random.default_rng(0).normal(size=(40, 20, 3)), frame_rate=30)
    assert sorted(found) == sorted(builtin_dataset("ucla").class_names)
    assert sum(found.values()) == pytest.approx(1)


def test_a_run_folder_takes_precedence_over_the_included_model_of_its_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ucla/export").mkdir(parents=True)
    psptool.load("ucla")
    Path("ucla/config.json").write_text("{}")
    with pytest.raises(PspError, match=r"config\.json"):
        psptool.load("ucla")


@pytest.mark.parametrize("name", ["ulca", "UCLA"])
def test_a_similar_name_is_suggested(name: str) -> None:
    with pytest.raises(PspError, match="Did you mean ucla"):
        psptool.load(name)


def test_an_unknown_name_is_an_error_that_lists_the_included_models() -> None:
    with pytest.raises(PspError, match=r"an included model \(ucla\)"):
        psptool.load("ntu")


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif("PSPTOOL_UCLA_RAW" not in os.environ, reason="PSPTOOL_UCLA_RAW names no folder")
def test_ucla_reaches_the_accuracy_on_its_card_with_the_recordings_of_camera_3() -> None:
    files = sorted(Path(os.environ["PSPTOOL_UCLA_RAW"]).rglob("*_v03.json"))
    clips = predict(open_model(Path("ucla")), files, top=1).clips
    actions = sorted({clip.name[:3] for clip in clips})  # a05_s01_e00_v03: action 5; 7 and 10 do not exist
    correct = sum(actions[clip.top[0].label] == clip.name[:3] for clip in clips)
    assert len(clips) == 464
    assert 100 * correct / len(clips) == pytest.approx(89.7, abs=0.5)
