"""The whole network compared with the literal formulas, and its invariances to the order of clips and persons."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from psptool.data.batches.streams import Batch, Stream
from psptool.model.classifier import PSPNet
from psptool.schemas.training import ModelSettings
from tests.builtin import UCLA20

from ..losses.literal import project
from ..streams import stream_features, stream_logits, two
from . import literal, translate
from .translate import BODIES, LEVELS, PARTS

SETTINGS = ModelSettings(channels=(4, 4), qk_channels=(2, 2), strides=(1, 2), heads=2, temporal_kernel=3)
OWNER = [0, 0, 1, 2, 2]  # clip of each person: two clips with two persons, one with one person
CLASSES = 3


def make_model(**changes: object) -> PSPNet:
    with translate.doubles(seed=11):
        model = PSPNet(SETTINGS.model_copy(update=changes), UCLA20, CLASSES)
        translate.shuffle_weights(model)
    return model


def averages(owner: list[int]) -> torch.Tensor:
    weights = torch.tensor([[float(o == clip) for o in owner] for clip in range(max(owner) + 1)])
    return (weights / weights.sum(1, keepdim=True)).double()


def make_streams(owner: list[int] = OWNER, seed: int = 12) -> Batch:
    with translate.doubles(seed):
        x = torch.randn(2, len(owner), 3, 3, UCLA20.size)
    return two(Stream(x[0], averages(owner)), Stream(x[1], averages(owner)))


def literal_features(model: PSPNet, streams: Batch, training: bool) -> list[literal.Array]:
    def encode(module: nn.Module, x: literal.Array) -> literal.Array:
        entry, blocks = translate.encoder(module)  # type: ignore[arg-type]
        tables = [translate.encoding(block) for block in module.blocks]  # type: ignore[union-attr]
        return literal.encoder(x, entry, blocks, training, tables)

    joint, motion = translate.array(streams["joint"].x), translate.array(streams["motion"].x)
    if len(model.encoders) > 1:
        return [encode(model.encoders["joint"], joint), encode(model.encoders["motion"], motion)]
    both = encode(model.encoders["joint"], np.concatenate([joint, motion]))
    return [both[: len(joint)], both[len(joint) :]]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("shared", [True, False], ids=["one encoder", "two encoders"])
def test_logits_are_a_linear_layer_on_the_mean_features_of_each_clip(shared: bool, training: bool) -> None:
    model, streams = make_model(share_encoder=shared), make_streams()
    features = literal_features(model, streams, training)
    weight, bias = translate.array(model.classifier.weight), translate.array(model.classifier.bias)
    model.train(training)
    for found, x in zip(stream_logits(model, streams), features, strict=True):
        means = literal.clip_means(x, OWNER, 3)
        expected = np.zeros((3, CLASSES))
        for n, k in np.ndindex(expected.shape):
            expected[n, k] = bias[k] + sum(weight[k, c] * means[n, c] for c in range(means.shape[1]))
        translate.close(found, expected)


@pytest.mark.parametrize("mode", ["raw", "chained", "off"])
def test_embeddings_are_the_projected_means_over_persons_frames_and_groups(mode: str) -> None:
    model, streams = make_model(polymerize=mode), make_streams()
    with translate.doubles(seed=13):
        features = torch.randn(5, 4, 2, UCLA20.size)
    weights = translate.pyramid(model.pyramid)  # type: ignore[arg-type]
    groups = BODIES[20], PARTS[20]
    attended = literal.pyramid(translate.array(features), weights, *groups, mode, training=True)
    mlp = [translate.array(p) for p in model.projection.parameters()]  # type: ignore[union-attr]
    found = model.embeddings(features, streams["joint"].average)
    for level, x in zip(LEVELS, attended, strict=True):
        translate.close(found[level], project(literal.clip_means(x, OWNER, 3), *mlp))


def test_one_projection_is_used_for_all_levels_and_both_streams() -> None:
    model = make_model()
    assert [type(layer) for layer in model.projection] == [nn.Linear, nn.ReLU, nn.Linear]  # type: ignore[union-attr]
    assert (
        sum(isinstance(module, nn.Linear) for module in model.modules()) == 3
    )  # two of the projection, and the classifier


def test_permuting_clips_permutes_logits_and_embeddings_in_training() -> None:
    model, streams = make_model(), make_streams()
    # Clips in the order 2, 0, 1, and the persons of each clip exchanged.
    persons, clips = torch.tensor([4, 3, 1, 0, 2]), [2, 0, 1]

    def permute(stream: Stream) -> Stream:
        return Stream(stream.x[persons], stream.average[clips][:, persons])

    permuted = two(permute(streams["joint"]), permute(streams["motion"]))
    other = copy.deepcopy(model)
    for expected, found in zip(stream_logits(model, streams), stream_logits(other, permuted), strict=True):
        translate.close(found, translate.array(expected[clips]))
    embed = model.embeddings(stream_features(model, streams)[0], streams["joint"].average)
    embed_other = other.embeddings(stream_features(other, permuted)[0], permuted["joint"].average)
    for level in LEVELS:
        translate.close(embed_other[level], translate.array(embed[level][clips]))
    for mine, theirs in zip(model.buffers(), other.buffers(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_logits_of_a_clip_in_evaluation_do_not_depend_on_other_clips_in_the_batch() -> None:
    model, streams = make_model().eval(), make_streams()
    alone = two(*(Stream(s.x[2:3], torch.ones(1, 1).double()) for s in streams.values()))
    for together, single in zip(stream_logits(model, streams), stream_logits(model, alone), strict=True):
        translate.close(single, translate.array(together[1:2]))


def test_prediction_computes_neither_the_pyramid_nor_the_projection() -> None:
    model, streams = make_model(), make_streams()
    expected = [translate.array(logits) for logits in stream_logits(copy.deepcopy(model), streams)]

    def fail(*_: object) -> None:
        raise AssertionError("the contrastive branch was computed")

    for part in (model.pyramid, model.projection):
        for module in part.modules():  # type: ignore[union-attr]
            module.register_forward_pre_hook(fail)
    for found, wanted in zip(stream_logits(model, streams), expected, strict=True):
        translate.close(found, wanted)
    with pytest.raises(AssertionError, match="contrastive branch"):
        model.embeddings(stream_features(model, streams)[0], streams["joint"].average)


def test_without_contrast_there_is_no_contrastive_branch_and_the_logits_are_the_same() -> None:
    full = make_model()
    bare = PSPNet(SETTINGS, UCLA20, CLASSES, contrast=False).double()
    assert not bare.load_state_dict(full.state_dict(), strict=False).missing_keys
    assert {name.split(".")[0] for name, _ in bare.named_parameters()} == {"encoders", "classifier"}
    streams = make_streams()
    for mine, theirs in zip(
        stream_logits(full.eval(), streams), stream_logits(bare.eval(), streams), strict=True
    ):
        translate.close(theirs, translate.array(mine))


def test_dropout_changes_logits_in_training_but_not_in_evaluation() -> None:
    plain, dropped = make_model(), make_model(dropout=0.9)
    streams = make_streams()
    for mine, theirs in zip(
        stream_logits(plain.eval(), streams), stream_logits(dropped.eval(), streams), strict=True
    ):
        translate.close(theirs, translate.array(mine))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert not torch.allclose(
            stream_logits(plain.train(), streams)[0], stream_logits(dropped.train(), streams)[0]
        )


def test_every_parameter_has_a_gradient_from_the_sum_of_both_losses() -> None:
    model, streams = make_model(share_encoder=False), make_streams()
    joint, motion = stream_features(model, streams)
    total = sum(model.logits(x, streams["joint"].average).square().sum() for x in (joint, motion))
    for features in (joint, motion):
        total = total + sum(
            x.square().sum() for x in model.embeddings(features, streams["joint"].average).values()
        )
    total.backward()
    # A bias directly before a batch norm has no effect in training; all other parameters must have a gradient.
    without_gradient = {
        name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9
    }
    before_norm = {
        f"{name}.0.bias"
        for name, module in model.named_modules()
        if isinstance(module, nn.Sequential) and isinstance(module[1], nn.BatchNorm2d)
    }
    assert without_gradient <= before_norm


def test_logits_depend_on_which_stream_is_which() -> None:
    model, streams = make_model(share_encoder=False).eval(), make_streams()
    swapped = two(streams["motion"], streams["joint"])
    assert not torch.allclose(stream_logits(model, streams)[0], stream_logits(model, swapped)[1])


def test_with_a_separate_input_projection_the_scale_of_motion_does_not_matter() -> None:
    streams = make_streams()
    larger = two(streams["joint"], replace(streams["motion"], x=streams["motion"].x * 7))
    for separate in (True, False):
        model = make_model(separate_input_projection=separate).train()
        same = all(
            torch.allclose(a, b, rtol=1e-2, atol=1e-2)
            for a, b in zip(stream_features(model, streams), stream_features(model, larger), strict=True)
        )
        assert same == separate


def test_separate_input_projections_with_equal_weights_equal_the_shared_one() -> None:
    streams, shared = make_streams(), make_model().eval()
    own = make_model(separate_input_projection=True).eval()
    own.load_state_dict(shared.state_dict(), strict=False)
    own.input_projections["motion"].load_state_dict(shared.encoders["joint"].input_projection.state_dict())  # type: ignore[union-attr]
    for found, expected in zip(stream_logits(own, streams), stream_logits(shared, streams), strict=True):
        translate.close(found, translate.array(expected))
