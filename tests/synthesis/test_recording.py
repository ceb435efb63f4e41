"""Recordings: determined by name and seed, the same movement for all cameras, and sensor faults."""

from __future__ import annotations

import numpy as np
import pytest

from psptool.formats.synthesis.actions import NTU_ACTIONS
from psptool.formats.synthesis.recording import Faults, record

WAVE = "S001C001P003R001A023"
PUNCH = "S001C001P003R001A050"


def _same(a, b) -> bool:
    return a.xyz.tobytes() == b.xyz.tobytes() and a.body.tobytes() == b.body.tobytes()


def _between_joints(recording) -> np.ndarray:
    """Distances between all joints of each detection, which do not depend on the camera."""
    return np.linalg.norm(recording.xyz[:, :, None] - recording.xyz[:, None], axis=-1)


def test_recordings_are_determined_by_name_and_seed():
    assert _same(record(WAVE, seed=3), record(WAVE, seed=3))
    assert not _same(record(WAVE, seed=3), record(WAVE, seed=4))
    assert not _same(record(WAVE), record("S001C001P003R002A023"))


def test_three_cameras_record_the_same_movement_from_the_front_the_side_and_between():
    clips = [record(f"S001C{c:03d}P003R001A023", faults=Faults.none()) for c in (1, 2, 3)]
    for other in clips[1:]:
        assert _between_joints(other) == pytest.approx(_between_joints(clips[0]))
    across = [np.abs(c.xyz[0, 4] - c.xyz[0, 8]) for c in clips]
    front, side = across[1], across[2]
    assert front[0] > 2 * front[2]
    assert side[2] > side[0]


def test_the_camera_is_1_to_7_metres_away_and_persons_are_upright():
    for number in NTU_ACTIONS:
        xyz = record(f"S007C002P009R001A{number:03d}", faults=Faults.none()).xyz
        assert xyz[..., 2].min() > 1
        assert xyz[..., 2].max() < 7
        assert (xyz[:, 3, 1] > xyz[:, 0, 1]).mean() > 0.5


def test_limb_lengths_differ_between_subjects_and_are_constant_across_clips():
    def thigh(name):
        xyz = record(name, faults=Faults.none()).xyz
        return np.linalg.norm(xyz[0, 13] - xyz[0, 12])

    assert thigh("S001C001P003R001A023") == pytest.approx(thigh("S009C002P003R002A035"))
    assert thigh("S001C001P003R001A023") != pytest.approx(thigh("S001C001P004R001A023"), rel=1e-4)


def test_two_person_actions_have_two_bodies_in_every_frame():
    clip = record(PUNCH, faults=Faults.none())
    assert np.bincount(clip.frame).tolist() == [2] * clip.frames
    assert len(set(clip.body.tolist())) == 2


def test_body_ids_exceed_the_integer_precision_of_float64_and_some_collide_in_it():
    ids = np.unique(record(PUNCH).body)
    assert (ids > 2**53).all()
    assert len(str(ids[0])) == 17
    many = [np.unique(record(f"S001C001P{p:03d}R001A050").body) for p in range(1, 12)]
    assert any(len(np.unique(pair.astype(np.float64))) < len(pair) for pair in many)


def test_a_faultless_sensor_tracks_every_joint():
    assert set(record(WAVE, faults=Faults.none()).state.ravel().tolist()) == {2}


def test_noise_moves_joints_by_centimetres_and_inferred_joints_by_more():
    true, seen = (record(WAVE, faults=f) for f in (Faults.none(), Faults(gap=0, ghost=0, empty_start=0)))
    error = np.linalg.norm(seen.xyz - true.xyz, axis=-1)
    assert 0.01 < error[seen.state == 2].mean() < 0.06
    assert error[seen.state == 1].mean() > 1.5 * error[seen.state == 2].mean()


def test_a_lost_body_leaves_a_gap_and_can_return_with_another_id():
    clip = record(WAVE, faults=Faults(gap=1, new_id=1, ghost=0, empty_start=0))
    absent = np.setdiff1d(np.arange(clip.frames), clip.frame)
    assert 2 <= len(absent) < 10
    before, after = clip.body[clip.frame < absent[0]], clip.body[clip.frame > absent[-1]]
    assert set(before.tolist()).isdisjoint(after.tolist())


def test_a_ghost_is_a_second_body_that_is_wider_than_high():
    clip = record(WAVE, faults=Faults(gap=0, ghost=1, empty_start=0))
    first, ghost = dict.fromkeys(clip.body.tolist())
    extent = np.ptp(clip.xyz[clip.body == ghost][0], axis=0)
    assert 0.8 * extent[1] < extent[0]
    assert (clip.body == first).sum() == clip.frames


def test_clips_can_begin_with_frames_without_a_body():
    clip = record(PUNCH, faults=Faults(gap=0, ghost=0, empty_start=1))
    assert 1 <= clip.frame[0] <= 5


def test_faults_occur_as_often_as_their_probabilities():
    names = [f"S001C001P{p:03d}R{r:03d}A023" for p in range(1, 41) for r in (1, 2)]
    clips = [record(name, faults=Faults(gap=0.5, ghost=0, empty_start=0)) for name in names]
    with_gap = np.mean([len(np.unique(c.frame)) < c.frames for c in clips])
    assert 0.3 < with_gap < 0.7


def test_the_number_of_frames_can_be_set():
    assert record(WAVE, frames=12, faults=Faults.none()).frames == 12


@pytest.mark.parametrize("name", ["S001C001P003R001A001", "a07_s01_e00_v01", "nonsense"])
def test_a_name_without_a_movement_is_refused_with_the_available_ones(name):
    with pytest.raises(ValueError, match="A023"):
        record(name)
