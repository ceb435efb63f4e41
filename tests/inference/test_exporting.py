"""Exported models return the logits of the original for any number of clips and persons; others are not written."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from psptool.common.errors import PspError
from psptool.data.batches.ragged import RaggedClips
from psptool.data.store.reading import open_store
from psptool.evaluation import exporting
from psptool.evaluation.card import _streams, model_card
from psptool.evaluation.exporting import Exported, Format, Inputs, PlainNet, export, inputs_at_test
from psptool.evaluation.models import TrainedModel, open_model
from psptool.evaluation.scoring import network
from psptool.preparation.pipeline import prepare
from psptool.schemas.dataset import DatasetManifest
from psptool.schemas.training import OptimSettings, StreamSettings
from tests.builtin import UCLA20

from ..stores import make_clip, write_ucla
from ..train.tiny import Files
from ..trained import make_network, make_run, make_split

CPU = torch.device("cpu")
ONE, TWO = ((True,) * 6,), ((True,) * 6, (True,) * 6)
NAMES = [f"a01_s01_e{n:02}_v01" for n in range(20)]


@pytest.fixture(scope="module")
def model_and_inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Inputs]:
    """A run on twenty clips; every third clip has two persons."""
    folder = tmp_path_factory.mktemp("export")
    clips = [make_clip(name, n, TWO if n % 3 == 0 else ONE) for n, name in enumerate(NAMES)]
    return run_on(folder, write_ucla(folder / "ucla.h5", clips), range(20))


def run_on(folder: Path, manifest: DatasetManifest, chosen: Sequence[int]) -> tuple[TrainedModel, Inputs]:
    make_split(folder / "split.json", manifest, {})
    make_run(folder / "run", manifest, folder / "ucla.h5", folder / "split.json")
    return opened(folder, chosen)


def opened(folder: Path, chosen: Sequence[int]) -> tuple[TrainedModel, Inputs]:
    model = open_model(folder / "run")
    with open_store(folder / "ucla.h5") as store:
        clips = RaggedClips.from_store(store, UCLA20, CPU)
    return model, inputs_at_test(model, clips, chosen)


@torch.inference_mode()
def logits_of(model: TrainedModel, inputs: Inputs) -> np.ndarray:
    return PlainNet(model.net, model.config.training.streams.names)(*inputs)[0].numpy()


@pytest.mark.slow
def test_a_torch_export_returns_the_logits_of_the_model(
    model_and_inputs: tuple[TrainedModel, Inputs],
) -> None:
    model, inputs = model_and_inputs
    done = export(model, "torch-export", inputs)
    program = torch.export.load(io.BytesIO(done.content)).module()
    for batch in (inputs, (inputs[0][:2], inputs[1][:2], torch.eye(2))):
        np.testing.assert_allclose(program(*batch)[0].detach().numpy(), logits_of(model, batch), atol=1e-4)
    assert done.difference <= 1e-4


@pytest.mark.slow
def test_every_format_includes_the_pose_branch(model_and_inputs: tuple[TrainedModel, Inputs]) -> None:
    pytest.importorskip("onnxscript")
    training = model_and_inputs[0].config.training
    settings = training.model.model_copy(update={"pose_width": 4})
    config = model_and_inputs[0].config.model_copy(
        update={"training": training.model_copy(update={"model": settings})}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = network(config).eval()
    net.load_state_dict(model_and_inputs[0].net.state_dict(), strict=False)
    # Scale the logits to those of a trained network: rounding errors of larger ones exceed 1e-4.
    for classifier in (net.classifier, net.pose_classifier):
        classifier.weight.data.mul_(0.1)  # type: ignore[union-attr]
    model = replace(model_and_inputs[0], config=config, net=net)
    for name in get_args(Format):
        assert export(model, name, model_and_inputs[1]).difference <= 1e-4
    with_branch = logits_of(model, model_and_inputs[1])
    net.pose_classifier.weight.data.zero_()  # type: ignore[union-attr]
    assert np.abs(logits_of(model, model_and_inputs[1]) - with_branch).max() > 0.01


def assert_onnx_logits(model: TrainedModel, inputs: Inputs) -> bytes:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    done = export(model, "onnx", inputs)
    session = runtime.InferenceSession(done.content, providers=["CPUExecutionProvider"])
    feed = {name: x.numpy() for name, x in zip(("joint", "motion", "average"), inputs, strict=True)}
    both, joint, motion = session.run(["logits", "joint_logits", "motion_logits"], feed)
    assert len(both) == 20
    np.testing.assert_allclose(both, logits_of(model, inputs), atol=1e-4)
    np.testing.assert_allclose(both, joint + motion, atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(model.config.class_names)
    assert (metadata["topology"], metadata["frames"]) == ("kinect20", "4")
    return done.content


@pytest.mark.slow
def test_onnx_returns_the_logits_of_the_model_on_twenty_clips_and_the_example_of_the_card_runs(
    model_and_inputs: tuple[TrainedModel, Inputs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = model_and_inputs
    content = assert_onnx_logits(model, inputs)
    (tmp_path / "model.onnx").write_bytes(content)
    card = model_card(model, "model", [Exported("onnx", content, 0.0)], "20 clips", NAMES[3])
    monkeypatch.chdir(tmp_path)
    variables: dict[str, np.ndarray] = {}
    exec(card.split("```python\n")[1].split("```")[0], variables)
    np.testing.assert_allclose(variables["logits"][0], logits_of(model, inputs)[3], atol=1e-4)


def test_an_export_with_different_logits_is_an_error(
    model_and_inputs: tuple[TrainedModel, Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = model_and_inputs
    other = TrainedModel(model.path, "last", model.config, make_network(seed=9, contrast=False), CPU)
    real = exporting.model_bytes
    monkeypatch.setattr(exporting, "model_bytes", lambda _: real(other))
    with pytest.raises(
        PspError, match=r"safetensors: logits differ from those of the model.*No file was written"
    ):
        export(model, "safetensors", inputs)


def test_a_missing_package_is_an_error_with_the_install_command(
    model_and_inputs: tuple[TrainedModel, Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(PspError, match="pip install onnx onnxscript onnxruntime"):
        export(model_and_inputs[0], "onnx", model_and_inputs[1])


@pytest.mark.parametrize("origin", ["clip", "frame"])
@pytest.mark.parametrize("motion", ["recorded", "drawn"])
def test_the_example_of_the_card_computes_the_streams_that_the_model_was_trained_on(
    model_and_inputs: tuple[TrainedModel, Inputs], motion: str, origin: str
) -> None:
    settings = StreamSettings.model_validate(
        {"names": ("joint", "motion", "bone"), "motion": motion, "origin": origin}
    )
    training = model_and_inputs[0].config.training.model_copy(update={"streams": settings})
    model = replace(
        model_and_inputs[0], config=model_and_inputs[0].config.model_copy(update={"training": training})
    )
    with open_store(Path(model.config.latest.data_path)) as store:
        inputs = inputs_at_test(model, RaggedClips.from_store(store, UCLA20, CPU), [3])
        clip = store.clip(3)
    frames = np.arange(4) * clip.present.shape[1] // 4
    names = {"np": np, "clip": clip, "present": clip.present[:, frames].any(axis=1), "frames": frames}
    exec(_streams(model.config), names)
    for name, x in zip(settings.names, inputs, strict=False):
        np.testing.assert_array_equal(names[name].transpose(0, 3, 1, 2), x)  # type: ignore[attr-defined]
    card = model_card(model, "model", [Exported("onnx", b"", 0.0)], "20 clips", NAMES[3])
    assert ("hip centre" in card) == (origin == "frame")


def test_the_card_reports_which_values_are_not_measured(
    model_and_inputs: tuple[TrainedModel, Inputs],
) -> None:
    model, _ = model_and_inputs
    card = model_card(model, "model", [Exported("safetensors", b"1234", 0.0)], "20 synthetic recordings")
    assert (
        "Not measured: the run's `scores.json` is missing or damaged. `psptool evaluate` writes it." in card
    )
    best = model_card(replace(model, weights="best"), "model", [], "20 synthetic recordings")
    assert "`scores-best.json` is missing or damaged. `psptool evaluate --weights best` writes it." in best
    assert "on 20 synthetic recordings" in card
    assert model.config.content_fingerprint in card
    assert "(P, 3, 4, 20)" in card
    assert "```python" not in card


def test_the_card_has_the_batch_sizes_that_the_method_uses(
    model_and_inputs: tuple[TrainedModel, Inputs],
) -> None:
    model, optim = model_and_inputs[0], OptimSettings(steps=2, labelled_batch=32, pool_batch=48)
    for method, batch in (
        ("psp", "32 labelled clips and 48 clips of the pool"),
        ("supervised", "32 labelled clips"),
    ):
        training = model.config.training.model_copy(update={"method": method, "optim": optim})
        changed = replace(model, config=model.config.model_copy(update={"training": training}))
        card = model_card(changed, "model", [Exported("onnx", b"", 0.0)], "20 clips", NAMES[3])
        assert f"2 steps of {batch}, learning rate" in card


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif("PSPTOOL_UCLA_RAW" not in os.environ, reason="PSPTOOL_UCLA_RAW names no folder")
def test_onnx_returns_the_logits_of_the_model_on_twenty_real_test_clips(tmp_path: Path) -> None:
    prepare("ucla", [Path(os.environ["PSPTOOL_UCLA_RAW"])], tmp_path / "ucla.h5")
    with open_store(tmp_path / "ucla.h5") as store:
        chosen = np.flatnonzero(store.table.camera == 3)[:460:23].tolist()
        train = [name for name in store.names if not name.endswith("_v03")]
        make_split(
            tmp_path / "split.json", store.manifest, {"labelled": train[::20], "unlabelled": train[1::20]}
        )
    # Train a few steps, so that the batch norm statistics and the size of the logits are realistic.
    Files(tmp_path / "ucla.h5", tmp_path / "split.json").train()
    assert_onnx_logits(*opened(tmp_path, chosen))
