"""The training loss: cross-entropy on the labelled clips plus the weighted contrastive loss on the pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psptool.common.errors import PspError
from psptool.data.batches.streams import Batch, Stream
from psptool.losses.total import total_loss
from psptool.model.classifier import PSPNet
from psptool.model.network import Output
from psptool.schemas.training import LossSettings, ModelSettings, TeacherSettings, TrainingConfig
from tests.builtin import UCLA20

from ..model import translate
from ..model.literal import clip_means, pyramid
from ..model.translate import BODIES, LEVELS, PARTS
from ..streams import stream_features, two
from . import literal

LABELS = [2, 0]
POOL = 3
MODEL = ModelSettings(channels=(4,), qk_channels=(2,), strides=(1,), heads=2)


def make() -> tuple[PSPNet, Batch]:
    clips = len(LABELS) + POOL
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = PSPNet(MODEL, UCLA20, classes=3).double()
        x = torch.randn(2, clips, 3, 4, UCLA20.size, dtype=torch.float64)
    own = torch.eye(clips, dtype=torch.float64)
    return model, two(Stream(x[0], own), Stream(x[1], own))


def terms(config: TrainingConfig) -> dict[str, float]:
    model, streams = make()
    found = total_loss(model, streams, torch.tensor(LABELS), config, torch.float32)
    return {name: value.item() for name, value in found.items()}


@pytest.mark.parametrize("weight", [0.2, 1.5])
@pytest.mark.parametrize("levels", [None, ("joint",), ("part", "body")], ids=["all", "joint", "part+body"])
def test_loss_is_cross_entropy_of_labelled_clips_plus_weighted_contrast_of_the_pool(
    weight: float, levels: tuple[str, ...] | None
) -> None:
    settings = LossSettings(contrast_weight=weight, contrast_levels=levels, temperature=0.1)  # type: ignore[arg-type]
    found = terms(TrainingConfig(method="psp", model=MODEL, loss=settings))
    model, streams = make()
    joint, motion = stream_features(model, streams)
    own = streams["joint"].average
    logits = (model.logits(joint, own) + model.logits(motion, own)).detach().numpy()
    ce = literal.cross_entropy(logits[: len(LABELS)], LABELS)
    # Batch norm in the pyramid uses the moments of the pool only; labelled clips are removed before it.
    weights = translate.pyramid(model.pyramid)  # type: ignore[arg-type]
    mlp = [translate.array(parameter) for parameter in model.projection.parameters()]  # type: ignore[union-attr]
    vectors = []
    for features in (joint, motion):
        pool = translate.array(features)[len(LABELS) :]
        attended = pyramid(pool, weights, BODIES[20], PARTS[20], "chained", training=True)
        means = [clip_means(x, list(range(POOL)), POOL) for x in attended]
        vectors.append(dict(zip(LEVELS, [literal.project(x, *mlp) for x in means], strict=True)))
    chosen = levels or ("body", "part", "joint")
    contrast = literal.contrast([(vectors[0][level], vectors[1][level]) for level in chosen], 0.1)
    assert found["ce"] == pytest.approx(ce, rel=1e-9)
    assert sum(found[level] for level in chosen) == pytest.approx(contrast, rel=1e-9)
    assert found["loss"] == pytest.approx(ce + weight * contrast, rel=1e-9)
    assert set(found) == {"loss", "ce", *chosen}


def test_a_contrastive_loss_of_a_network_without_embeddings_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = PSPNet.forward
    monkeypatch.setattr(PSPNet, "forward", lambda self, batch, **_: original(self, batch))
    with pytest.raises(
        PspError, match="network=psp: has no embeddings for the contrastive loss: found none of"
    ):
        terms(TrainingConfig(method="psp", model=MODEL))
    terms(TrainingConfig(method="supervised", model=MODEL))


@pytest.mark.parametrize(
    "config",
    [
        TrainingConfig(method="supervised", model=MODEL),
        TrainingConfig(method="psp", model=MODEL, loss=LossSettings(contrast_weight=0)),
    ],
    ids=["supervised", "contrast weight 0"],
)
def test_without_contrast_the_loss_is_the_cross_entropy_and_no_embeddings_are_computed(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the contrastive branch was computed")

    monkeypatch.setattr(PSPNet, "embeddings", fail)
    found = terms(config)
    assert set(found) == {"loss", "ce"}
    assert found["loss"] == found["ce"]


def test_losses_of_a_network_in_bfloat16_are_computed_in_float32() -> None:
    config = TrainingConfig(method="psp", model=MODEL, teacher=TeacherSettings(weight=1))
    _, batch = make()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        logits = torch.randn(2, len(LABELS) + POOL, 3).bfloat16()
        vectors = torch.randn(2, POOL, 6).bfloat16()
        teacher_labels = torch.rand(POOL, 3).softmax(1)

    def found(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        def network(*_: object, **__: object) -> Output:
            names = ("joint", "motion")
            embeddings = {
                name: dict.fromkeys(LEVELS, x.to(dtype)) for name, x in zip(names, vectors, strict=True)
            }
            return Output({"joint": logits[0].to(dtype)}, {"joint": logits[1].to(dtype)}, embeddings)  # type: ignore[arg-type]

        return total_loss(
            network,  # type: ignore[arg-type]
            batch,
            torch.tensor(LABELS),
            config,
            torch.float32,
            teacher_labels=teacher_labels,
            teacher_weight=0.5,
        )

    rounded, exact = found(torch.bfloat16), found(torch.float32)
    assert set(rounded) == {"loss", "ce", "teacher", *LEVELS}
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32
        assert torch.equal(rounded[name], value), name


def test_label_smoothing_adds_the_mean_cross_entropy_over_all_classes() -> None:
    plain = TrainingConfig(method="supervised", model=MODEL)
    smooth = plain.model_copy(update={"loss": LossSettings(label_smoothing=0.3)})
    model, streams = make()
    logits = model(streams).fused.detach().numpy()[: len(LABELS)]
    uniform = np.mean([literal.cross_entropy(logits, [k] * len(LABELS)) for k in range(3)])
    assert terms(smooth)["ce"] == pytest.approx(0.7 * terms(plain)["ce"] + 0.3 * uniform, rel=1e-5)


def test_the_pose_branch_adds_its_own_cross_entropies_and_does_not_change_encoder_gradients() -> None:
    settings = MODEL.model_copy(update={"pose_width": 3, "pose_dropout": 0.0})
    config = TrainingConfig(method="psp", model=settings, teacher=TeacherSettings(weight=1))
    teacher_labels = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8]])

    def step(model: PSPNet, streams: Batch) -> dict[str, float]:
        found = total_loss(
            model,
            streams,
            torch.tensor(LABELS),
            config,
            torch.float32,
            teacher_labels=teacher_labels,
            teacher_weight=0.5,
        )
        found["loss"].backward()
        return {name: value.item() for name, value in found.items()}

    bare, streams = make()
    with torch.random.fork_rng():
        full = PSPNet(settings, UCLA20, classes=3).double()
    full.load_state_dict(bare.state_dict(), strict=False)
    pose_logits = full.pose_logits(streams["joint"]).detach()  # type: ignore[union-attr]
    without, found = step(bare, streams), step(full, streams)
    ce = literal.cross_entropy(pose_logits[: len(LABELS)].numpy(), LABELS)
    teacher = float(-(teacher_labels * pose_logits[len(LABELS) :].log_softmax(1)).sum(1).mean())
    assert found["ce"] - without["ce"] == pytest.approx(ce, rel=1e-5)
    assert found["teacher"] - without["teacher"] == pytest.approx(teacher, rel=1e-5)
    assert found["loss"] - without["loss"] == pytest.approx(ce + 0.5 * teacher, rel=1e-5)
    parameters = dict(full.named_parameters())
    for name, own in bare.named_parameters():
        torch.testing.assert_close(parameters[name].grad, own.grad)
