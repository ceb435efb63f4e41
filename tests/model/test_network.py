"""Network output, model builder, networks with one or three streams, and another network with the same interface."""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from psptool.common.errors import PspError
from psptool.data.batches.ragged import RaggedClips
from psptool.data.batches.streams import Batch, Stream
from psptool.data.store.reading import open_store
from psptool.evaluation.api import evaluate
from psptool.evaluation.exporting import export, inputs_at_test
from psptool.evaluation.features import embed
from psptool.evaluation.models import open_model
from psptool.evaluation.scoring import load_model
from psptool.losses.contrast import coarse_to_fine
from psptool.losses.total import total_loss
from psptool.model import build
from psptool.model.build import build_model
from psptool.model.classifier import PSPNet
from psptool.model.network import Network, Output
from psptool.schemas.split import Split
from psptool.schemas.training import LossSettings, ModelSettings, StreamSettings, TrainingConfig
from psptool.skeletons.topology import Topology
from tests.builtin import UCLA20

from ..train.tiny import RECIPE, Files, change, make_files

NAMES = ("joint", "motion", "bone")
PAIRS = (("joint", "motion"), ("bone", "joint"))
SMALL = ModelSettings(channels=(4, 4), qk_channels=(2, 2), strides=(1, 2), heads=2)


def config(names: tuple[str, ...] = NAMES, **settings: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"model": SMALL, "streams": {"names": names}, "loss": {"contrast_pairs": PAIRS}, **settings}
    )


def make(training: TrainingConfig, seed: int = 0, **arguments: Any) -> PSPNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(training, UCLA20, 3, **arguments).double()
    assert isinstance(model, PSPNet)
    return model


def make_batch(names: tuple[str, ...] = NAMES, clips: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(names), clips, 3, 4, 20, generator=generator, dtype=torch.float64)
    own = torch.eye(clips, dtype=torch.float64)
    return {name: Stream(one, own) for name, one in zip(names, x, strict=True)}


def test_the_prediction_is_the_sum_over_streams_and_auxiliary_branches() -> None:
    joint, bone, auxiliary = (torch.randn(2, 3, dtype=torch.float64) for _ in range(3))
    output = Output({"joint": joint, "bone": bone}, {"joint": auxiliary})
    assert torch.equal(output.by_stream["joint"], joint + auxiliary)
    assert torch.equal(output.by_stream["bone"], bone)
    torch.testing.assert_close(output.fused, joint + bone + auxiliary)


def test_the_contrastive_branch_is_built_if_the_loss_uses_it_or_on_request() -> None:
    supervised = config(method="supervised")
    assert make(config()).pyramid is not None
    assert make(supervised).pyramid is None
    assert make(supervised, contrast=True).pyramid is not None
    assert make(config(), contrast=False).pyramid is None


def test_a_copy_without_contrast_predicts_the_same_and_does_not_change_the_network() -> None:
    model = make(config()).eval()
    other = model.without_contrast()
    assert model.pyramid is not None
    assert not [name for name in other.state_dict() if name.startswith(PSPNet.contrast_branch)]
    assert torch.equal(model(make_batch()).fused, other(make_batch()).fused)


@pytest.mark.parametrize("shared", [True, False], ids=["shared encoder", "separate encoders"])
@pytest.mark.parametrize("names", [("joint",), ("bone",), NAMES], ids=["joint", "bone", "three"])
def test_each_stream_has_its_own_logits_for_any_number_of_streams(
    names: tuple[str, ...], shared: bool
) -> None:
    settings = SMALL.model_copy(update={"share_encoder": shared, "separate_input_projection": True})
    model = make(config(names, method="supervised", model=settings)).eval()
    assert list(model.encoders) == list(names[:1] if shared else names)
    batch = make_batch(names)
    found = model(batch).by_stream
    assert list(found) == list(names)
    for name in names:  # in evaluation, logits of a stream do not depend on the other streams
        other = {
            **make_batch(names),
            **{k: Stream(s.x * 0, s.average) for k, s in batch.items() if k != name},
        }
        torch.testing.assert_close(model(other).by_stream[name], found[name])


def test_the_contrastive_loss_is_summed_over_the_configured_pairs_and_embeds_no_other_stream() -> None:
    training = config()
    model, batch = make(training), make_batch()
    other = copy.deepcopy(model)
    found = total_loss(model, batch, torch.tensor([0, 2]), training, torch.float32)
    vectors = other(batch, embed=training.contrast_streams, pool_from=2).embeddings
    terms = [coarse_to_fine(vectors[a], vectors[b], training.loss.temperature) for a, b in PAIRS]
    for level in ("body", "part", "joint"):
        torch.testing.assert_close(found[level], terms[0][level] + terms[1][level])
    contrast = sum(found[level] for level in ("body", "part", "joint"))
    torch.testing.assert_close(found["loss"], found["ce"] + training.loss.contrast_weight * contrast)
    default = training.model_copy(update={"loss": LossSettings()})
    assert default.contrast_streams == ("joint", "motion")
    assert list(other(batch, embed=default.contrast_streams, pool_from=2).embeddings) == ["joint", "motion"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"streams": {"names": ("joint",)}}, "contrast_pairs contains motion, but streams.names does not"),
        ({"streams": {"names": ("joint", "joint")}}, "must not contain a stream twice"),
        ({"streams": {"names": ()}}, "names"),
        ({"loss": {"contrast_pairs": [("joint", "joint")]}}, "pairs joint with itself"),
    ],
)
def test_invalid_streams_and_pairs_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig.model_validate(settings)


def test_one_stream_needs_no_pair_without_a_contrastive_loss() -> None:
    assert TrainingConfig.model_validate({"method": "supervised", "streams": {"names": ["bone"]}})
    found = TrainingConfig.model_validate({"loss": {"contrast_pairs": []}, "streams": {"names": ["bone"]}})
    assert found.contrast_levels == found.contrast_streams == ()


@pytest.fixture
def bone_run(tmp_path: Path) -> tuple[Files, Path]:
    """Files and run folder of a training with a bone stream."""
    files = make_files(tmp_path)
    pairs = LossSettings(contrast_pairs=PAIRS)  # type: ignore[arg-type]
    return files, files.train(change(RECIPE, streams=StreamSettings(names=NAMES), loss=pairs)).folder  # type: ignore[arg-type]


def test_a_model_with_a_bone_stream_is_trained_evaluated_and_embedded(bone_run: tuple[Files, Path]) -> None:
    files, folder = bone_run
    scores = evaluate(folder)
    assert list(scores.streams) == list(NAMES)
    model = open_model(folder)
    with open_store(files.data) as store:
        features = embed(model, store, Split.load(files.split))
    assert list(features.by_stream) == list(NAMES)
    assert features.concatenated.shape == (len(features.names), 3 * 8)


@pytest.mark.slow
def test_a_model_with_a_bone_stream_is_exported(bone_run: tuple[Files, Path]) -> None:
    files, folder = bone_run
    model = open_model(folder)
    with open_store(files.data) as store:
        inputs = inputs_at_test(model, RaggedClips.from_store(store, UCLA20, torch.device("cpu")), range(4))
    assert len(inputs) == 4
    exported = export(model, "torch-export", inputs)
    assert exported.difference <= 1e-4


class MeanNet(Network):
    """Another network: a linear layer on the mean coordinates of each stream."""

    def __init__(
        self,
        settings: ModelSettings,
        topology: Topology,
        classes: int,
        contrast: bool,
        streams: Collection[str],
    ) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.ModuleDict({name: nn.Linear(3 * topology.size, classes) for name in streams})

    def features(self, batch: Batch) -> dict[str, Tensor]:
        return {name: stream.x.mean(2).flatten(1)[:, :, None, None] for name, stream in batch.items()}

    def forward(self, batch: Batch, embed: Collection[str] = (), pool_from: int = 0) -> Output:
        found = self.features(batch)
        return Output(
            {name: self.layers[name](batch[name].average @ x.mean((2, 3))) for name, x in found.items()}
        )

    def without_contrast(self) -> MeanNet:
        return copy.deepcopy(self)


def test_training_a_network_without_embeddings_with_the_contrastive_loss_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build.NETWORKS, "psp", MeanNet)
    files = make_files(tmp_path)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(PspError, match="has no embeddings for the contrastive loss"):
        files.train(change(RECIPE, method="psp"))
    assert set(tmp_path.rglob("*")) == before  # no run folder


def test_requesting_attention_maps_of_a_network_without_them_is_an_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build.NETWORKS, "psp", MeanNet)
    done = make_files(tmp_path).train(change(RECIPE, method="supervised"))
    weights = done.folder / "last.safetensors"
    with pytest.raises(PspError, match="no attention maps: found network psp, expected a run with"):
        load_model(done.config, weights, torch.device("cpu"), contrast=True)


def test_another_network_is_trained_and_evaluated_once_it_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build.NETWORKS, "psp", MeanNet)
    files = make_files(tmp_path)
    done = files.train(change(RECIPE, method="supervised"))
    scores = evaluate(done.folder)
    assert list(scores.streams) == ["joint", "motion"]
    model = open_model(done.folder)
    assert isinstance(model.net, MeanNet)
    assert set(model.net.state_dict()) == {
        f"layers.{n}.{p}" for n in ("joint", "motion") for p in ("weight", "bias")
    }
    assert np.isfinite(scores.top1)
