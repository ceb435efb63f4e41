"""Unit tests of tracks by body id, missing joints, and the `released` rules for persons."""

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
    """An upright body of 25 joints; a larger ``size`` gives more energy."""
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
    """Ids of the persons found, identified by their positions."""
    persons = find_persons(clip, NTU25, settings)
    ids = []
    for person in range(len(persons.present)):
        frame = int(np.argmax(persons.present[person]))
        same = (clip.frame == frame) & (clip.xyz == persons.xyz[person, frame]).all(axis=(1, 2))
        ids.append(int(clip.body[same][0]))
    return ids


def test_energy_is_the_sum_of_the_three_standard_deviations():
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
def test_a_frame_is_upright_if_its_width_is_less_than_0_8_of_its_height(width, height, upright):
    xyz = np.zeros((25, 3), np.float32)
    xyz[3], xyz[4] = (width, 0, 9), (0, height, -9)
    # float32(0.8) is slightly greater than 0.8, so that a width of 0.8 is at the limit in both precisions.
    assert is_upright(xyz, 0.8) is upright


def test_a_single_track_is_kept_even_if_it_is_not_upright():
    assert leading_ids(raw_clip({7: over(range(3), 1, wide=2, tall=0.3)}, 3)) == [7]


def test_persons_are_sorted_by_descending_energy_whatever_their_ids():
    clip = raw_clip({5: over(range(4), 1.0), 9: over(range(4), 1.5)}, 4)
    assert leading_ids(clip) == [9, 5]
    assert leading_ids(raw_clip({9: over(range(4), 1.0), 5: over(range(4), 1.5)}, 4)) == [5, 9]


def test_the_two_most_energetic_of_three_tracks_are_kept():
    assert leading_ids(
        raw_clip({1: over(range(4), 1.0), 2: over(range(4), 1.4), 3: over(range(4), 1.2)}, 4)
    ) == [2, 3]


def test_a_weak_track_that_is_not_upright_in_its_first_frame_is_dropped():
    lying = {2: body(0.5, wide=2.5, tall=0.3), 3: body(0.5, seed=3)}
    rising = {2: body(0.5, seed=2), 3: body(0.5, wide=2.5, tall=0.3)}
    leader = over(range(4), 2.0)
    assert leading_ids(raw_clip({1: leader, 2: lying}, 4)) == [1]
    assert leading_ids(raw_clip({1: leader, 2: rising}, 4)) == [1, 2]


def test_a_track_with_nearly_the_largest_energy_is_kept_even_if_not_upright():
    leader, lying = over(range(4), 1.0), over(range(4), 1.0, wide=1.6, tall=0.3)
    clip = raw_clip({1: leader, 2: lying}, 4)
    ratio = energy(clip.xyz[clip.body == 2], 0) / energy(clip.xyz[clip.body == 1], 0)
    kept = PreparationSettings(align="released", energy_ratio=min(ratio, 1 / ratio) - 0.01)
    dropped = PreparationSettings(align="released", energy_ratio=min(ratio, 1 / ratio) + 0.01)
    assert sorted(leading_ids(clip, kept)) == [1, 2]
    # The lying body has less energy here; otherwise nothing would be dropped.
    assert ratio < 1
    assert leading_ids(clip, dropped) == [1]


def test_the_third_track_replaces_a_dropped_one():
    tracks = {1: over(range(4), 2.0), 2: over(range(4), 1.0, wide=2.5, tall=0.3), 3: over(range(4), 0.5)}
    assert leading_ids(raw_clip(tracks, 4)) == [1, 3]


def test_tracks_of_equal_energy_are_sorted_by_first_frame_then_by_id():
    late, early = {2: body(1), 3: body(1, seed=1)}, {0: body(1), 1: body(1, seed=1)}
    assert leading_ids(raw_clip({4: late, 9: early}, 4)) == [9, 4]
    # A mirror image has exactly the energy of its original.
    mirrored = {frame: xyz * (-1, 1, 1) for frame, xyz in early.items()}
    for ids in ((8, 3), (3, 8)):
        assert leading_ids(raw_clip(dict(zip(ids, (early, mirrored), strict=True)), 4)) == [3, 8]


def test_an_id_that_occurs_twice_in_a_frame_is_two_tracks():
    one, two = over(range(3), 1.0), over(range(3), 1.5)
    detections = [(frame, 6, xyz) for frame in range(3) for xyz in (one[frame], two[frame])]
    (first, second), *_ = split_tracks(raw_clip(detections, 3))
    assert first.frame.tolist() == second.frame.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(first.xyz, np.float32([one[frame] for frame in range(3)]))
    np.testing.assert_array_equal(second.xyz, np.float32([two[frame] for frame in range(3)]))


def test_frames_without_the_person_remain_absent():
    persons = find_persons(raw_clip({1: over((0, 1, 5), 1)}, 8), NTU25, SETTINGS)
    assert persons.present.tolist() == [[True, True, False, False, False, True, False, False]]
    assert not persons.xyz[0, 2:5].any()
    assert not persons.state[0, 2:5].any()
    np.testing.assert_array_equal(persons.xyz[0, 5], np.float32(body(1, seed=5)))


def test_the_order_of_bodies_in_a_frame_does_not_matter():
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


def test_a_person_is_absent_in_frames_of_zeros():
    seen = over(range(4), 1)
    seen[0] = seen[2] = np.zeros((25, 3))
    persons = find_persons(raw_clip({1: seen}, 4), NTU25, SETTINGS)
    assert persons.present.tolist() == [[False, True, False, True]]
    assert persons.interpolated == 0


def test_a_clip_of_only_zeros_has_no_body():
    with pytest.raises(RawFormatError, match="no body"):
        find_persons(raw_clip({1: {0: np.zeros((25, 3))}}, 2), NTU25, SETTINGS)


def test_a_missing_joint_is_interpolated_over_time_and_constant_at_both_ends():
    xyz = np.random.default_rng(2).normal(size=(7, 20, 3)) + np.array((0, 0, 3))
    xyz[:, 6] = [(0, 0, 0), (1, 2, 3), (0, 0, 0), (0, 0, 0), (4, 2, 0), (0, 0, 0), (0, 0, 0)]
    # The person is absent in frame 3: interpolation is over time, not over rows.
    seen = {frame: xyz[frame] for frame in (0, 1, 2, 4, 5, 6)}
    persons = find_persons(raw_clip({1: seen}, 7), UCLA20, SETTINGS)
    expected = [(1, 2, 3), (1, 2, 3), (2, 2, 2), (0, 0, 0), (4, 2, 0), (4, 2, 0), (4, 2, 0)]
    np.testing.assert_allclose(persons.xyz[0, :, 6], expected, atol=1e-6)
    assert persons.state[0, :, 6].tolist() == [0, 2, 0, 0, 2, 0, 0]
    assert persons.interpolated == 4
    np.testing.assert_array_equal(persons.xyz[0, 4, :6], np.float32(xyz[4, :6]))


def test_a_joint_with_only_zero_depth_is_not_missing():
    xyz = np.random.default_rng(3).normal(size=(2, 20, 3)) + np.array((0, 0, 3))
    xyz[0, 4, 2] = 0
    persons = find_persons(raw_clip({1: dict(enumerate(xyz))}, 2), UCLA20, SETTINGS)
    np.testing.assert_array_equal(persons.xyz[0], xyz.astype(np.float32))
    assert persons.interpolated == 0


def test_a_joint_missing_in_all_frames_takes_the_position_of_its_nearest_valid_neighbour_and_is_noted():
    xyz = np.random.default_rng(4).normal(size=(3, 20, 3)) + np.array((0, 0, 3))
    # Right wrist and hand; the elbow (joint 10, counted from 1) is the nearest valid joint.
    xyz[:, [10, 11]] = 0
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
def test_fast_and_general_track_splitting_agree(most_ids):
    rng = np.random.default_rng(most_ids)
    for _ in range(20):
        detections = []
        for frame in np.sort(rng.integers(0, 12, 30)).tolist():
            xyz = rng.normal(size=(25, 3)) * rng.choice([0.0, 1.0], p=[0.1, 0.9])
            detections.append((frame, int(rng.integers(most_ids)), xyz))
        clip = raw_clip(detections, 12)
        assert tracks_as_lists(split_tracks(clip)[0]) == tracks_as_lists(split_many(clip))


def test_more_tracks_than_the_fast_splitting_supports_are_all_found():
    count = MOST_TRACKS + 1
    clip = raw_clip([(0, n, body(1, seed=n)) for n in range(count)], 1)
    assert [track.body for track in split_tracks(clip)[0]] == list(range(count))
    clip = raw_clip([(0, n, body(1, seed=n)) for n in range(count - 1)], 1)
    assert [track.body for track in split_tracks(clip)[0]] == list(range(count - 1))


def test_missing_joints_and_ignored_bodies_are_counted_for_any_number_of_tracks():
    for count in (3, MOST_TRACKS + 2):
        detections = [(0, n, body(1, seed=n)) for n in range(count)]
        detections[1][2][5] = np.nan
        detections[2][2][:13] = 0
        found = split_tracks(raw_clip(detections, 1))
        assert (len(found.tracks), found.missing, found.unseen) == (count - 1, True, 1)
