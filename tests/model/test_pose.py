"""The pose branch compared with its literal formulas, and its effect on the rest of the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psptool.common.errors import PspError
from psptool.model.classifier import PSPNet
from psptool.model.pose import PoseBranch, poses
from psptool.schemas.training import ModelSettings
from tests.builtin import UCLA20

from ..streams import stream_logits
from . import literal, translate
from .literal import Array
from .test_classifier import CLASSES, OWNER, SETTINGS, make_model, make_streams

JOINTS, FRAMES = 2, 5


def test_one_frame_of_one_person_is_an_error_in_training_only() -> None:
    module, one = (
        PoseBranch(JOINTS, width=3, dropout=0.0),
        torch.randn(1, 3, 4, JOINTS),
    )  # 4 frames, pooled to 1
    with pytest.raises(PspError, match=r"one value per channel.*Raise optim\.labelled_batch"):
        module(one)
    assert module.eval()(one).isfinite().all()


def literal_poses(x: Array) -> Array:
    persons, _, frames, joints = x.shape
    y = np.zeros((persons, 6 * joints, frames, 1))
    for p, c, t, v in np.ndindex(x.shape):
        y[p, c * joints + v, t, 0] = x[p, c, t, v]
        if 0 < t < frames - 1:
            y[p, (3 + c) * joints + v, t, 0] = x[p, c, t + 1, v] - x[p, c, t - 1, v]
    return y


def literal_branch(module: PoseBranch, x: Array, training: bool) -> Array:
    norm, conv, next_norm, _ = module.input_projection
    y = literal.batch_norm(literal_poses(x), translate.norm(norm), training)
    y = np.maximum(
        literal.batch_norm(literal.conv(y, translate.conv(conv)), translate.norm(next_norm), training), 0
    )
    for number, block in enumerate(module.blocks):
        if number:  # maximum of two frames; with an odd number, the last is used alone
            y = np.stack([y[:, :, t : t + 2].max(axis=2) for t in range(0, y.shape[2], 2)], axis=2)
        first, first_norm, _, _, second, second_norm = block
        z = np.maximum(
            literal.batch_norm(literal.conv(y, translate.conv(first)), translate.norm(first_norm), training),
            0,
        )
        z = literal.batch_norm(literal.conv(z, translate.conv(second)), translate.norm(second_norm), training)
        y = np.maximum(y + z, 0)
    return np.concatenate([y.max(axis=(2, 3)), y.mean(axis=(2, 3))], axis=1)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_branch_equals_its_formulas(training: bool) -> None:
    with translate.doubles(seed=3):
        module = PoseBranch(JOINTS, width=3, dropout=0.0).train(training)
        translate.shuffle_weights(module)
        x = torch.randn(4, 3, FRAMES, JOINTS)
    expected = literal_branch(module, translate.array(x), training)
    translate.close(module(x), expected)


def test_differences_of_a_single_frame_are_zero() -> None:
    x = torch.randn(2, 3, 1, JOINTS)
    translate.close(poses(x).double(), literal_poses(translate.array(x)))


def test_the_branch_adds_its_logits_to_those_of_the_joint_stream_only() -> None:
    model, streams = make_model(pose_width=3, pose_dropout=0.0), make_streams()
    bare = PSPNet(SETTINGS, UCLA20, CLASSES).double()
    bare.load_state_dict({name: x for name, x in model.state_dict().items() if name in bare.state_dict()})
    features = literal_branch(model.pose_branch.eval(), translate.array(streams["joint"].x), training=False)
    clip_features = np.stack([features[np.equal(OWNER, clip)].mean(axis=0) for clip in range(3)])
    weight, bias = (translate.array(p) for p in model.pose_classifier.parameters())
    joint, motion = stream_logits(model.eval(), streams)
    bare_joint, bare_motion = stream_logits(bare.eval(), streams)
    translate.close(joint - bare_joint, clip_features @ weight.T + bias)
    translate.close(motion, translate.array(bare_motion))


def test_a_seed_initializes_the_same_encoder_with_and_without_the_branch() -> None:
    def encoder(width: int) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            settings = SETTINGS.model_copy(update={"pose_width": width})
            return PSPNet(settings, UCLA20, CLASSES, contrast=False).state_dict()

    bare, full = encoder(0), encoder(4)
    assert set(full) - set(bare) == {name for name in full if name.startswith("pose_")} != set()
    assert all(torch.equal(full[name], x) for name, x in bare.items())


def test_dropout_of_the_branch_is_active_in_training_only() -> None:
    model, plain = make_model(pose_width=8, pose_dropout=0.9), make_model(pose_width=8, pose_dropout=0.0)
    streams = make_streams()
    for mine, theirs in zip(
        stream_logits(plain.eval(), streams), stream_logits(model.eval(), streams), strict=True
    ):
        translate.close(theirs, translate.array(mine))
    with torch.random.fork_rng():
        assert not torch.allclose(
            stream_logits(plain.train(), streams)[0], stream_logits(model.train(), streams)[0]
        )


@pytest.mark.parametrize(
    ("changes", "random"),
    [
        ({}, False),
        ({"dropout": 0.1}, True),
        ({"pose_width": 8}, True),
        ({"pose_width": 8, "pose_dropout": 0.0}, False),
    ],
)
def test_uses_randomness_is_true_with_any_dropout(changes: dict[str, float], random: bool) -> None:
    assert ModelSettings.model_validate(changes).uses_randomness == random
