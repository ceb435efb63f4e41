"""Training configurations composed of a preset, a file and changes, and the values of the original configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from psptool.common.errors import PspError
from psptool.schemas.recipes import DEFAULT_PRESET, PRESETS, all_keys, resolve
from psptool.schemas.training import LossSettings, ModelSettings, OldPreset, TrainingConfig


@pytest.fixture
def config_file(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_preset_paper_has_the_values_of_the_original_implementation() -> None:
    paper = resolve(preset="paper")
    assert paper.method == "psp"
    assert paper.precision == "float32"
    model, sampling, loss, optim = paper.model, paper.sampling, paper.loss, paper.optim
    assert model.channels == (64, 64, 128, 128, 256, 256, 256, 256)
    assert model.qk_channels == (16, 16, 32, 32, 64, 64, 64, 64)
    assert model.strides == (1, 1, 2, 1, 2, 1, 1, 1)
    assert (model.heads, model.temporal_kernel, model.dropout) == (4, 7, 0)
    assert model.share_encoder
    assert not model.separate_input_projection
    assert model.levels == ("body", "part", "joint")
    assert model.polymerize == "raw"
    assert (sampling.frames, sampling.draw, sampling.shared) == (50, "released", False)
    changes = paper.augment.model_dump(exclude={"shared"})
    assert changes == dict.fromkeys(
        ("yaw", "pitch_roll", "shear", "scale", "jitter", "mask_joints", "mirror"), 0
    )
    assert (loss.contrast_weight, loss.temperature, loss.label_smoothing) == (0.2, 0.07, 0)
    assert paper.contrast_levels == ("body", "part", "joint")
    assert loss.contrast_labelled
    assert (optim.labelled_batch, optim.pool_batch) == (9, 90)
    assert optim.steps == 500 * 120
    assert (optim.schedule, optim.lr) == ("released", 0.01)
    assert (optim.momentum, optim.nesterov, optim.weight_decay) == (0.9, True, 4e-4)
    assert optim.clip_norm == 0


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_configuration_with_its_name(name: str) -> None:
    assert resolve(preset=name).preset == name


def test_fast_is_best_with_fewer_steps_and_the_same_product_of_steps_and_learning_rate() -> None:
    fast, best = resolve(preset="fast"), resolve(preset="best")
    assert fast.model_copy(update={"optim": best.optim, "preset": "best"}) == best
    assert fast.optim.lr * fast.optim.steps == best.optim.lr * best.optim.steps


@pytest.mark.parametrize("name", get_args(OldPreset))
def test_a_preset_of_an_earlier_version_is_read_from_a_complete_file_only(name: str, config_file) -> None:
    run = {**resolve().model_dump(mode="json"), "preset": name}
    assert resolve(file=config_file(json.dumps(run))).model_dump(mode="json") == run
    for arguments in ({"preset": name}, {"file": config_file(f"preset: {name}\n")}):
        with pytest.raises(PspError, match="does not exist") as caught:
            resolve(**arguments)
        assert "Use " in str(caught.value)


def test_changes_override_the_file_and_the_file_overrides_the_preset(config_file) -> None:
    file = config_file("model:\n  polymerize: off\noptim:\n  lr: 0.3\n  momentum: 0.5\nseed: 4\n")
    found = resolve(preset="paper", file=file, changes=["optim.lr=0.7", "optim.lr=0.8"])
    assert found.optim.lr == 0.8
    assert found.optim.momentum == 0.5
    assert found.optim.weight_decay == 4e-4
    assert found.model.polymerize == "off"
    assert found.seed == 4
    assert resolve(preset="paper").model.polymerize == "raw"  # resolving does not modify the preset


def test_the_preset_is_the_argument_then_that_of_the_file_then_the_default(config_file) -> None:
    file = config_file("preset: paper\n")
    assert resolve(file=file).preset == "paper"
    assert resolve(file=file, preset="fast").preset == "fast"
    assert resolve() == resolve(preset=DEFAULT_PRESET)


def test_method_and_seed_arguments_override_everything_else(config_file) -> None:
    found = resolve(
        method="supervised", seed=9, file=config_file("method: psp\nseed: 1\n"), changes=["seed=2"]
    )
    assert (found.method, found.seed) == ("supervised", 9)


def test_an_empty_file_changes_nothing(config_file) -> None:
    assert resolve(preset="paper", file=config_file("# nothing\n")) == resolve(preset="paper")


@pytest.mark.parametrize(
    ("text", "expected"), [("1e-3", 0.001), ("5E2", 500.0), ("0.25", 0.25), ("1", 1.0), ("1.5e-2", 0.015)]
)
def test_numbers_are_read_in_every_notation(text: str, expected: float) -> None:
    assert resolve(changes=[f"optim.lr={text}"]).optim.lr == expected


def test_numbers_with_an_exponent_are_read_as_numbers_from_a_file(config_file) -> None:
    assert resolve(file=config_file("optim:\n  lr: 1e-3\n")).optim.lr == 0.001


@pytest.mark.parametrize("word", ["off", "raw"])
def test_off_and_raw_are_read_as_strings(word: str) -> None:
    assert resolve(changes=[f"model.polymerize={word}"]).model.polymerize == word


def test_lists_nulls_and_booleans_are_read_as_yaml() -> None:
    changes = [
        "model.channels=[8, 8]",
        "model.qk_channels=[2, 2]",
        "model.strides=[1, 2]",
        "sampling.shared=true",
    ]
    found = resolve(changes=[*changes, "loss.contrast_levels=[joint]", "seed=null"])
    assert found.model.channels == (8, 8)
    assert found.sampling.shared is True
    assert found.contrast_levels == ("joint",)
    assert found.seed is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("optim.learning_rte=1", r"no key optim\.learning_rte"),
        ("optim.warmpu=1", r"no key optim\.warmpu \(Did you mean optim\.warmup\?\)"),
        ("optm.lr=1", r"no key optm \(Did you mean"),
        ("lr=1", r"no key lr"),
        ("optim=1", r"optim is a group of keys, not a value"),
        ("optim.lr.x=1", r"optim\.lr"),
        ("optim.lr", r"--set: not a key=value: found 'optim\.lr'"),
        ("optim.lr=[", r"--set optim\.lr: not a YAML value: found '\['"),
        ("optim.lr=0.5x", r"optim\.lr: .*number.*found '0\.5x'"),
        ("sampling.shared=true story", r"sampling\.shared: .*boolean.*found 'true story'"),
        ("optim.lr=fast", r"optim\.lr: .*number.*found 'fast'"),
        ("optim.lr=0", r"optim\.lr: .*greater than 0.*found 0"),
        ("optim.steps=1.5", r"optim\.steps: .*integer"),
        ("preset=paper", r"preset"),
        ("loss.contrast_levels=[joint, joint]", r"loss: contrast_levels must not contain a level twice"),
        (
            "loss.contrast_pairs=[[joint, motion], [motion, joint]]",
            r"loss: contrast_pairs must not contain a pair twice, in either order",
        ),
    ],
)
def test_an_invalid_change_is_refused_with_its_key(change: str, expected: str) -> None:
    with pytest.raises(PspError, match=expected):
        resolve(changes=[change])


def test_all_unknown_keys_are_reported_at_once_with_their_source(config_file) -> None:
    file = config_file("optim:\n  lrr: 1\nsampling: 3\ncolour: red\n")
    with pytest.raises(PspError) as caught:
        resolve(file=file, changes=["augment.yew=1"])
    of_file, of_changes = str(caught.value).split("--set: ")
    assert of_file.startswith(f"{file}: ")
    assert all(expected in of_file for expected in ("optim.lrr", "sampling is a group", "colour"))
    assert "augment.yew (Did you mean augment.yaw?)" in of_changes


def test_an_unknown_key_of_a_change_is_not_reported_as_part_of_the_file(config_file) -> None:
    with pytest.raises(PspError, match=r"^--set: no key augment\.yew"):
        resolve(file=config_file("optim: {lr: 0.1}\n"), changes=["augment.yew=1"])


def test_all_invalid_values_are_reported_at_once() -> None:
    with pytest.raises(PspError) as caught:
        resolve(changes=["optim.lr=-1", "sampling.frames=0", "method=magic"])
    for key in ("optim.lr", "sampling.frames", "method"):
        assert f"{key}:" in str(caught.value)


def test_an_unknown_preset_is_refused_with_a_suggestion() -> None:
    with pytest.raises(PspError, match=r"preset 'papper' does not exist.*Did you mean paper\?"):
        resolve(preset="papper")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!!python/object/apply:os.system ['touch hacked']", r"config\.yaml: not plain YAML"),
        ("optim: !!python/name:os.system", r"not plain YAML"),
        ("optim: [", r"not plain YAML"),
        ("- optim", r"not a mapping: found list"),
        ("just words", r"not a mapping: found str"),
    ],
)
def test_a_file_that_is_not_a_plain_mapping_is_refused_and_runs_no_code(
    config_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PspError, match=expected):
        resolve(file=config_file(text))
    assert not (tmp_path / "hacked").exists()


def test_a_tag_in_a_change_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PspError, match="not a YAML value"):
        resolve(changes=["optim.lr=!!python/object/apply:os.system ['touch hacked']"])
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"], ids=["missing", "not text"])
def test_the_error_names_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PspError, match=r"config\.yaml: cannot be read .*--config"):
        resolve(file=path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"channels": (8, 8)}, "one per block"),
        ({"channels": (8,), "qk_channels": (0,), "strides": (1,)}, "greater than or equal to 1"),
        ({"channels": (6,), "qk_channels": (2,), "strides": (1,)}, "multiple of heads"),
        ({"temporal_kernel": 4}, "odd"),
        ({"levels": ("joint", "joint")}, "twice"),
        ({"levels": ("toe",)}, "toe"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        ModelSettings(**settings)  # type: ignore[arg-type]


def test_contrast_levels_must_be_levels_of_the_model() -> None:
    with pytest.raises(PspError, match=r"contrast_levels contains body, but model\.levels does not"):
        resolve(changes=["model.levels=[joint]", "loss.contrast_levels=[body, joint]"])
    assert resolve(changes=["model.levels=[joint]"]).contrast_levels == ("joint",)


def test_there_are_no_contrast_levels_in_supervised_training_or_with_weight_0() -> None:
    assert TrainingConfig(method="supervised").contrast_levels == ()
    assert TrainingConfig(loss=LossSettings(contrast_weight=0)).contrast_levels == ()


def test_every_key_can_be_set_by_its_dotted_name(tmp_path: Path) -> None:
    found = TrainingConfig()
    for key in all_keys(TrainingConfig):
        if key == "format_version" or key == "preset":
            continue
        value: object = found
        for part in key.split("."):
            value = getattr(value, part)
        text = json.dumps(value)
        resolve(preset="paper", changes=[f"{key}={text}"])
