"""Loading the weights of a run, and computing the logits of clips."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from psptool.common.errors import PspError
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.batches.streams import Stream
from psptool.data.store.reading import Store, open_store
from psptool.evaluation import scoring
from psptool.evaluation.scoring import StreamLogits, load_model, score_clips, softmax
from psptool.model.classifier import PSPNet
from psptool.model.logits import clip_logits
from psptool.model.pyramid import Pyramid
from psptool.schemas.run import RunConfig
from tests.builtin import UCLA20

from ..stores import make_clip, write_ucla
from ..streams import stream_logits
from ..trained import TRAINING, make_network, make_run, make_split

CPU = torch.device("cpu")
ALL = (True,) * 6
NAMES = [f"a01_s01_e0{n}_v03" for n in range(5)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[tuple[Path, RunConfig, Store]]:
    """A weights file, its configuration, and a dataset of five clips, one of them with two persons."""
    persons = [[ALL], [ALL, ALL], [ALL], [ALL], [(True,) * 5 + (False,)]]
    clips = [
        make_clip(name, n, present) for n, (name, present) in enumerate(zip(NAMES, persons, strict=True))
    ]
    manifest = write_ucla(tmp_path / "ucla.h5", clips)
    make_split(tmp_path / "split.json", manifest, {})
    config = make_run(tmp_path / "run", manifest, tmp_path / "ucla.h5", tmp_path / "split.json")
    with open_store(tmp_path / "ucla.h5") as store:
        yield tmp_path / "run" / "last.safetensors", config, store


def score(run: tuple[Path, RunConfig, Store], chosen: list[int]) -> tuple[np.ndarray, np.ndarray]:
    weights, config, store = run
    scored = score_clips(load_model(config, weights, CPU), config, store, np.array(chosen), CPU)
    return scored.by_stream["joint"], scored.by_stream["motion"]


def test_logits_are_those_of_the_trained_network_on_test_frames(run: tuple[Path, RunConfig, Store]) -> None:
    weights, config, store = run
    batcher = Batcher(RaggedClips.from_store(store, UCLA20, CPU), TRAINING.sampling)
    with torch.no_grad():
        expected = stream_logits(make_network(), batcher.test(torch.arange(5)))
    scored = score_clips(load_model(config, weights, CPU), config, store, np.arange(5), CPU)
    for found, wanted in zip(scored.by_stream.values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scored.fused, scored.by_stream["joint"] + scored.by_stream["motion"])
    assert scored.fused.shape == (5, 10)


def test_logits_are_reproducible_and_do_not_depend_on_the_order_of_clips(
    run: tuple[Path, RunConfig, Store],
) -> None:
    first, again, reordered = score(run, [0, 1, 2, 3, 4]), score(run, [0, 1, 2, 3, 4]), score(run, [3, 1, 4])
    for expected, same, other in zip(first, again, reordered, strict=True):
        np.testing.assert_array_equal(expected, same)
        np.testing.assert_allclose(expected[[3, 1, 4]], other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_logits_do_not_depend_on_the_batch_size(run: tuple[Path, RunConfig, Store], batch: int) -> None:
    _, _, store = run
    batcher = Batcher(RaggedClips.from_store(store, UCLA20, CPU), TRAINING.sampling)
    whole = clip_logits(make_network(), batcher, torch.arange(5))
    parts = clip_logits(make_network(), batcher, torch.arange(5), batch=batch)
    for name, x in whole.items():
        torch.testing.assert_close(x, parts[name], rtol=1e-5, atol=1e-6)


def test_logits_of_clips_loaded_in_chunks_and_at_once_are_bit_identical(
    run: tuple[Path, RunConfig, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, config, _ = run
    names = [f"a01_s{1 + n // 15:02d}_e{n % 15:02d}_v03" for n in range(150)]
    write_ucla(tmp_path / "more.h5", [make_clip(name, n, [ALL]) for n, name in enumerate(names)])
    loaded: list[int] = []
    load = RaggedClips.from_store

    def counted(*args: Any, chosen: np.ndarray) -> RaggedClips:
        loaded.append(len(chosen))
        return load(*args, chosen=chosen)

    monkeypatch.setattr(RaggedClips, "from_store", counted)
    model, chosen, found = load_model(config, weights, CPU), np.arange(150)[::-1].copy(), []
    with open_store(tmp_path / "more.h5") as store:
        for chunk in (scoring.CHUNK, 64):
            monkeypatch.setattr(scoring, "CHUNK", chunk)
            found.append(score_clips(model, config, store, chosen, CPU).by_stream)
    assert loaded == [150, 64, 64, 22]
    for name, whole in found[0].items():
        np.testing.assert_array_equal(whole, found[1][name])


def test_scoring_keeps_the_training_mode_and_the_state_of_a_network(
    run: tuple[Path, RunConfig, Store],
) -> None:
    _, _, store = run
    batcher = Batcher(RaggedClips.from_store(store, UCLA20, CPU), TRAINING.sampling)
    model = make_network().train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    clip_logits(model, batcher, torch.arange(5))
    assert model.training
    for name, x in model.state_dict().items():
        assert torch.equal(x, before[name]), name


def test_only_present_persons_are_computed(run: tuple[Path, RunConfig, Store]) -> None:
    weights, config, store = run
    model = load_model(config, weights, CPU)
    seen = []
    model.encoders["joint"].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    score_clips(model, config, store, np.arange(5), CPU)
    assert seen == [2 * 6]  # six persons in five clips, two streams


def test_neither_the_pyramid_nor_the_projection_is_built_or_computed(
    run: tuple[Path, RunConfig, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = score(run, [0, 1])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the contrastive branch was used")

    for name in ("__init__", "forward", "maps"):
        monkeypatch.setattr(Pyramid, name, refuse)
    monkeypatch.setattr(PSPNet, "embeddings", refuse)
    monkeypatch.setattr(torch.nn.ReLU, "forward", refuse)  # only the projection contains a ReLU
    for found, wanted in zip(score(run, [0, 1]), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_weights_of_a_supervised_baseline_can_be_loaded(run: tuple[Path, RunConfig, Store]) -> None:
    weights, _, _ = run
    expected = score(run, [0])
    bare = {
        k: x for k, x in make_network().state_dict().items() if not k.startswith(("pyramid", "projection"))
    }
    save_file(bare, weights)
    np.testing.assert_array_equal(score(run, [0])[0], expected[0])


def test_a_missing_weights_file_is_an_error_with_its_name(run: tuple[Path, RunConfig, Store]) -> None:
    weights, config, _ = run
    with pytest.raises(PspError, match=r"best\.safetensors: there is no such file"):
        load_model(config, weights.with_name("best.safetensors"), CPU)


class _Trap:
    """Unpickling this object creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["truncated", "empty", "pickle"])
def test_damaged_weights_are_refused_and_code_in_them_does_not_run(
    run: tuple[Path, RunConfig, Store], tmp_path: Path, damage: str
) -> None:
    weights, config, _ = run
    if damage == "pickle":
        torch.save(_Trap(tmp_path / "executed"), weights)
    else:
        weights.write_bytes(weights.read_bytes()[: {"truncated": -100, "empty": 0}[damage]])
    with pytest.raises(PspError, match=r"last\.safetensors: cannot be read as safetensors"):
        load_model(config, weights, CPU)
    assert not (tmp_path / "executed").exists()


def test_weights_of_another_network_are_refused(run: tuple[Path, RunConfig, Store]) -> None:
    weights, config, _ = run
    wider = config.training.model.model_copy(update={"channels": (8, 16)})
    training = config.training.model_copy(update={"model": wider})
    with pytest.raises(PspError, match=r"last\.safetensors: does not fit the network.*size mismatch"):
        load_model(config.model_copy(update={"training": training}), weights, CPU)
    save_file({k: x for k, x in make_network().state_dict().items() if "classifier" not in k}, weights)
    with pytest.raises(PspError, match=r"Missing key\(s\).*classifier\.weight"):
        load_model(config, weights, CPU)


def test_logits_that_are_not_finite_are_an_error_that_names_a_clip(
    run: tuple[Path, RunConfig, Store],
) -> None:
    weights, config, store = run
    model = load_model(config, weights, CPU)
    model.classifier.bias.data[3] = float("nan")
    with pytest.raises(PspError, match=rf"logits are not finite for 2 of 2 clips, such as {NAMES[4]}"):
        score_clips(model, config, store, np.array([4, 0]), CPU)


def test_softmax_does_not_overflow() -> None:
    found = softmax(np.array([[1000.0, 1000.0, 0.0], [np.log(1.0), np.log(2.0), np.log(5.0)]]))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0], [1 / 8, 2 / 8, 5 / 8]], rtol=1e-12)


def test_probabilities_are_the_softmax_of_the_mean_over_classification_heads() -> None:
    by_stream = {"joint": np.float32([[0, 1]]), "motion": np.float32([[0, math.log(9) - 1]])}
    assert StreamLogits(by_stream).probabilities[0] == pytest.approx([0.1, 0.9], rel=1e-6)
    assert StreamLogits(by_stream, heads=2).probabilities[0] == pytest.approx([0.25, 0.75], rel=1e-6)


@pytest.mark.parametrize(("pose_width", "heads"), [(0, 1), (4, 2)])
def test_a_model_has_one_classification_head_for_the_streams_and_one_for_the_pose_branch(
    pose_width: int, heads: int
) -> None:
    settings = TRAINING.model.model_copy(update={"pose_width": pose_width})
    model = PSPNet(settings, UCLA20, classes=3).eval()
    assert model.classification_heads == heads
    x = torch.randn(2, 3, 4, 20)
    batch = {name: Stream.of(x, torch.tensor([1, 1])) for name in ("joint", "motion")}
    # As many as there are cross-entropies in the loss.
    assert 1 + len(model(batch).auxiliary) == heads


def test_softmax_of_float32_logits_is_computed_in_float64() -> None:
    logits = np.float32([[0.1, 0.2, 0.4]])
    powers = [math.exp(float(logit)) for logit in logits[0]]
    np.testing.assert_allclose(softmax(logits), [[power / sum(powers) for power in powers]], rtol=1e-14)
