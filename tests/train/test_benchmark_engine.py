"""The benchmark's plain engine computes the same loss and gradients as psptool."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from psptool.data.batches.streams import Stream
from psptool.losses.total import total_loss
from psptool.model.classifier import PSPNet
from psptool.schemas.training import ModelSettings
from tests.builtin import NTU25

from ..streams import two


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "workflows" / "benchmarks"))
    yield
    for name in ("plain_engine", "train"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("by_index", [False, True])
def test_loss_and_gradients_equal_those_of_psptool(benchmarks, by_index):
    import train as benchmark
    from plain_engine import PlainNet

    from psptool.data.batches.ragged import Batcher

    settings = ModelSettings(channels=(8, 16), qk_channels=(2, 4), strides=(1, 2), heads=2, polymerize="raw")
    config = benchmark.recipe(absent="zeros").model_copy(update={"model": settings})
    clips = benchmark.make_clips(6, 25, torch.device("cpu"))
    streams = Batcher(clips, config.sampling, absent_persons="zeros").test(torch.arange(6))
    # float64, because batch norm of nearly constant channels amplifies rounding errors.
    streams = two(*(Stream(s.x.double(), s.average.double()) for s in streams.values()))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = PSPNet(settings, NTU25, benchmark.CLASSES).double().train()
    plain = PlainNet(settings, NTU25, benchmark.CLASSES, by_index).double().train()
    plain.load_state_dict(model.state_dict())
    ours = total_loss(model, streams, clips.label[:2], config, torch.float32)["loss"]
    joint, motion = (x.unflatten(0, (-1, 2)) for x in (streams["joint"].x, streams["motion"].x))
    theirs = plain.loss(joint, motion, clips.label, 2)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=0, check_dtype=False)
    ours.backward()
    theirs.backward()
    for name in (
        "encoders.joint.blocks.1.global_attention",
        "pyramid.attentions.body.query_key_value.weight",
    ):
        found, expected = (dict(net.named_parameters())[name].grad for net in (plain, model))
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4 * float(expected.abs().max()))
