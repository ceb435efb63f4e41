"""Which frames a clip gives: at test evenly spaced ones, at training a draw."""

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


def test_test_frames_are_the_released_formula_written_out() -> None:
    found = uniform_frames(torch.tensor(COUNTS), 50)
    assert found.tolist() == [[int(i * count / 50) for i in range(50)] for count in COUNTS]


def test_released_draw_takes_slots_of_repeated_frames_without_replacement_in_order() -> None:
    found = draw_released(torch.tensor(COUNTS), 50, seeded())
    for count, frames in zip(COUNTS, found.tolist(), strict=True):
        assert len(frames) == 50
        assert frames == sorted(frames)
        assert set(frames) <= set(range(count))
        assert max(frames.count(frame) for frame in frames) <= math.ceil(50 / count)


@pytest.mark.parametrize("count", [1, 2, 5, 10, 25, 50])
def test_released_draw_of_a_clip_that_fits_evenly_takes_every_slot(count: int) -> None:
    found = draw_released(torch.tensor([count, 300]), 50, seeded())[0].tolist()
    assert found == [frame for frame in range(count) for _ in range(50 // count)]


def test_released_draw_gives_every_slot_the_same_chance() -> None:
    # 2 of 3 frames, 1 of 3 twice over, beside a longer clip that pads their row.
    draws = draw_released(torch.tensor([3] * 6000 + [9]), 2, seeded())[:6000]
    pairs = torch.bincount(draws[:, 0] * 3 + draws[:, 1], minlength=9) / 6000
    expected = torch.zeros(9)
    expected[[1, 2, 5]] = 1 / 3
    assert (pairs - expected).abs().max() < 0.03


def test_released_draw_of_repeated_frames_has_the_hypergeometric_shares() -> None:
    # Frames 0 0 1 1 2 2, of which 5 are taken: one slot of six stays out, so each frame is single in a third.
    draws = draw_released(torch.full((6000,), 3), 5, seeded())
    single = torch.stack([(draws == frame).sum(1) == 1 for frame in range(3)]).float().mean(1)
    assert (single - 1 / 3).abs().max() < 0.03


@pytest.mark.parametrize("shortest", [0.0, 0.6, 1.0])
def test_crop_is_in_order_and_within_the_clip(shortest: float) -> None:
    counts = torch.tensor(COUNTS * 200)
    found = draw_crop(counts, 50, shortest, seeded())
    assert found.shape == (len(counts), 50)
    assert bool((found[:, 1:] >= found[:, :-1]).all())
    assert bool((found >= 0).all())
    assert bool((found < counts[:, None]).all())


@pytest.mark.parametrize("shortest", [0.3, 1.0])
def test_crop_stays_within_the_clip_where_float32_rounds_up_to_its_end(
    shortest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 1 - 2**-24  # the largest random number in float32
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, largest))
    assert draw_crop(torch.tensor(COUNTS), 50, shortest, seeded())[:, -1].tolist() == [n - 1 for n in COUNTS]


def spans(count: int, frames: int, shortest: float) -> Tensor:
    drawn = draw_crop(torch.full((4000,), count), frames, shortest, seeded())
    return drawn[:, -1] - drawn[:, 0]


def test_crop_spans_at_least_the_stated_share_and_at_most_the_clip() -> None:
    # The first and the last frame lie each within a stretch, a hundredth of the crop, of its ends.
    found = spans(10_000, 100, 0.6)
    assert 0.98 * 6000 - 1 <= found.min() < 6100
    assert 9800 < found.max() < 10_000
    assert found.float().mean() == pytest.approx(0.99 * 8000, rel=0.02)


def test_crop_of_share_one_takes_one_frame_of_each_stretch_of_the_whole_clip() -> None:
    found = draw_crop(torch.full((300,), 1000), 50, 1.0, seeded())
    assert bool((found // 20 == torch.arange(50)).all())
    assert len(found[:, 0].unique()) == 20  # jittered all over the stretch


def test_crop_lies_anywhere_in_the_clip() -> None:
    drawn = draw_crop(torch.full((4000,), 10_000), 100, 0.5, seeded())
    assert drawn[:, 0].min() < 150
    assert drawn[:, -1].max() > 9850
    middle = (drawn[:, 0] + drawn[:, -1]).float().mean() / 2
    assert middle == pytest.approx(5000, rel=0.02)


@pytest.mark.parametrize("draw", ["released", "crop"])
def test_a_single_frame_is_drawn_all_the_time(draw: str) -> None:
    settings = SamplingSettings(frames=8, draw=draw)  # type: ignore[arg-type]
    assert not draw_frames(torch.tensor([1, 1]), settings, seeded()).any()


@pytest.mark.parametrize("draw", ["released", "crop"])
def test_the_same_state_draws_the_same_and_another_one_does_not(draw: str) -> None:
    settings, counts = SamplingSettings(frames=8, draw=draw), torch.tensor(COUNTS)  # type: ignore[arg-type]
    first, again, other = (draw_frames(counts, settings, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_settings_choose_the_draw_and_its_share() -> None:
    counts = torch.tensor([200] * 5)
    crop = SamplingSettings(frames=8, draw="crop", crop=0.3)
    assert torch.equal(draw_frames(counts, crop, seeded()), draw_crop(counts, 8, 0.3, seeded()))
    released = SamplingSettings(frames=8, draw="released")
    assert torch.equal(draw_frames(counts, released, seeded()), draw_released(counts, 8, seeded()))


def test_a_crop_is_the_formula_written_out() -> None:
    counts, frames, shortest = torch.tensor([40, 300]), 6, 0.5
    found = draw_crop(counts, frames, shortest, seeded())
    drawn = seeded()
    u_length, u_start = torch.rand(2, generator=drawn), torch.rand(2, generator=drawn)
    u_within = torch.rand(2, frames, generator=drawn)
    for n, count in enumerate(counts.tolist()):
        length = count * (shortest + (1 - shortest) * float(u_length[n]))
        start = (count - length) * float(u_start[n])
        for i in range(frames):
            moved = start + (i + float(u_within[n, i])) / frames * length
            assert abs(int(found[n, i]) - min(int(moved), count - 1)) <= (
                moved % 1 < 1e-4 or moved % 1 > 0.9999
            )
