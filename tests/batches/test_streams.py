"""Definitions of the streams, and batches with the configured streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.batches.streams import STREAMS, bone_vectors, take
from psptool.data.store.reading import Store, open_store
from psptool.schemas.training import AugmentSettings, SamplingSettings, StreamName, StreamSettings
from psptool.skeletons.topology import Topology
from tests.builtin import NTU25, UCLA20

from ..stores import make_clip, write_ucla

ALL, HALF = (True,) * 6, (True, True, False, False, True, True)
SIX = SamplingSettings(frames=6)
THREE = StreamSettings(names=("joint", "motion", "bone"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    clips = [make_clip("a01_s01_e00_v01", 1, [ALL]), make_clip("a02_s01_e00_v01", 2, [ALL, HALF])]
    write_ucla(tmp_path / "u.h5", clips)
    with open_store(tmp_path / "u.h5") as opened:
        yield opened


@pytest.fixture
def clips(store: Store) -> RaggedClips:
    return RaggedClips.from_store(store, UCLA20, torch.device("cpu"))


def literal_bones(x: np.ndarray, topology: Topology) -> np.ndarray:
    """Each joint minus its parent, joint by joint; (..., V, 3)."""
    parents = {child: parent for parent, child in topology.bones}
    bones = np.zeros_like(x)
    for joint in range(topology.size):
        if joint in parents:
            bones[..., joint, :] = x[..., joint, :] - x[..., parents[joint], :]
    return bones


def test_every_name_of_the_configuration_has_a_definition() -> None:
    assert set(STREAMS) == set(get_args(StreamName))


@pytest.mark.parametrize("motion", ["recorded", "drawn"])
def test_a_definition_has_code_and_description_for_the_model_card(motion: str) -> None:
    settings = StreamSettings.model_validate({"motion": motion})
    for name, definition in STREAMS.items():
        assert f"{name} =" in definition.code(settings) or f"{name}, " in definition.code(settings)
        assert definition.content(settings)


@pytest.mark.parametrize("topology", [NTU25, UCLA20], ids=["ntu25", "ucla20"])
def test_bones_are_joints_minus_their_parents_and_the_bone_of_the_root_is_zero(topology: Topology) -> None:
    x = torch.randn(3, 4, topology.size, 3, generator=torch.Generator().manual_seed(0))
    found = bone_vectors(x, topology.bones)
    np.testing.assert_array_equal(found.numpy(), literal_bones(x.numpy(), topology))
    assert not found[:, :, topology.center].any()
    assert all(found[:, :, joint].any() for joint in range(topology.size) if joint != topology.center)


@pytest.mark.parametrize("origin", ["clip", "frame"])
def test_the_bone_stream_equals_the_bones_of_the_stored_positions_for_every_origin(
    store: Store, clips: RaggedClips, origin: str
) -> None:
    streams = StreamSettings.model_validate({"names": ("bone",), "origin": origin})
    batch = Batcher(clips, SIX, streams=streams).test(torch.tensor([1, 0]))
    assert list(batch) == ["bone"]
    expected = literal_bones(np.concatenate([store.clip(1).joint, store.clip(0).joint]), UCLA20)
    np.testing.assert_array_equal(batch["bone"].x.permute(0, 2, 3, 1).numpy(), expected)
    assert not batch["bone"].x[1, :, [2, 3]].any(), (
        "must be zero in frames in which the second person is absent"
    )


def test_augmented_bones_are_the_bones_of_the_augmented_positions(clips: RaggedClips) -> None:
    changes = AugmentSettings(yaw=40, pitch_roll=20, shear=0.2, scale=0.2, mirror=0.5, shared=True)
    sampling, chosen = SamplingSettings(frames=6, shared=True), torch.tensor([0, 1] * 4)
    streams = StreamSettings(names=("joint", "bone"))
    batch = Batcher(clips, sampling, changes, streams=streams).train(chosen, torch.Generator().manual_seed(3))
    joint, bone = (batch[name].x.permute(0, 2, 3, 1).numpy() for name in ("joint", "bone"))
    np.testing.assert_allclose(bone, literal_bones(joint, UCLA20), atol=1e-5)
    assert np.abs(bone).max() > 0.1


@pytest.mark.parametrize("train", [False, True], ids=["test", "train"])
def test_a_batch_has_the_configured_streams_in_the_configured_order(clips: RaggedClips, train: bool) -> None:
    streams = StreamSettings(names=("bone", "motion", "joint"))
    batcher = Batcher(clips, SIX, streams=streams)
    chosen = torch.tensor([0, 1])
    batch = batcher.train(chosen, torch.Generator().manual_seed(0)) if train else batcher.test(chosen)
    assert list(batch) == ["bone", "motion", "joint"]


def test_an_additional_stream_does_not_change_the_random_values_of_the_others(clips: RaggedClips) -> None:
    sampling = SamplingSettings(frames=4, draw="crop")
    changes = AugmentSettings(yaw=40, mask_joints=0.3)

    def batch(streams: StreamSettings) -> dict[str, torch.Tensor]:
        made = Batcher(clips, sampling, changes, streams=streams)
        found = made.train(torch.tensor([0, 1]), torch.Generator().manual_seed(1))
        return {name: stream.x for name, stream in found.items()}

    two, three = batch(StreamSettings()), batch(THREE)
    assert list(two) == ["joint", "motion"]
    assert all(torch.equal(x, three[name]) for name, x in two.items())


def test_take_selects_the_clips_in_every_stream(clips: RaggedClips) -> None:
    batcher = Batcher(clips, SIX, streams=THREE)
    found, expected = (
        take(batcher.test(torch.tensor([0, 1])), torch.tensor([1])),
        batcher.test(torch.tensor([1])),
    )
    assert list(found) == list(expected) == list(THREE.names)
    for name, stream in expected.items():
        assert torch.equal(found[name].x, stream.x)
        assert torch.equal(found[name].average, stream.average)
