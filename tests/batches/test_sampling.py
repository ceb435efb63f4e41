"""Frame sampling: evenly spaced in testing, random in training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from psptool.data.batches.sampling import draw_crop, draw_frames, draw_released, uniform_frames
from psptool.schemas.training import SamplingSettings

COUNTS = (1, 2, 7, 31, 49, 50, 51, 75, 100, 201, 300)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_test_frames_equal_the_original_formula() -> None:
    found = uniform_frames(torch.tensor(COUNTS), 50)
    assert found.tolist() == [[int(i * count / 50) for i in range(50)] for count in COUNTS]


def test_released_sampling_selects_repeated_frames_without_replacement_in_order() -> None:
    found = draw_released(torch.tensor(COUNTS), 50, seeded())
    for count, frames in zip(COUNTS, found.tolist(), strict=True):
        assert len(frames) == 50
        assert frames == sorted(frames)
        assert set(frames) <= set(range(count))
        assert max(frames.count(frame) for frame in frames) <= math.ceil(50 / count)


@pytest.mark.parametrize("count", [1, 2, 5, 10, 25, 50])
def test_released_sampling_of_a_clip_whose_length_divides_the_frames_repeats_each_frame_equally(
    count: int,
) -> None:
    found = draw_released(torch.tensor([count, 300]), 50, seeded())[0].tolist()
    assert found == [frame for frame in range(count) for _ in range(50 // count)]


def test_released_sampling_selects_all_pairs_of_frames_with_the_same_probability() -> None:
    # 2 of 3 frames, in a batch with a longer clip, to which the rows are padded.
    draws = draw_released(torch.tensor([3] * 6000 + [9]), 2, seeded())[:6000]
    pairs = torch.bincount(draws[:, 0] * 3 + draws[:, 1], minlength=9) / 6000
    expected = torch.zeros(9)
    expected[[1, 2, 5]] = 1 / 3
    assert (pairs - expected).abs().max() < 0.03


def test_released_sampling_of_repeated_frames_has_the_hypergeometric_distribution() -> None:
    # 5 of the frames 0 0 1 1 2 2 are selected, so each frame occurs only once in a third of the samples.
    draws = draw_released(torch.full((6000,), 3), 5, seeded())
    single = torch.stack([(draws == frame).sum(1) == 1 for frame in range(3)]).float().mean(1)
    assert (single - 1 / 3).abs().max() < 0.03


@pytest.mark.parametrize("shortest", [0.0, 0.6, 1.0])
def test_frames_of_a_crop_are_in_order_and_within_the_clip(shortest: float) -> None:
    counts = torch.tensor(COUNTS * 200)
    found = draw_crop(counts, 50, shortest, seeded())
    assert found.shape == (len(counts), 50)
    assert bool((found[:, 1:] >= found[:, :-1]).all())
    assert bool((found >= 0).all())
    assert bool((found < counts[:, None]).all())


@pytest.mark.parametrize("shortest", [0.3, 1.0])
def test_a_crop_is_within_the_clip_even_if_float32_rounds_up_to_its_end(
    shortest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 1 - 2**-24  # the largest random number in float32
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, largest))
    assert draw_crop(torch.tensor(COUNTS), 50, shortest, seeded())[:, -1].tolist() == [n - 1 for n in COUNTS]


def spans(count: int, frames: int, shortest: float) -> Tensor:
    drawn = draw_crop(torch.full((4000,), count), frames, shortest, seeded())
    return drawn[:, -1] - drawn[:, 0]


def test_the_length_of_a_crop_is_between_the_configured_share_and_the_whole_clip() -> None:
    # The first and the last frame are within one interval, a hundredth of the crop, of its ends.
    found = spans(10_000, 100, 0.6)
    assert 0.98 * 6000 - 1 <= found.min() < 6100
    assert 9800 < found.max() < 10_000
    assert found.float().mean() == pytest.approx(0.99 * 8000, rel=0.02)


def test_a_crop_of_share_one_has_one_frame_in_each_interval_of_the_whole_clip() -> None:
    found = draw_crop(torch.full((300,), 1000), 50, 1.0, seeded())
    assert bool((found // 20 == torch.arange(50)).all())
    assert len(found[:, 0].unique()) == 20  # random over the whole interval


def test_crops_are_at_any_position_in_the_clip() -> None:
    drawn = draw_crop(torch.full((4000,), 10_000), 100, 0.5, seeded())
    assert drawn[:, 0].min() < 150
    assert drawn[:, -1].max() > 9850
    middle = (drawn[:, 0] + drawn[:, -1]).float().mean() / 2
    assert middle == pytest.approx(5000, rel=0.02)


@pytest.mark.parametrize("draw", ["released", "crop"])
def test_a_clip_of_one_frame_is_sampled_as_repetitions_of_it(draw: str) -> None:
    settings = SamplingSettings(frames=8, draw=draw)  # type: ignore[arg-type]
    assert not draw_frames(torch.tensor([1, 1]), settings, seeded()).any()


@pytest.mark.parametrize("draw", ["released", "crop"])
def test_sampling_depends_only_on_the_generator_state(draw: str) -> None:
    settings, counts = SamplingSettings(frames=8, draw=draw), torch.tensor(COUNTS)  # type: ignore[arg-type]
    first, again, other = (draw_frames(counts, settings, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_settings_select_the_sampling_method_and_the_minimum_crop() -> None:
    counts = torch.tensor([200] * 5)
    crop = SamplingSettings(frames=8, draw="crop", crop=0.3)
    assert torch.equal(draw_frames(counts, crop, seeded()), draw_crop(counts, 8, 0.3, seeded()))
    released = SamplingSettings(frames=8, draw="released")
    assert torch.equal(draw_frames(counts, released, seeded()), draw_released(counts, 8, seeded()))


def test_a_crop_equals_its_formula() -> None:
    counts, frames, shortest = torch.tensor([40, 300]), 6, 0.5
    found = draw_crop(counts, frames, shortest, seeded())
    generator = seeded()
    u_length, u_start = torch.rand(2, generator=generator), torch.rand(2, generator=generator)
    u_within = torch.rand(2, frames, generator=generator)
    for n, count in enumerate(counts.tolist()):
        length = count * (shortest + (1 - shortest) * float(u_length[n]))
        start = (count - length) * float(u_start[n])
        for i in range(frames):
            position = start + (i + float(u_within[n, i])) / frames * length
            assert abs(int(found[n, i]) - min(int(position), count - 1)) <= (
                position % 1 < 1e-4 or position % 1 > 0.9999
            )
