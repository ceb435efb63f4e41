"""Facts of the datasets, compared with numbers copied by hand from the documentation of method and formats."""

from __future__ import annotations

import pytest

from psptool.schemas.builtin import builtin_datasets
from psptool.skeletons.keys import ClipKey
from tests.builtin import NTU60, NTU120, UCLA, parse_ntu, parse_ucla

# Cross-subject training subjects as ranges, copied by hand from the list of the protocol.
NTU60_TRAIN = [*range(1, 3), *range(4, 6), *range(8, 10), *range(13, 20), 25, 27, 28, 31, 34, 35, 38]
NTU120_ADDED = [
    *range(45, 48),
    49,
    50,
    *range(52, 60),
    70,
    74,
    78,
    *range(80, 87),
    89,
    *range(91, 96),
    97,
    98,
    100,
    103,
]


def test_datasets_have_60_120_and_10_unique_class_names():
    for dataset, count in ((NTU60, 60), (NTU120, 120), (UCLA, 10)):
        assert len(set(dataset.class_names)) == len(dataset.class_names) == count
        assert all(name == name.strip().lower() and name for name in dataset.class_names)
    assert NTU60.class_names == NTU120.class_names[:60]


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (1, "drink water"), (8, "sitting down"), (10, "clapping"), (23, "hand waving"),
        (24, "kicking something"),
        (27, "jump up"), (31, "pointing to something with finger"), (36, "shake head"),
        (43, "falling"),
        (49, "use a fan (with hand or paper)/feeling warm"), (50, "punching/slapping other person"),
        (55, "hugging other person"), (60, "walking apart from each other"), (61, "put on headphone"),
        (70, "thumb down"), (80, "squat down"), (90, "take something out of a bag"),
        (99, "running on the spot"),
        (106, "hit other person with something"), (112, "high-five"),
        (120, "finger-guessing game (playing rock-paper-scissors)"),
    ],
)  # fmt: skip
def test_ntu_action_numbers_have_the_names_of_the_official_list(number, name):
    assert NTU120.class_names[NTU120.parse(f"S018C001P041R001A{number:03d}").label] == name


@pytest.mark.parametrize(
    ("action", "name"),
    [
        (1, "pick up with one hand"), (2, "pick up with two hands"), (3, "drop trash"), (4, "walk around"),
        (5, "sit down"), (6, "stand up"), (8, "donning"), (9, "doffing"), (11, "throw"), (12, "carry"),
    ],
)  # fmt: skip
def test_ucla_action_numbers_have_their_names(action, name):
    assert UCLA.class_names[parse_ucla(f"a{action:02d}_s01_e00_v01").label] == name


def test_clip_names_are_parsed_into_all_their_fields():
    assert parse_ntu("S018C003P041R002A120") == ClipKey(119, subject=41, camera=3, setup=18, repetition=2)
    assert parse_ucla("a12_s10_e05_v03") == ClipKey(9, subject=10, camera=3, setup=-1, repetition=5)


@pytest.mark.parametrize(
    "name",
    [
        "", "S001C001P001R001A000", "S001C001P001R001A121", "S1C001P001R001A001", "S001C001P001R001A001 ",
        "S001C001P001R001A001.skeleton", "s001c001p001r001a001", "S００1C001P001R001A001",
        "xS001C001P001R001A001",
    ],
)  # fmt: skip
def test_other_names_are_not_clip_names_of_ntu(name):
    assert parse_ntu(name) is None


@pytest.mark.parametrize(
    "name", ["", "a07_s01_e00_v01", "a10_s01_e00_v01", "a13_s01_e00_v01", "a01_s01_e00", "a1_s1_e0_v1"]
)
def test_other_names_are_not_clip_names_of_ucla(name):
    assert parse_ucla(name) is None


def test_cross_subject_trains_on_20_of_40_and_53_of_106_subjects():
    assert set(NTU60.protocols["xsub"].train) == set(NTU60_TRAIN)
    assert set(NTU120.protocols["xsub"].train) == set(NTU60_TRAIN + NTU120_ADDED)
    assert len(set(NTU60.protocols["xsub"].train) & set(range(1, 41))) == 20
    assert len(set(NTU120.protocols["xsub"].train) & set(range(1, 107))) == 53
    assert NTU60.protocols["xsub"].test is NTU120.protocols["xsub"].test is None


def test_cross_view_trains_on_cameras_2_and_3_and_tests_on_1():
    assert (NTU60.protocols["xview"].train, NTU60.protocols["xview"].test) == ((2, 3), (1,))
    assert (UCLA.protocols["xview"].train, UCLA.protocols["xview"].test) == ((1, 2), (3,))
    assert UCLA.test_views == (1, 2, 3)


def test_cross_setup_trains_on_the_16_even_setups():
    xset = NTU120.protocols["xset"]
    assert (xset.field, sorted(xset.train), xset.test) == ("setup", [2 * k for k in range(1, 17)], None)


def test_label_counts_are_those_of_the_literature():
    assert NTU60.protocols["xsub"].label_counts == {0.05: 33, 0.1: 66, 0.2: 132, 0.4: 264}
    assert NTU60.protocols["xview"].label_counts == {0.05: 31, 0.1: 62, 0.2: 124, 0.4: 248}
    assert UCLA.protocols["xview"].label_counts == {0.05: 5, 0.15: 15, 0.3: 30, 0.4: 40}


def test_every_protocol_and_performance_refers_to_fields_of_the_key():
    for dataset in builtin_datasets():
        assert next(iter(dataset.protocols)) == {"ucla": "xview"}.get(dataset.name, "xsub")
        for field in (*dataset.performance, *(p.field for p in dataset.protocols.values())):
            assert hasattr(ClipKey(0), field)
        assert "camera" not in dataset.performance
