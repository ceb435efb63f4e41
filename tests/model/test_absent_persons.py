"""With ``skip``, absent persons affect neither the result of a clip nor the moments of batch norm."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.batches.streams import Batch, Stream
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.reading import open_store
from psptool.model.classifier import PSPNet
from psptool.schemas.training import ModelSettings, SamplingSettings
from tests.builtin import UCLA20

from ..stores import make_clip, write_ucla
from ..streams import stream_features, stream_logits, two
from . import translate

FRAMES = 8
SAMPLED = (0, 2, 4, 6)  # int(i * 8 / 4): the frames of a test batch with 4 frames
ALL = (True,) * FRAMES
NOT_SAMPLED = tuple(frame not in SAMPLED for frame in range(FRAMES))
SETTINGS = ModelSettings(channels=(4, 4), qk_channels=(2, 2), strides=(1, 2), heads=2)


def batcher(path: Path, clips: list[PreparedClip], absent_persons: str = "skip") -> Batcher:
    write_ucla(path, clips)
    with open_store(path) as store:
        ragged = RaggedClips.from_store(store, UCLA20, torch.device("cpu"))
    return Batcher(ragged, SamplingSettings(frames=len(SAMPLED)), absent_persons=absent_persons)


def make_streams(folder: Path, absent_persons: str) -> tuple[Batch, Batch]:
    """Two batches, without and with a second person in the first clip who is absent from all sampled frames."""
    other = make_clip("a02_s01_e00_v01", 2, [ALL, ALL])
    alone = [make_clip("a01_s01_e00_v01", 1, [ALL]), other]
    beside = [make_clip("a01_s01_e00_v01", 1, [ALL, NOT_SAMPLED]), other]
    chosen = torch.arange(2)
    return (
        batcher(folder / "alone.h5", alone, absent_persons).test(chosen),
        batcher(folder / "beside.h5", beside, absent_persons).test(chosen),
    )


def to_float64(streams: Batch) -> Batch:
    return two(*(Stream(s.x.double(), s.average.double()) for s in streams.values()))


def make_model() -> PSPNet:
    with translate.doubles(seed=21):
        model = PSPNet(SETTINGS, UCLA20, 10)
        translate.shuffle_weights(model)
    return model


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_an_absent_person_changes_neither_results_nor_batch_norm(tmp_path: Path, training: bool) -> None:
    streams = [to_float64(found) for found in make_streams(tmp_path, "skip")]
    models = [make_model().train(training)]
    models.append(copy.deepcopy(models[0]))
    results = []
    for model, some in zip(models, streams, strict=True):
        joint, _ = stream_features(model, some)
        vectors = model.embeddings(joint, some["joint"].average)
        results.append((*stream_logits(model, some), *vectors.values()))
    for alone, beside in zip(*results, strict=True):
        assert torch.equal(alone, beside)
    for alone, beside in zip(models[0].buffers(), models[1].buffers(), strict=True):
        assert torch.equal(alone, beside)


def test_with_zeros_as_in_the_original_empty_slots_change_results_and_batch_norm(tmp_path: Path) -> None:
    # Counterpart of the test above: shows that empty slots do have an effect if they are in the batch.
    zeros, _ = (to_float64(found) for found in make_streams(tmp_path, "zeros"))
    present, _ = (to_float64(found) for found in make_streams(tmp_path, "skip"))
    assert (len(present["joint"].x), len(zeros["joint"].x)) == (3, 4)
    one, other = make_model(), make_model()
    assert not torch.allclose(stream_logits(one, present)[0], stream_logits(other, zeros)[0])
    assert not torch.allclose(
        one.encoders["joint"].input_projection[1].running_mean,
        other.encoders["joint"].input_projection[1].running_mean,
    )


def test_the_average_of_a_clip_is_over_its_present_persons_only(tmp_path: Path) -> None:
    for streams in make_streams(tmp_path, "skip"):
        for stream in streams.values():
            assert stream.x.shape == (3, 3, len(SAMPLED), UCLA20.size)
            assert torch.equal(stream.average, torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]]))


def test_exchanging_a_clips_persons_changes_no_result(tmp_path: Path) -> None:
    clip = make_clip("a01_s01_e00_v01", 1, [ALL, ALL])
    exchanged = make_clip("a01_s01_e00_v01", 1, [ALL, ALL])
    exchanged.joint[:] = clip.joint[::-1]
    model, results = make_model().eval(), []
    for number, some in enumerate((clip, exchanged)):
        streams = to_float64(batcher(tmp_path / f"{number}.h5", [some]).test(torch.tensor([0])))
        results.append(stream_logits(model, streams))
    for expected, found in zip(*results, strict=True):
        translate.close(found, translate.array(expected))


def test_training_batches_contain_no_person_who_is_absent_from_all_sampled_frames(tmp_path: Path) -> None:
    clips = [make_clip("a01_s01_e00_v01", 1, [ALL, (*NOT_SAMPLED[:-1], False)])]
    made = batcher(tmp_path / "some.h5", clips)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(40):
        stream = made.train(torch.tensor([0]), generator)["joint"]
        assert stream.x.abs().sum((1, 2, 3)).min() > 0
        seen.add(len(stream.x))
    assert seen == {1, 2}, "both samples with and without the second person must occur"
