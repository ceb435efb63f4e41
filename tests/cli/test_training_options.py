"""Options of ``train`` that set the configuration, and the commands ``config`` and ``runs``."""

import json
from pathlib import Path
from typing import get_args

import pytest
import yaml

from psptool.cli.config import as_yaml, type_of
from psptool.cli.overrides import Shorthands
from psptool.common.errors import PspError
from psptool.schemas import recipes
from psptool.schemas.recipes import PRESETS, SYNONYMS, all_fields, all_keys, resolve
from psptool.schemas.split import Split
from psptool.schemas.training import Precision, TrainingConfig
from psptool.training import loop
from psptool.training.runs.folder import RunFolder
from tests.cli.conftest import files

RUN = Path("runs/ucla-xview-0.05-s0-psp-fast")
SPLIT = "splits/ucla-xview-0.05-s0.json"


def training(folder: str | Path) -> dict:
    return json.loads(Path(folder, "config.json").read_text())["training"]


def test_the_configuration_of_a_run_reproduces_the_run(here):
    first = json.loads(here("train", "--split", SPLIT, "--set", "optim.lr=0.03", "--json").out)["run"]
    for option in (("--config", f"{first}/config.json"), ("--config", first), ("--like", first)):
        again = json.loads(here("train", *option, "--split", SPLIT, "--json").out)["run"]
        assert again != first
        assert training(again) == training(first)
        assert Path(again, "last.safetensors").read_bytes() == Path(first, "last.safetensors").read_bytes()


def test_like_uses_the_split_and_dataset_of_the_run_and_settings_can_be_changed(here):
    newest = here("train", "--like", RUN, "--lr", "0.02", "--seed", "5", "--json").out
    config = json.loads(Path(json.loads(newest)["run"], "config.json").read_text())
    assert (config["split_name"], config["seed"]) == ("ucla-xview-0.05-s0", 5)
    assert config["training"]["optim"]["lr"] == 0.02


def test_options_that_cannot_be_combined_with_the_configuration_of_a_run_are_refused(here):
    assert "has no effect" in here("train", "--like", RUN, "--preset", "best", code=2).err
    assert "there is no such run" in here("train", "--like", "runs/absent", code=2).err


def test_shorthands_set_their_keys_and_only_changes_of_the_preset_are_printed(here):
    ran = here("train", "--split", SPLIT, "--lr", "0.07", "--steps", "1", "--batch-size", "3", "--json")
    optim = training(json.loads(ran.out)["run"])["optim"]
    assert (optim["lr"], optim["steps"], optim["labelled_batch"]) == (0.07, 1, 3)
    assert "preset fast with optim.steps=1 optim.labelled_batch=3 optim.lr=0.07" in ran.err
    assert "momentum" not in ran.err


@pytest.mark.parametrize(
    ("method", "epochs", "steps", "expected"),
    [
        ("psp", 2, 12, "2 passes over 24 pool clips, 4 per step = 12 steps"),
        ("supervised", 1.5, 2, "1.5 passes over 2 labelled clips, 2 per step = 2 steps"),
    ],
)
def test_epochs_are_converted_to_steps(here, method, epochs, steps, expected):
    ran = here("train", "--split", SPLIT, "--method", method, "--epochs", epochs, "--dry-run", "--json")
    assert json.loads(ran.out)["training"]["optim"]["steps"] == steps
    assert expected in ran.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--lr", "1", "--set", "optim.lr=2"), "--lr and --set optim.lr"),
        (("--epochs", "1", "--steps", "2"), "--epochs and --steps"),
        (("--epochs", "0"), "--epochs: found 0.0, expected a number over 0"),
        (("--steps", "0"), "optim.steps"),
        (("--profile", "0"), "--profile: found 0, expected at least 1 step"),
        (("--profile", "-3"), "--profile: found -3"),
        (("--graphs", "on"), "--graphs: found 'on', expected one of auto, off"),
        (("--device", "gpu"), "Did you mean cuda?"),
        (("--device", "gpu:0"), "Did you mean cuda?"),
        (("--set", "lr=0.1"), "Did you mean optim.lr?"),
        (("--set", "model.width=3"), "Did you mean model.channels?"),
        (("--set", "temperature=3"), "Did you mean loss.temperature or teacher.temperature?"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(here, arguments, expected):
    before = files()
    assert expected in here("train", "--split", SPLIT, *arguments, code=2).err
    assert files() == before


def test_synonyms_name_keys_that_exist_and_are_not_keys_themselves():
    keys = set(all_keys(TrainingConfig))
    assert set(SYNONYMS.values()) <= keys
    assert not set(SYNONYMS) & {key.rpartition(".")[2] for key in keys}


def test_dry_run_shows_settings_sizes_and_warnings_and_writes_nothing(here):
    before = files()
    ran = here("train", "--split", SPLIT, "--dry-run", "--batch-size", "5")
    assert files() == before
    assert "5 labelled clips" in ran.err  # the split has fewer
    assert "parameters" in ran.out
    shown = yaml.safe_load(ran.out[ran.out.index("method: ") :])
    assert shown["optim"]["labelled_batch"] == 5
    printed = json.loads(here("train", "--split", SPLIT, "--dry-run", "--json").out)
    split = Split.load(Path(SPLIT))
    assert (printed["labelled_clips"], printed["test_clips"]) == (len(split.labelled), len(split.test))
    assert printed["parameters"] > 100
    assert "no unlabelled" not in ran.err


def test_dry_run_refuses_what_training_refuses(here):
    assert (
        "optim.pool_batch"
        in here("train", "--split", SPLIT, "--dry-run", "--set", "optim.pool_batch=1", code=2).err
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_config_prints_yaml_that_equals_the_preset(psptool, preset):
    Path("training.yaml").write_text(psptool("config", "--preset", preset).out)
    assert resolve(file=Path("training.yaml")) == resolve(preset=preset)
    # Other YAML parsers read the same values: `off` is quoted.
    assert yaml.safe_load(as_yaml(resolve(preset=preset)))["preset"] == preset


def test_config_comments_state_meaning_type_and_choices(psptool):
    out = psptool("config", "--preset", "fast").out
    assert "one of sgd, adamw" in out
    assert "degrees" in out
    assert all(line.lstrip().startswith("#") or ":" in line or not line for line in out.splitlines())
    assert "Did you mean fast?" in psptool("config", "--preset", "fastt", code=2).err


def test_config_table_has_every_key_with_its_value_in_each_preset(psptool):
    printed = json.loads(psptool("config", "--table", "--json").out)
    assert set(printed) == set(all_keys(TrainingConfig)) - {"preset"}
    assert set(printed["optim.lr"]["presets"]) == set(PRESETS)
    out = psptool("config", "--table").out
    assert all(key in out for key in printed)
    assert psptool("config", "--all").out == out


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("optim.steps", "integer, at least 1"),
        ("optim.lr", "number, over 0"),
        ("optim.kind", "one of sgd, adamw"),
        ("sampling.crop", "number, at least 0, at most 1"),
        ("model.levels", "list of body, part, joint"),
        ("model.channels", "list of integers"),
        ("loss.contrast_levels", "list of body, part, joint or null"),
        ("seed", "integer or null, at least 0"),
    ],
)
def test_types_of_values(key, expected):
    assert type_of(dict(all_fields(TrainingConfig))[key]) == expected


def test_schemas_show_the_values_that_train_uses_by_default(psptool):
    out = psptool("schemas", "--show", "training").out
    (line,) = (line for line in out.splitlines() if line.startswith("optim.lr "))
    assert line.split()[1] == str(resolve().optim.lr)
    assert "fast" in out.splitlines()[0]


def test_runs_lists_state_step_and_score(here):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_should_stop", lambda *_: True)
        here("train", "--split", SPLIT, code=130)
    here("evaluate", RUN)
    Path("runs/broken").mkdir()
    Path("runs/broken/config.json").write_text("{")
    printed = {row["run"]: row for row in json.loads(here("runs", "--json").out)["runs"]}
    assert printed[str(RUN)]["state"] == "finished"
    assert printed[str(RUN)]["top1"] == json.loads((RUN / "scores.json").read_text())["top1"]
    assert (printed[f"{RUN}-2"]["state"], printed[f"{RUN}-2"]["step"]) == ("interrupted", 1)
    assert printed["runs/broken"]["state"] == "damaged"
    with RunFolder(Path(f"{RUN}-2")).acquire_lock():
        states = [row["state"] for row in json.loads(here("runs", "--json").out)["runs"]]
    assert "training" in states
    out = here("runs").out
    assert "1/2" in out
    assert f"Next: psptool train --resume required --out {RUN}-2" in out


def test_runs_names_changed_settings_as_table_does(here):
    here("train", "--split", SPLIT, "--set", "optim.steps=1", "--out", "runs/short")
    here("evaluate", "runs/short")
    (name,) = (group["name"] for group in json.loads(here("table", "runs/short", "--json").out)["groups"])
    assert "psp/fast optim.steps=1" in name
    printed = {row["run"]: row for row in json.loads(here("runs", "--json").out)["runs"]}
    assert printed["runs/short"]["name"] == name
    assert name in here("runs").out


def test_runs_of_a_folder_that_is_absent_is_an_error(psptool):
    assert "psptool train" in psptool("runs", code=2).err


def test_runs_are_found_from_the_parent_folder(here):
    assert here("runs", ".", "--json").out == here("runs", "--json").out


def test_runs_of_a_run_folder_lists_this_run(here):
    (row,) = json.loads(here("runs", RUN, "--json").out)["runs"]
    assert row in json.loads(here("runs", "--json").out)["runs"]
    assert row["run"] == str(RUN)


def test_runs_are_found_beside_a_config_of_another_program(here):
    Path("config.json").write_text("{}")
    assert here("runs", ".", "--json").out == here("runs", "--json").out


def test_omitted_shorthands_change_nothing():
    assert Shorthands().changes(["optim.lr=1"]) == ["optim.lr=1"]
    assert recipes.DEFAULT_PRESET == "fast"


def test_precisions_are_those_of_the_configuration():
    for precision in get_args(Precision):
        assert resolve(changes=Shorthands(precision=precision).changes([])).precision == precision
    with pytest.raises(PspError, match=r"--precision: found 'float16', expected.*auto, float32"):
        Shorthands(precision="float16").changes([])
