"""Training from files to a run folder: what its weights depend on, what it writes, and which errors stop it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from psptool.common.errors import PspError
from psptool.data.batches.ragged import Batcher
from psptool.data.batches.streams import Batch
from psptool.schemas.run import RunConfig
from psptool.schemas.split import Split
from psptool.schemas.training import TeacherSettings, TrainingConfig
from psptool.skeletons.keys import NO_LABEL
from psptool.training import api, step
from psptool.training.checkpoint import checkpoint_bytes
from psptool.training.loop import Loop, Pools, Progress
from psptool.training.runs.folder import RunFolder

from ..stores import make_clip, write_ucla
from ..trained import make_split
from .tiny import NAMES, PARTS, RECIPE, Files, change, equal, make_files, weights


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path)


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[Loop]:
    """The training loops that were started; each returns before its first step."""
    seen: list[Loop] = []

    def run(self: Loop, on_progress: Callable[[Progress], None], **_: object) -> int:
        seen.append(self)
        on_progress(Progress(self.config.optim.steps, self.config.optim.steps, {}, 0.0, 0.0))
        return self.config.optim.steps

    monkeypatch.setattr(Loop, "run", run)
    return seen


def test_the_same_seed_is_bit_identical_and_another_seed_is_not(files: Files) -> None:
    recipe = change(precision="float32", augment=RECIPE.augment.model_copy(update={"yaw": 30, "jitter": 0.1}))
    first, again = files.train(recipe, "first"), files.train(recipe, "again")
    other = files.train(change(recipe, seed=1), "other")
    assert (first.config.seed, other.config.seed) == (0, 1)
    for which in ("last", "best"):
        assert equal(weights(first, which), weights(again, which))
    assert not equal(weights(first), weights(other))


def test_too_little_disk_space_for_the_checkpoints_is_an_error_before_the_first_step(
    files: Files, loops: list[Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 100_000, 100_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(
        PspError, match=r"last.safetensors: not enough free disk space: found 0.1 MB free, expected"
    ):
        files.train(out="new/run")
    assert loops == []
    assert not (files.data.parent / "new").exists()


@pytest.mark.parametrize("out", ["new/run", "empty"])
def test_an_error_in_the_first_step_leaves_no_new_file_or_folder(
    files: Files, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    def step_out_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Loop, "_step", step_out_of_memory)
    (files.data.parent / "empty").mkdir()
    before = sorted(files.data.parent.rglob("*"))
    with pytest.raises(PspError, match="out of memory"):
        files.train(out=out)
    assert sorted(files.data.parent.rglob("*")) == before


@pytest.mark.parametrize(("kind", "teacher"), [("sgd", False), ("adamw", True)])
def test_the_estimated_size_of_a_checkpoint_is_that_of_the_file_without_tensor_names(
    files: Files, monkeypatch: pytest.MonkeyPatch, kind: str, teacher: bool
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(RunFolder, "save_resume", lambda self, state: sizes.append(len(state)))
    recipe = change(optim={"kind": kind}, checkpoint_every=2)
    if teacher:
        recipe = recipe.model_copy(update={"teacher": TeacherSettings(weight=1)})
    estimated: list[tuple[int, int]] = []

    def record(*arguments: object) -> tuple[int, int]:
        estimated.append(checkpoint_bytes(*arguments))
        return estimated[-1]

    monkeypatch.setattr(api, "checkpoint_bytes", record)
    trained = files.train(recipe)
    ((weight_bytes, checkpoint),) = estimated
    assert 0 < (trained.folder / "last.safetensors").stat().st_size - weight_bytes < 20_000
    assert 0 < sizes[-1] - checkpoint < 200_000


def test_without_a_seed_that_of_the_split_is_used(files: Files, loops: list[Loop]) -> None:
    Split.load(files.split).model_copy(update={"seed": 3}).save(files.split)
    assert files.train().config.seed == 3
    assert files.train(change(seed=8), "other").config.seed == 8


def test_a_training_does_not_depend_on_the_order_of_names_in_the_split(files: Files) -> None:
    first = files.train(out="first")
    split = Split.load(files.split)
    parts = ("labelled", "unlabelled", "validation", "test")
    backwards = split.model_copy(update={part: getattr(split, part)[::-1] for part in parts})
    backwards.save(files.split)
    second = files.train(out="second")
    assert equal(weights(first), weights(second))
    assert first.config.split_digest == second.config.split_digest


def test_psp_and_supervised_start_from_the_same_encoder_and_classifier(
    files: Files, loops: list[Loop]
) -> None:
    files.train(out="psp")
    files.train(change(method="supervised"), "supervised")
    files.train(change(seed=1), "other")
    psp, supervised, other = (loop.model.state_dict() for loop in loops)
    assert supervised.keys() < psp.keys()
    assert {name.split(".")[0] for name in psp.keys() - supervised.keys()} == {"pyramid", "projection"}
    assert equal(supervised, {name: psp[name] for name in supervised})
    assert not equal(psp, other)


def test_psp_and_supervised_use_the_same_labelled_clips_in_each_step(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[list[int]] = []
    original = step.total_loss

    def record_labels(*arguments: object) -> dict[str, Tensor]:
        labels.append(arguments[2].tolist())  # type: ignore[attr-defined]
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "total_loss", record_labels)
    files.train(out="psp")
    files.train(change(method="supervised"), "supervised")
    assert labels[:6] == labels[6:]


def test_labelled_clips_follow_from_the_seed_and_the_pool_from_the_next_seed() -> None:
    labelled, pool = torch.arange(10, 16), torch.arange(20, 28)
    pools = Pools(labelled, pool, labelled[:0])
    loop = Loop(None, None, pools, RECIPE, 7, torch.float32)  # type: ignore[arg-type]
    batches = [torch.cat([next(stream) for _ in range(2)]) for stream in loop._clip_batches(0)]
    orders = [
        torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for n, seed in ((6, 7), (8, 8))
    ]
    assert [found.tolist() for found in batches] == [labelled[orders[0]].tolist(), pool[orders[1]].tolist()]
    second = [next(stream) for stream in loop._clip_batches(1)]
    assert [found.tolist() for found in second] == [batches[0][3:].tolist(), batches[1][4:].tolist()]


def test_frames_and_augmentation_follow_from_the_seed(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    original = Batcher.train

    def record_seed(self: Batcher, chosen: Tensor, generator: torch.Generator) -> Batch:
        seeds.append(generator.initial_seed())
        return original(self, chosen, generator)

    monkeypatch.setattr(Batcher, "train", record_seed)
    files.train(change(seed=7, optim={"steps": 1}))
    assert seeds == [7]


def test_clips_of_the_training_are_the_parts_of_the_split_without_the_test_clips(
    files: Files, loops: list[Loop]
) -> None:
    files.train(out="all")
    files.train(change(loss={"contrast_labelled": False}), "unlabelled")
    files.train(change(method="supervised"), "supervised")
    files.train(change(loss={"contrast_weight": 0.0}), "no-contrast")
    ordered = sorted(NAMES)

    def names(numbers: Tensor) -> list[str]:
        return sorted(ordered[number] for number in numbers.tolist())

    for loop in loops:
        assert names(loop.pools.labelled) == sorted(PARTS["labelled"])
        assert names(loop.pools.validation) == sorted(PARTS["validation"])
    contrasts = [names(loop.pools.pool) for loop in loops]
    assert contrasts == [sorted(PARTS["labelled"] + PARTS["unlabelled"]), sorted(PARTS["unlabelled"]), [], []]


def test_the_teacher_gets_the_class_frequencies_of_the_labelled_clips(
    tmp_path: Path, loops: list[Loop]
) -> None:
    files = make_files(tmp_path, {**PARTS, "labelled": PARTS["labelled"][:-1]})
    files.train(change(teacher=TeacherSettings(weight=1, balance="labelled")))
    teacher = loops[0]._build_teacher()
    assert teacher is not None
    # Actions 1, 2 and 5 with 2, 2 and 1 labelled clips.
    expected = [0.4, 0.4, 0, 0, 0.2, 0, 0, 0, 0, 0]
    assert teacher.frequencies.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("value", [math.nan, 1e30])
def test_test_clips_do_not_affect_the_training(files: Files, tmp_path: Path, value: float) -> None:
    poisoned = make_files(tmp_path / "poisoned", poison=dict.fromkeys(PARTS["test"], value))
    first, second = files.train(), poisoned.train()
    assert first.config.content_fingerprint != second.config.content_fingerprint
    for which in ("last", "best"):
        assert equal(weights(first, which), weights(second, which))
    assert first.best == second.best


@pytest.mark.parametrize("part", ["labelled", "unlabelled"])
def test_other_training_clips_lead_to_other_weights(files: Files, tmp_path: Path, part: str) -> None:
    # Counterpart of the test above: changed coordinates do have an effect if they are used.
    other = make_files(tmp_path / "other", poison=dict.fromkeys(PARTS[part], 0.5))
    assert not equal(weights(files.train()), weights(other.train()))


def test_validation_clips_are_scored_and_do_not_affect_the_weights(files: Files, tmp_path: Path) -> None:
    # NaN coordinates give NaN logits, so class 0 is predicted for all: correct for a third of the clips.
    other = make_files(tmp_path / "other", poison=dict.fromkeys(PARTS["validation"], math.nan))
    first, second = files.train(), other.train()
    assert equal(weights(first), weights(second))
    assert second.best == pytest.approx(1 / 3)


def test_supervised_does_not_use_unlabelled_clips(files: Files, tmp_path: Path) -> None:
    poisoned = make_files(tmp_path / "poisoned", poison=dict.fromkeys(PARTS["unlabelled"], math.nan))
    supervised = change(method="supervised")
    assert equal(weights(files.train(supervised)), weights(poisoned.train(supervised)))


def test_best_weights_are_those_of_the_first_best_validation(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([0.2, 0.6, 0.6, 0.4])
    validated: list[dict[str, Tensor]] = []

    def validate(self: Loop) -> float:
        validated.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return next(accuracies)

    monkeypatch.setattr(Loop, "_validate", validate)
    done = files.train(change(optim={"steps": 7}))  # validates after steps 2, 4, 6 and 7
    assert done.best == 0.6
    assert equal(weights(done, "best"), validated[1])
    assert equal(weights(done, "last"), validated[3])
    assert not equal(validated[1], validated[2])


def test_without_validation_clips_there_are_no_best_weights(tmp_path: Path) -> None:
    done = make_files(tmp_path, {**PARTS, "validation": []}).train()
    assert done.best is None
    written = {path.name for path in done.folder.iterdir() if "tfevents" not in path.name}
    assert written == {".lock", "config.json", "log.jsonl", "curves.png", "last.safetensors"}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(41, [*range(3, 41, 3), 41]), (600, [*range(30, 601, 30)]), (7, [*range(1, 8)])],
)
def test_by_default_there_are_about_20_validations(
    files: Files, loops: list[Loop], steps: int, expected: list[int]
) -> None:
    files.train(change(validate_every=0, optim={"steps": steps}))
    assert [step for step in range(1, steps + 1) if loops[0]._should_validate(step)] == expected


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_line_of_the_log_is_a_json_object_with_step_terms_rate_and_time(files: Files) -> None:
    done = files.train(change(optim={"steps": 13, "lr": 0.02, "warmup": 0.0}, validate_every=4))
    entries = log(done.folder)
    assert [entry["step"] for entry in entries] == [4, 8, 10, 12, 13]
    for entry in entries:
        assert entry.keys() - {"validation"} == {
            "step",
            "loss",
            "ce",
            "body",
            "part",
            "joint",
            "lr",
            "seconds",
        }
        assert ("validation" in entry) == (entry["step"] != 10)
        contrast = entry["body"] + entry["part"] + entry["joint"]
        assert entry["loss"] == pytest.approx(entry["ce"] + 0.2 * contrast, rel=1e-4)
        # Learning rate of the last step; its 0-based index is one less.
        assert entry["lr"] == pytest.approx(0.01 * (1 + math.cos(math.pi * (entry["step"] - 1) / 13)))
    assert [entry["seconds"] for entry in entries] == sorted(entry["seconds"] for entry in entries)
    assert done.final.step == done.final.steps == 13


def test_the_saved_configuration_has_the_settings_the_dataset_and_the_split(files: Files) -> None:
    started: list[tuple[Path, RunConfig, bool]] = []
    done = api.train(
        files.data, files.split, RECIPE, device=torch.device("cpu"), out=files.data.parent / "run",
        on_start=lambda folder, config: started.append((folder, config, (folder / "log.jsonl").exists())),
    )  # fmt: skip
    config = RunConfig.load(done.folder / "config.json")
    assert started == [(done.folder, config, False)]
    assert config.training == RECIPE
    assert (config.split_name, config.latest.split_path, config.latest.data_path) == (
        "s0",
        str(files.split),
        str(files.data),
    )
    assert config.split_digest == Split.load(files.split).digest


@pytest.mark.parametrize("method", ["psp", "supervised"])
def test_a_tiny_training_learns(files: Files, method: str) -> None:
    settings = {"steps": 30, "lr": 0.1, "labelled_batch": 6}
    done = files.train(change(method=method, optim=settings, validate_every=30))
    first, last = log(done.folder)[0], log(done.folder)[-1]
    assert last["ce"] < 0.3 < 0.6 < first["ce"]  # 1.1 at chance level with three classes
    assert done.best is not None
    assert done.best > 0.6


def replace_term(monkeypatch: pytest.MonkeyPatch, at: int, term: str, value: float) -> None:
    """Replace a loss term of one step by ``value``."""
    original, steps = step.total_loss, iter(range(1, 1000))

    def with_replaced_term(*arguments: object) -> dict[str, Tensor]:
        terms = original(*arguments)  # type: ignore[arg-type]
        if next(steps) == at:
            terms[term] = terms[term] * 0 + value
            terms["loss"] = terms["loss"] + terms[term]
        return terms

    monkeypatch.setattr(step, "total_loss", with_replaced_term)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_term_that_is_not_finite_stops_the_run_with_an_error_that_names_term_and_step(
    files: Files, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    replace_term(monkeypatch, at=5, term="part", value=value)
    recipe = change(optim={"steps": 40, "lr": 1e-9}, validate_every=2)
    expected = rf"term part is not finite at step 5: found {value}.*clip_norm.*of step 2"
    with pytest.raises(PspError, match=expected) as caught:
        files.train(recipe)
    assert "loss," not in str(caught.value)
    folder = files.data.parent / "run"
    assert [entry["step"] for entry in log(folder)] == [2, 4]
    assert not (folder / "last.safetensors").exists()


def test_a_far_too_large_learning_rate_stops_the_run_with_a_fix(files: Files) -> None:
    with pytest.raises(PspError, match=r"is not finite .*Lower optim\.lr"):
        files.train(change(optim={"steps": 30, "lr": 1e30}))


INVALID: dict[str, tuple[TrainingConfig, dict[str, list[str]], str]] = {
    "a pool of one clip has no negatives": (
        change(optim={"pool_batch": 1}),
        PARTS,
        r"optim\.pool_batch: too few clips.*: found 1 clip per step, 15 in the pool, expected 2 or more",
    ),
    "no labelled clips": (RECIPE, {**PARTS, "labelled": []}, r"no labelled clips.*psptool split"),
    "a clip that is not in the dataset": (
        RECIPE,
        {**PARTS, "labelled": ["a01_s01_e09_v01"]},
        r"has no clip 'a01_s01_e09_v01'",
    ),
}


@pytest.mark.parametrize(("recipe", "parts", "expected"), INVALID.values(), ids=INVALID)
def test_invalid_input_is_an_error_before_a_run_folder_is_created(
    tmp_path: Path, recipe: TrainingConfig, parts: dict[str, list[str]], expected: str
) -> None:
    files = make_files(tmp_path, parts)
    with pytest.raises(PspError, match=expected):
        files.train(recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("labelled_too", "pool_batch"), [(True, 15), (False, 9)])
def test_a_pool_with_fewer_clips_than_the_batch_size_is_used_completely(
    files: Files, loops: list[Loop], labelled_too: bool, pool_batch: int
) -> None:
    recipe = change(optim={"pool_batch": 16}, loss={"contrast_labelled": labelled_too})
    assert files.train(recipe, f"few-{pool_batch}").config.training.optim.pool_batch == pool_batch


def test_supervised_needs_no_unlabelled_clips(tmp_path: Path) -> None:
    files = make_files(tmp_path, {**PARTS, "unlabelled": []})
    assert files.train(change(method="supervised", optim={"pool_batch": 0})).final.step == 6


@pytest.mark.parametrize(
    "update", [{"clips_fingerprint": "f" * 64}, {"dataset": "ntu60"}], ids=["clips", "dataset"]
)
def test_a_split_of_another_dataset_is_an_error(files: Files, update: dict[str, str]) -> None:
    Split.load(files.split).model_copy(update=update).save(files.split)
    with pytest.raises(PspError, match=r"s0\.json: the split does not belong to .*ucla\.h5.*--data"):
        files.train()
    assert not (files.data.parent / "run").exists()


@pytest.mark.parametrize("part", ["labelled", "validation", "test"])
def test_a_clip_without_a_label_in_a_part_that_needs_labels_is_an_error_with_its_name(
    tmp_path: Path, part: str
) -> None:
    without_label = PARTS[part][0]
    clips = [make_clip(name, seed) for seed, name in enumerate(NAMES)]
    clips = [replace(c, key=c.key._replace(label=NO_LABEL)) if c.name == without_label else c for c in clips]
    files = Files(tmp_path / "ucla.h5", tmp_path / "s0.json")
    make_split(files.split, write_ucla(files.data, clips), PARTS)
    with pytest.raises(PspError, match=rf"s0\.json: {part}: found {without_label}, a clip without a label"):
        files.train()


def test_gradients_are_clipped_only_with_clip_norm(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: norms.append(norm))
    files.train(change(optim={"clip_norm": 0.0}), "unclipped")
    assert norms == []
    files.train(change(optim={"clip_norm": 2.5}), "clipped")
    assert norms == [2.5] * 6


def test_the_optimizer_uses_the_learning_rate_of_the_schedule_in_each_step(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    original = torch.optim.SGD.step

    def record_rate(self: torch.optim.SGD, *arguments: object) -> object:
        used.append(float(self.param_groups[0]["lr"]))
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.SGD, "step", record_rate)
    files.train(change(optim={"steps": 6, "schedule": "released", "lr": 0.01}))
    # Each of the six steps corresponds to 20 epochs: epochs 0, 20, 40, 60, 80 and 100.
    assert used == pytest.approx([0.002, 0.01, 0.01, 0.001, 0.001, 0.0001])
