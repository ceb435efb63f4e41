"""A step's loss: cross-entropy of the labelled clips plus the weighted contrast of the pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psptool.batches.streams import Stream, Streams
from psptool.model.classifier import PSPNet
from psptool.schemas.training import LossSettings, ModelSettings, TrainingConfig
from psptool.skeletons.topologies import UCLA20
from psptool.train.objective import objective

from . import literal

LABELS = [2, 0]
POOL = 3
MODEL = ModelSettings(channels=(4,), inter=(2,), strides=(1,), heads=2)


def make() -> tuple[PSPNet, Streams]:
    clips = len(LABELS) + POOL
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = PSPNet(MODEL, UCLA20, classes=3).double()
        x = torch.randn(2, clips, 3, 4, UCLA20.size, dtype=torch.float64)
    own = torch.eye(clips, dtype=torch.float64)
    return model, Streams(Stream(x[0], own), Stream(x[1], own))


def terms(config: TrainingConfig) -> dict[str, float]:
    model, streams = make()
    found = objective(model, streams, torch.tensor(LABELS), config, torch.float32)
    return {name: value.item() for name, value in found.items()}


@pytest.mark.parametrize("weight", [0.2, 1.5])
@pytest.mark.parametrize("levels", [None, ("joint",), ("part", "body")], ids=["all", "joint", "part+body"])
def test_loss_is_ce_of_the_labelled_plus_weighted_contrast_of_the_pool(
    weight: float, levels: tuple[str, ...] | None
) -> None:
    settings = LossSettings(contrast_weight=weight, contrast_levels=levels, temperature=0.1)  # type: ignore[arg-type]
    found = terms(TrainingConfig(method="psp", model=MODEL, loss=settings))
    model, streams = make()
    joint, motion = model.features(streams)
    own = streams.joint.average
    logits = sum(model.logits(joint, motion, streams)).detach().numpy()
    ce = literal.cross_entropy(logits[: len(LABELS)], LABELS)
    vectors = []
    for features in (joint, motion):
        embedded = model.embeddings(features, own)
        vectors.append({level: x[len(LABELS) :].detach().numpy() for level, x in embedded.items()})
    chosen = levels or ("body", "part", "joint")
    contrast = literal.contrast([(vectors[0][level], vectors[1][level]) for level in chosen], 0.1)
    # The losses are taken in single precision.
    assert found["ce"] == pytest.approx(ce, rel=1e-5)
    assert sum(found[level] for level in chosen) == pytest.approx(contrast, rel=1e-5)
    assert found["loss"] == pytest.approx(ce + weight * contrast, rel=1e-5)
    assert set(found) == {"loss", "ce", *chosen}


@pytest.mark.parametrize(
    "config",
    [
        TrainingConfig(method="supervised", model=MODEL),
        TrainingConfig(method="psp", model=MODEL, loss=LossSettings(contrast_weight=0)),
    ],
    ids=["supervised", "contrast weighs nothing"],
)
def test_labels_only_is_the_cross_entropy_alone_and_computes_no_contrast(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the contrastive branch was computed")

    monkeypatch.setattr(PSPNet, "embeddings", refuse)
    found = terms(config)
    assert set(found) == {"loss", "ce"}
    assert found["loss"] == found["ce"]


def test_label_smoothing_mixes_in_the_mean_over_all_classes() -> None:
    plain = TrainingConfig(method="supervised", model=MODEL)
    smooth = plain.model_copy(update={"loss": LossSettings(label_smoothing=0.3)})
    model, streams = make()
    joint, motion = model(streams)
    logits = (joint + motion).detach().numpy()[: len(LABELS)]
    uniform = np.mean([literal.cross_entropy(logits, [k] * len(LABELS)) for k in range(3)])
    assert terms(smooth)["ce"] == pytest.approx(0.7 * terms(plain)["ce"] + 0.3 * uniform, rel=1e-5)
