"""Tracks by body id, missing joints, and the `released` rules for who is a person: each alone."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from psptool.common.errors import RawFormatError
from psptool.preparation.kernel import MOST_TRACKS, energy
from psptool.preparation.selection import find_persons, is_upright
from psptool.preparation.tracks import split_many, split_tracks
from psptool.schemas.dataset import PreparationSettings
from tests.builtin import NTU25, UCLA20
from tests.prepare.raw import raw_clip

SETTINGS = PreparationSettings()
RELEASED = PreparationSettings(align="released")


def body(size, seed=0, wide=0.3, tall=1.6):
    """An upright body of 25 joints, spread by ``size`` times more: the larger, the more energetic."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-0.5, 0.5, (25, 3)) * (wide, tall, 0.2) * size
    xyz[1], xyz[2] = (
        np.array([-0.5 * wide, -0.5 * tall, 0]) * size,
        np.array([0.5 * wide, 0.5 * tall, 0]) * size,
    )
    return xyz + np.array((0.1, 0.2, 3))


def over(frames, size, **options):
    return {frame: body(size, seed=frame, **options) for frame in frames}


def leading_ids(clip, settings=RELEASED):
    """Ids of the persons found, told by their positions."""
    persons = find_persons(clip, NTU25, settings)
    ids = []
    for person in range(len(persons.present)):
        frame = int(np.argmax(persons.present[person]))
        same = (clip.frame == frame) & (clip.xyz == persons.xyz[person, frame]).all(axis=(1, 2))
        ids.append(int(clip.body[same][0]))
    return ids


def test_energy_is_the_literal_sum_of_three_standard_deviations():
    xyz = np.random.default_rng(0).normal(size=(4, 25, 3)).astype(np.float32)
    literal = sum(
        statistics.pstdev(
            float(xyz[t, v, axis]) - float(xyz[t, 0, axis]) for t in range(4) for v in range(25)
        )
        for axis in range(3)
    )
    assert energy(xyz, 0) == pytest.approx(literal, rel=1e-12)


@pytest.mark.parametrize(
    ("width", "height", "upright"),
    [(0.75, 1, True), (0.8, 1, False), (0.85, 1, False), (1, 0.5, False), (0, 0, False)],
)
def test_upright_means_that_eight_tenths_of_the_height_exceed_the_width(width, height, upright):
    xyz = np.zeros((25, 3), np.float32)
    xyz[3], xyz[4] = (width, 0, 9), (0, height, -9)
    # 0.8 as float32 lies a little above 0.8, so that width 0.8 is no more than the bar in either precision.
    assert is_upright(xyz, 0.8) is upright


def test_a_single_track_is_kept_though_it_lies():
    assert leading_ids(raw_clip({7: over(range(3), 1, wide=2, tall=0.3)}, 3)) == [7]


def test_persons_come_most_energetic_first_whatever_their_ids_and_order():
    clip = raw_clip({5: over(range(4), 1.0), 9: over(range(4), 1.5)}, 4)
    assert leading_ids(clip) == [9, 5]
    assert leading_ids(raw_clip({9: over(range(4), 1.0), 5: over(range(4), 1.5)}, 4)) == [5, 9]


def test_of_three_tracks_the_two_most_energetic_stay():
    assert leading_ids(
        raw_clip({1: over(range(4), 1.0), 2: over(range(4), 1.4), 3: over(range(4), 1.2)}, 4)
    ) == [2, 3]


def test_a_weak_track_that_is_not_upright_in_its_first_frame_goes():
    lying = {2: body(0.5, wide=2.5, tall=0.3), 3: body(0.5, seed=3)}
    rising = {2: body(0.5, seed=2), 3: body(0.5, wide=2.5, tall=0.3)}
    leader = over(range(4), 2.0)
    assert leading_ids(raw_clip({1: leader, 2: lying}, 4)) == [1]
    assert leading_ids(raw_clip({1: leader, 2: rising}, 4)) == [1, 2]


def test_a_track_near_the_largest_energy_need_not_be_upright():
    leader, lying = over(range(4), 1.0), over(range(4), 1.0, wide=1.6, tall=0.3)
    clip = raw_clip({1: leader, 2: lying}, 4)
    ratio = energy(clip.xyz[clip.body == 2], 0) / energy(clip.xyz[clip.body == 1], 0)
    kept = PreparationSettings(align="released", energy_ratio=min(ratio, 1 / ratio) - 0.01)
    gone = PreparationSettings(align="released", energy_ratio=min(ratio, 1 / ratio) + 0.01)
    assert sorted(leading_ids(clip, kept)) == [1, 2]
    # The lying one is the weaker here; were it the stronger, nothing would be dropped.
    assert ratio < 1
    assert leading_ids(clip, gone) == [1]


def test_a_dropped_body_makes_room_for_the_third():
    tracks = {1: over(range(4), 2.0), 2: over(range(4), 1.0, wide=2.5, tall=0.3), 3: over(range(4), 0.5)}
    assert leading_ids(raw_clip(tracks, 4)) == [1, 3]


def test_equal_energies_are_told_apart_by_first_frame_then_by_id():
    late, early = {2: body(1), 3: body(1, seed=1)}, {0: body(1), 1: body(1, seed=1)}
    assert leading_ids(raw_clip({4: late, 9: early}, 4)) == [9, 4]
    # A mirror image has exactly the energy of its original.
    mirrored = {frame: xyz * (-1, 1, 1) for frame, xyz in early.items()}
    for ids in ((8, 3), (3, 8)):
        assert leading_ids(raw_clip(dict(zip(ids, (early, mirrored), strict=True)), 4)) == [3, 8]


def test_an_id_that_stands_twice_in_a_frame_is_two_tracks():
    one, two = over(range(3), 1.0), over(range(3), 1.5)
    detections = [(frame, 6, xyz) for frame in range(3) for xyz in (one[frame], two[frame])]
    (first, second), *_ = split_tracks(raw_clip(detections, 3))
    assert first.frame.tolist() == second.frame.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(first.xyz, np.float32([one[frame] for frame in range(3)]))
    np.testing.assert_array_equal(second.xyz, np.float32([two[frame] for frame in range(3)]))


def test_a_gap_in_time_stays_a_gap():
    persons = find_persons(raw_clip({1: over((0, 1, 5), 1)}, 8), NTU25, SETTINGS)
    assert persons.present.tolist() == [[True, True, False, False, False, True, False, False]]
    assert not persons.xyz[0, 2:5].any()
    assert not persons.state[0, 2:5].any()
    np.testing.assert_array_equal(persons.xyz[0, 5], np.float32(body(1, seed=5)))


def test_the_order_of_bodies_in_a_frame_changes_nothing():
    rng = np.random.default_rng(1)
    tracks = {7: over(range(6), 1.0), 5: over(range(1, 6), 1.3), 6: over((0, 2, 3), 1.2)}
    detections = sorted(
        ((frame, who, xyz) for who, seen in tracks.items() for frame, xyz in seen.items()),
        key=lambda d: d[:2],
    )
    expected = find_persons(raw_clip(detections, 6), NTU25, SETTINGS)
    for _ in range(10):
        order = sorted(rng.permutation(len(detections)).tolist(), key=lambda n: detections[n][0])
        found = find_persons(raw_clip([detections[n] for n in order], 6), NTU25, SETTINGS)
        np.testing.assert_array_equal(found.xyz, expected.xyz)
        np.testing.assert_array_equal(found.present, expected.present)


def test_a_body_of_zeros_is_an_absent_frame():
    seen = over(range(4), 1)
    seen[0] = seen[2] = np.zeros((25, 3))
    persons = find_persons(raw_clip({1: seen}, 4), NTU25, SETTINGS)
    assert persons.present.tolist() == [[False, True, False, True]]
    assert persons.interpolated == 0


def test_a_clip_of_zeros_alone_has_no_body():
    with pytest.raises(RawFormatError, match="no body"):
        find_persons(raw_clip({1: {0: np.zeros((25, 3))}}, 2), NTU25, SETTINGS)


def test_a_missing_joint_is_interpolated_over_time_and_held_at_the_ends():
    xyz = np.random.default_rng(2).normal(size=(7, 20, 3)) + np.array((0, 0, 3))
    xyz[:, 6] = [(0, 0, 0), (1, 2, 3), (0, 0, 0), (0, 0, 0), (4, 2, 0), (0, 0, 0), (0, 0, 0)]
    # Frame 3 is not there at all: interpolation follows time, not rows.
    seen = {frame: xyz[frame] for frame in (0, 1, 2, 4, 5, 6)}
    persons = find_persons(raw_clip({1: seen}, 7), UCLA20, SETTINGS)
    expected = [(1, 2, 3), (1, 2, 3), (2, 2, 2), (0, 0, 0), (4, 2, 0), (4, 2, 0), (4, 2, 0)]
    np.testing.assert_allclose(persons.xyz[0, :, 6], expected, atol=1e-6)
    assert persons.state[0, :, 6].tolist() == [0, 2, 0, 0, 2, 0, 0]
    assert persons.interpolated == 4
    np.testing.assert_array_equal(persons.xyz[0, 4, :6], np.float32(xyz[4, :6]))


def test_a_joint_that_is_zero_in_depth_alone_is_not_missing():
    xyz = np.random.default_rng(3).normal(size=(2, 20, 3)) + np.array((0, 0, 3))
    xyz[0, 4, 2] = 0
    persons = find_persons(raw_clip({1: dict(enumerate(xyz))}, 2), UCLA20, SETTINGS)
    np.testing.assert_array_equal(persons.xyz[0], xyz.astype(np.float32))
    assert persons.interpolated == 0


def test_a_joint_missing_throughout_is_put_at_its_nearest_seen_neighbour_and_noted():
    xyz = np.random.default_rng(4).normal(size=(3, 20, 3)) + np.array((0, 0, 3))
    xyz[:, [10, 11]] = 0  # right wrist and hand; the elbow (joint 10 from 1) is the nearest that is seen
    persons = find_persons(raw_clip({1: dict(enumerate(xyz))}, 3), UCLA20, SETTINGS)
    np.testing.assert_array_equal(persons.xyz[0, :, 10], np.float32(xyz[:, 9]))
    np.testing.assert_array_equal(persons.xyz[0, :, 11], np.float32(xyz[:, 9]))
    assert persons.interpolated == 6
    assert not persons.state[0, :, 10:12].any()
    assert [note.split("'")[1] for note in persons.notes[1:]] == ["right wrist", "right hand"]
    assert persons.notes[0].startswith("6 missing joints")


def tracks_as_lists(tracks):
    return [(track.body, track.frame.tolist(), track.xyz.tolist(), track.state.tolist()) for track in tracks]


@pytest.mark.parametrize("most_ids", [1, 3, 40])
def test_the_quick_and_the_literal_way_to_split_tracks_agree(most_ids):
    rng = np.random.default_rng(most_ids)
    for _ in range(20):
        detections = []
        for frame in np.sort(rng.integers(0, 12, 30)).tolist():
            xyz = rng.normal(size=(25, 3)) * rng.choice([0.0, 1.0], p=[0.1, 0.9])
            detections.append((frame, int(rng.integers(most_ids)), xyz))
        clip = raw_clip(detections, 12)
        assert tracks_as_lists(split_tracks(clip)[0]) == tracks_as_lists(split_many(clip))


def test_more_tracks_than_the_quick_way_knows_are_all_found():
    count = MOST_TRACKS + 1
    clip = raw_clip([(0, n, body(1, seed=n)) for n in range(count)], 1)
    assert [track.body for track in split_tracks(clip)[0]] == list(range(count))
    clip = raw_clip([(0, n, body(1, seed=n)) for n in range(count - 1)], 1)
    assert [track.body for track in split_tracks(clip)[0]] == list(range(count - 1))
