"""Tracks of one performer are joined, ghosts are dropped, and the report has a note on each of these tracks."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace

import numpy as np
import pytest

from psptool.preparation.kernel import spread_and_motion
from psptool.preparation.normalize import find_transform
from psptool.preparation.pipeline import prepare
from psptool.preparation.selection import find_persons
from psptool.schemas.dataset import DatasetManifest, PreparationSettings
from tests.builtin import NTU25
from tests.cli.conftest import psptool  # noqa: F401
from tests.prepare.literal_tracks import persons_of
from tests.prepare.raw import ntu_text, raw_clip

JOINED = PreparationSettings()
RELEASED = PreparationSettings(align="released")
NAME = "S001C001P001R001A013"
IDS = (72057594037931101, 72057594037931102, 72057594037931103)
GHOST = 72057594037939999


def body(frame, wide=0.4, tall=1.7, at=(0.0, 0.0, 3.0), size=0.05):
    """A body of 25 joints of known width and height at a random offset per frame."""
    rng = np.random.default_rng(frame)
    xyz = rng.uniform(-0.4, 0.4, (25, 3)) * (wide, tall, 0.3)
    xyz[0], xyz[20] = (0, 0, 0), (0, 0.3 * tall, 0)
    xyz[1], xyz[2] = (-0.5 * wide, -0.5 * tall, 0), (0.5 * wide, 0.5 * tall, 0)
    return xyz + np.array(at) + size * rng.normal(size=3)


def flat(frame):
    """A ghost: 2.5 m wide, 0.2 m tall, with more motion than any performer."""
    return body(frame, wide=2.5, tall=0.2, at=(1.5, -0.8, 4.0), size=1.0)


def changing_id(frames=42):
    """One performer whose id changes twice: ``{id: {frame: xyz}}``."""
    third = frames // 3
    return {
        track: {t: body(t) for t in range(n * third, (n + 1) * third)}
        for n, track in zip((0, 1, 2), IDS, strict=True)
    }


def with_ghost(frames=60, ghost=range(4)):
    return {IDS[0]: {t: body(t) for t in range(frames)}, GHOST: {t: flat(t) for t in ghost}}


def rules(persons):
    return [(note.body, note.rule) for note in persons.tracks]


def random_tracks(rng):
    """Tracks of various lengths with gaps, in some frames of which the body is spread."""
    tracks = {}
    for track in rng.choice(1000, rng.integers(2, 8), replace=False).tolist():
        first, count = int(rng.integers(0, 40)), int(rng.integers(1, 36))
        frames = [t for t in range(first, min(60, first + count)) if rng.random() > 0.05] or [first]
        share, size = rng.choice([0.0, 0.3, 0.69754, 0.9, 1.0]), float(rng.uniform(0.02, 0.6))
        seen = {}
        for t in frames:
            wide = 2.0 if rng.random() < share else 0.4
            seen[t] = np.float32(
                rng.normal(size=(25, 3)) * (wide, 1.0, 0.3) * size + rng.normal(size=3)
            ).astype(float)
        tracks[track] = seen
    return tracks


def test_rules_equal_the_reference_implementation_on_random_clips_of_several_tracks():
    rng = np.random.default_rng(0)
    seen_rules = set()
    for _ in range(80):
        tracks = random_tracks(rng)
        expected, notes = persons_of(
            {track: {t: xyz.tolist() for t, xyz in seen.items()} for track, seen in tracks.items()}
        )
        found = find_persons(raw_clip(tracks, 60), NTU25, JOINED)
        assert rules(found) == notes
        assert len(found.present) == len(expected)
        for person, frames in enumerate(expected):
            assert np.flatnonzero(found.present[person]).tolist() == sorted(frames)
            for t, (_, joints) in frames.items():
                np.testing.assert_array_equal(found.xyz[person, t], np.float32(joints))
        seen_rules |= {rule for _, rule in notes}
    assert seen_rules == {"length", "spread", "overlap", "joined"}


def test_a_performer_whose_id_changes_twice_is_one_person_in_all_frames():
    persons = find_persons(raw_clip(changing_id(), 42), NTU25, JOINED)
    assert persons.present.shape == (1, 42)
    assert persons.present.all()
    np.testing.assert_array_equal(persons.xyz[0], np.float32([body(t) for t in range(42)]))
    assert {track for track, _ in rules(persons)} < set(IDS)
    assert [rule for _, rule in rules(persons)] == ["joined", "joined"]


def test_a_track_within_the_gap_of_another_is_joined_to_it():
    gap = {t: body(t) for t in range(60) if not 20 <= t < 40}
    persons = find_persons(raw_clip({1: gap, 2: {t: body(t) for t in range(20, 40)}}, 60), NTU25, JOINED)
    assert persons.present.shape == (1, 60)
    assert persons.present.all()
    np.testing.assert_array_equal(persons.xyz[0], np.float32([body(t) for t in range(60)]))


def test_tracks_that_share_no_frame_with_two_persons_are_joined_to_the_one_with_more_motion():
    strong, weak = (
        {t: body(t, at=(x, 0, 3), size=size) for t in range(20)} for x, size in ((1, 0.3), (2, 0.1))
    )
    later, last = ({t: body(t, size=0.05) for t in frames} for frames in (range(20, 40), range(40, 53)))
    persons = find_persons(raw_clip({1: weak, 2: strong, 3: later, 4: last}, 53), NTU25, JOINED)
    assert persons.present.sum(axis=1).tolist() == [53, 20]
    assert {note.body: note.text for note in persons.tracks} == {
        3: "joined to track 2: 20 frames from 20 to 39 (0-based)",
        4: "joined to track 2: 13 frames from 40 to 52 (0-based)",
    }
    np.testing.assert_array_equal(persons.xyz[0, [0, 20, 40]], np.float32([strong[0], later[20], last[40]]))


def test_joined_tracks_have_the_sum_of_their_interpolated_joints_and_each_note_once():
    tracks = changing_id()
    for seen in tracks.values():
        for xyz in seen.values():
            xyz[7] = 0  # missing in every frame of every track
    tracks[IDS[1]][20][3] = 0
    persons = find_persons(raw_clip(tracks, 42), NTU25, JOINED)
    assert persons.interpolated == 42 + 1
    assert [note[:19] for note in persons.notes] == ["43 missing joints (", "joint 'left hand' i"]


def test_a_track_whose_share_of_spread_frames_equals_the_limit_is_dropped():
    half = {t: flat(t) if t < 20 else body(t, at=(2.0, 0.0, 3.0)) for t in range(40)}
    tracks = {IDS[0]: {t: body(t) for t in range(60)}, GHOST: half}
    for limit, expected in ((0.5, [(GHOST, "spread")]), (0.51, [])):
        assert (
            rules(find_persons(raw_clip(tracks, 60), NTU25, PreparationSettings(spread_share=limit)))
            == expected
        )


@pytest.mark.parametrize("align", ["body", "none"])
@pytest.mark.parametrize("frames", [4, 30])
def test_a_flat_ghost_has_no_influence_on_origin_scale_and_axes(align, frames):
    """A track of 4 frames is dropped by the length rule, one of 30 by the spread rule."""
    settings = PreparationSettings(align=align)
    found = find_persons(raw_clip(with_ghost(ghost=range(frames)), 60), NTU25, settings)
    assert rules(found) == [(GHOST, "length" if frames == 4 else "spread")]
    alone = find_persons(raw_clip({IDS[0]: with_ghost()[IDS[0]]}, 60), NTU25, settings)
    for transform, expected in zip(
        find_transform(found.xyz[0], NTU25, settings),
        find_transform(alone.xyz[0], NTU25, settings),
        strict=True,
    ):
        np.testing.assert_array_equal(transform, expected)
    np.testing.assert_array_equal(found.xyz, alone.xyz)


@pytest.mark.parametrize("settings", [JOINED, RELEASED], ids=["joined", "released"])
def test_persons_are_the_same_with_y_up_z_up_and_y_down(settings):
    tracks = with_ghost(ghost=range(30))
    upright = find_persons(raw_clip(tracks, 60), NTU25, settings)
    swapped = {track: {t: xyz[:, [0, 2, 1]] for t, xyz in seen.items()} for track, seen in tracks.items()}
    found = find_persons(replace(raw_clip(swapped, 60), up="z"), NTU25, settings)
    assert rules(found) == rules(upright)
    np.testing.assert_array_equal(found.xyz, upright.xyz[..., [0, 2, 1]])
    inverted = {track: {t: xyz * (1, -1, 1) for t, xyz in seen.items()} for track, seen in tracks.items()}
    found = find_persons(replace(raw_clip(inverted, 60), up="-y"), NTU25, settings)
    assert rules(found) == rules(upright)
    np.testing.assert_array_equal(found.xyz, upright.xyz * np.float32((1, -1, 1)))


def test_the_person_with_the_least_motion_of_three_is_dropped():
    tracks = {
        track: {t: body(t, at=(track, 0, 3), size=0.1 * track) for t in range(20)} for track in (1, 2, 3)
    }
    persons = find_persons(raw_clip(tracks, 20), NTU25, JOINED)
    assert rules(persons) == [(1, "overlap")]
    np.testing.assert_array_equal(persons.xyz[0, 0], np.float32(tracks[3][0]))


def test_a_frame_whose_width_equals_the_limit_is_not_spread():
    frame = np.array([[[0, 0, 0], [1.5, 1, 0]]], np.float32)  # 1.5 m wide, 1 m tall
    assert [spread_and_motion(frame, ratio)[0] for ratio in (1.5, 1.4999)] == [0, 1]


def test_motion_is_the_sum_of_the_variances_also_of_a_small_movement_far_from_the_camera():
    xyz = np.random.default_rng(0).normal(0, 0.001, (6, 25, 3)) + np.array((500, -800, 1000))
    xyz = xyz.astype(np.float32)
    literal = sum(statistics.pvariance(map(float, xyz[..., axis].ravel())) for axis in range(3))
    assert spread_and_motion(xyz, 100)[1] == pytest.approx(literal, rel=1e-9)


def test_motion_in_spread_frames_does_not_count_for_the_leading_person():
    calm = {t: body(t, size=0.3) for t in range(40)}
    alternating = {t: flat(t) if t % 2 else body(t, size=0.05, at=(1, 0, 3)) for t in range(40)}
    persons = find_persons(raw_clip({1: alternating, 2: calm}, 40), NTU25, JOINED)
    np.testing.assert_array_equal(persons.xyz[0, 0], np.float32(calm[0]))
    assert len(persons.present) == 2


def test_the_longest_of_several_short_tracks_is_kept():
    tracks = {n: {t: body(t, at=(n, 0, 3), size=1 / n) for t in range(n)} for n in (3, 5, 4)}
    persons = find_persons(raw_clip(tracks, 6), NTU25, JOINED)
    assert rules(persons) == [(3, "length"), (4, "length")]
    assert persons.present.sum() == 5


def test_the_least_spread_of_several_flat_tracks_is_kept():
    lying = {n: {t: flat(t) if t < n else body(t) for t in range(20)} for n in (17, 15, 19)}
    persons = find_persons(raw_clip(lying, 20), NTU25, JOINED)
    assert rules(persons) == [(19, "spread"), (17, "spread")]
    np.testing.assert_array_equal(persons.xyz[0, 16], np.float32(body(16)))


def test_released_rules_do_not_join_do_not_test_the_strongest_track_and_note_dropped_ones():
    # Three successive tracks: the two most energetic ones are two persons, the third is dropped.
    persons = find_persons(raw_clip(changing_id(), 42), NTU25, RELEASED)
    assert persons.present.sum(axis=1).tolist() == [14, 14]
    assert [rule for _, rule in rules(persons)] == ["energy"]
    leading_ghost = find_persons(raw_clip(with_ghost(), 60), NTU25, RELEASED)
    np.testing.assert_array_equal(leading_ghost.xyz[0, 0], np.float32(flat(0)))
    weak_ghost = {1: {t: body(t) for t in range(20)}, 2: {t: 0.2 * flat(t) for t in range(20)}}
    assert rules(find_persons(raw_clip(weak_ghost, 20), NTU25, RELEASED)) == [(2, "not upright")]


def write(folder, name, tracks, frames):
    folder.mkdir(parents=True, exist_ok=True)
    bodies = [[(track, seen[t]) for track, seen in tracks.items() if t in seen] for t in range(frames)]
    (folder / f"{name}.skeleton").write_text(ntu_text(bodies), newline="")


def test_the_command_prints_totals_and_the_report_names_each_track(psptool, tmp_path):  # noqa: F811
    write(tmp_path / "raw", "S001C001P001R001A013", changing_id(), 42)
    write(tmp_path / "raw", "S001C001P001R001A014", with_ghost(), 60)
    ran = psptool("prepare", "ntu", "--raw", tmp_path / "raw", "--jobs", "1")
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["tracks", "joined", "2"] in lines
    assert ["tracks", "dropped", "1"] in lines
    assert ["length", "1"] in lines
    report = json.loads((tmp_path / "here" / "data" / "ntu60.report.json").read_text())
    assert (report["counts"]["joined_tracks"], report["counts"]["dropped_tracks"]) == (2, 1)
    assert report["counts"]["rows"] == 42 + 60
    notes = [(note["name"], note["track"], note["rule"]) for note in report["notes"]]
    assert [(name, rule) for name, _, rule in notes] == [
        ("S001C001P001R001A013", "joined"),
        ("S001C001P001R001A013", "joined"),
        ("S001C001P001R001A014", "length"),
    ]
    assert {track for _, track, _ in notes[:2]} < set(map(str, IDS))
    assert notes[2][1] == str(GHOST)
    assert report["notes"][2]["note"] == "dropped: 4 frames, the limit is 11"
    assert "14 frames from" in report["notes"][0]["note"]
    again = psptool("prepare", "ntu", "--raw", tmp_path / "raw", "--jobs", "1", "--json")
    assert json.loads(again.out)["tracks_by_rule"] == {"joined": 2, "length": 1}


def test_clips_of_several_tracks_are_the_same_bytes_for_any_number_of_workers(tmp_path, worker_processes):
    rng = np.random.default_rng(1)
    for n in range(12):
        write(tmp_path / "raw", f"S001C001P0{n + 1:02}R001A013", random_tracks(rng), 60)
    one = prepare("ntu", [tmp_path / "raw"], tmp_path / "one.h5")
    two = prepare("ntu", [tmp_path / "raw"], tmp_path / "two.h5", jobs=2)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.report.notes == two.report.notes
    assert one.report.counts.dropped_tracks > 0


def test_settings_without_track_rules_from_earlier_versions_mean_the_released_rules():
    old = '{"align":"body","align_frames":5,"max_persons":2,"energy_ratio":0.85,"upright_ratio":0.8}'
    assert PreparationSettings.model_validate_json(old).tracks == "released"
    for settings, expected in (
        (JOINED, "joined"),
        (RELEASED, "released"),
        (PreparationSettings(align="none"), "joined"),
    ):
        assert settings.tracks == expected
        assert PreparationSettings.model_validate_json(settings.model_dump_json()) == settings


def test_the_vertical_axis_of_an_earlier_manifest_follows_from_its_alignment():
    common = {
        "dataset": "ntu60",
        "topology": "ntu25",
        "class_names": ["a"] * 60,
        "fingerprints": {"clips": "0" * 64, "content": "0" * 64},
        "counts": {"clips": 1, "frames": 1, "rows": 1, "quarantined": 0, "skipped": 0, "duplicates": 0},
        "tool_version": "0.1.0",
    }
    for align, up in (("body", "z"), ("released", "z"), ("none", "y")):
        old = json.dumps({**common, "settings": {"align": align}})
        assert DatasetManifest.model_validate_json(old).up == up
