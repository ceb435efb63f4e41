"""Splits of small synthetic datasets, and the counts of the real NW-UCLA."""

import os
from pathlib import Path

import pytest

from psptool.common.errors import PspError
from psptool.data.splits.draw import ranked
from psptool.data.splits.making import SplitRequest, compare_splits, literature_count, make_split, split_name
from psptool.data.splits.protocols import NamedProtocol
from psptool.schemas.protocols import FieldProtocol, LeaveOneOut, ShareProtocol
from tests.builtin import NTU60, NTU120, UCLA, parse_ntu, parse_ucla

FINGERPRINT = "0" * 64


def ucla_clips(actions=(1, 2), subjects=(1, 2), episodes=range(5), views=(1, 2, 3)):
    names = [
        f"a{a:02d}_s{s:02d}_e{e:02d}_v{v:02d}"
        for a in actions
        for s in subjects
        for e in episodes
        for v in views
    ]
    return {name: parse_ucla(name) for name in names}


def ntu_clips(setups, subjects, cameras=(1, 2, 3), actions=(1, 2)):
    names = [
        f"S{s:03d}C{c:03d}P{p:03d}R001A{a:03d}"
        for s in setups for c in cameras for p in subjects for a in actions
    ]  # fmt: skip
    return {name: parse_ntu(name) for name in names}


def make(dataset, clips, **request):
    return make_split(dataset, clips, FINGERPRINT, SplitRequest(**request))


def test_view_three_is_the_test_set_and_the_first_clips_of_each_class_by_rank_are_labelled():
    clips = ucla_clips()
    split = make(UCLA, clips, count=3, seed=5).split
    assert set(split.test) == {name for name in clips if name.endswith("v03")}
    for action in ("a01", "a02"):
        pool = [name for name in clips if name.startswith(action) and not name.endswith("v03")]
        assert {n for n in split.labelled if n.startswith(action)} == set(ranked(pool, 5)[:3])
    assert set(split.unlabelled) == clips.keys() - set(split.labelled) - set(split.test)


def test_order_of_clips_does_not_matter():
    clips = ucla_clips()
    assert make(UCLA, dict(reversed(clips.items())), ratio=0.3) == make(UCLA, clips, ratio=0.3)


@pytest.mark.parametrize("view", [1, 2, 3])
def test_any_view_of_ucla_can_be_the_test_view(view):
    split = make(UCLA, ucla_clips(), count=1, test_view=view).split
    assert {name[-1] for name in split.test} == {str(view)}
    assert {name[-1] for name in split.labelled + split.unlabelled} == {"1", "2", "3"} - {str(view)}


def test_ntu60_protocols_split_by_subject_and_camera():
    clips = ntu_clips(setups=(1,), subjects=(1, 2, 3, 6))
    xsub = make(NTU60, clips, ratio=0.5).split
    assert {name[8:12] for name in xsub.test} == {"P003", "P006"}
    xview = make(NTU60, clips, ratio=0.5, protocol="xview").split
    assert {name[4:8] for name in xview.test} == {"C001"}


def test_ntu120_protocols_split_by_subject_and_setup():
    clips = ntu_clips(setups=(17, 18, 32), subjects=(1, 45, 103, 106), actions=(1, 120))
    xsub = make(NTU120, clips, ratio=0.5).split
    assert {name[8:12] for name in xsub.test} == {"P106"}
    xset = make(NTU120, clips, ratio=0.5, protocol="xset").split
    assert {name[:4] for name in xset.test} == {"S017"}


@pytest.mark.parametrize("rule", ["view=2", "subject=2", "fraction=0.3"])
def test_validation_clips_are_removed_before_labelled_clips_are_selected(rule):
    clips = ucla_clips()
    split = make(UCLA, clips, ratio=0.3, validation=rule).split
    parts = [set(part) for part in (split.labelled, split.unlabelled, split.validation, split.test)]
    assert set.union(*parts) == clips.keys()
    assert sum(map(len, parts)) == len(clips)
    assert split.validation
    assert split.validation_rule == rule


def test_fraction_selects_its_share_of_each_class_by_a_separate_rank():
    clips = ucla_clips()
    split = make(UCLA, clips, count=1, validation="fraction=0.3", seed=2).split
    pool = [name for name in clips if name.startswith("a01") and not name.endswith("v03")]
    expected = set(ranked(pool, 2, "psptool-validation-1")[:6])
    assert {name for name in split.validation if name.startswith("a01")} == expected


def test_fraction_leaves_at_least_one_training_clip_of_every_class():
    few = ucla_clips(actions=(1,)) | ucla_clips(actions=(12,), subjects=(1,), episodes=(0,))
    split = make(UCLA, few, count=1, validation="fraction=0.9").split
    assert [name[:3] for name in split.labelled] == ["a01", "a12"]


def test_label_counts_of_the_literature_are_those_in_method_md():
    assert [UCLA.protocols["xview"].label_counts[r] for r in (0.05, 0.15, 0.3, 0.4)] == [5, 15, 30, 40]
    xsub = NamedProtocol("xsub", NTU60.protocols["xsub"])
    assert [literature_count(xsub, r, 40_091, 60) for r in (0.05, 0.1, 0.2, 0.4)] == [33, 66, 132, 264]
    xview = NamedProtocol("xview", NTU60.protocols["xview"])
    assert [literature_count(xview, r, 37_646, 60) for r in (0.05, 0.1, 0.2, 0.4)] == [31, 62, 124, 248]
    assert literature_count(xsub, 0.07, 40_091, 60) is None
    assert literature_count(NamedProtocol("xsub", NTU120.protocols["xsub"]), 0.05, 60_000, 120) is None


def test_label_counts_of_the_literature_are_not_used_for_a_subset_of_the_dataset():
    made = make(UCLA, ucla_clips(subjects=(1, 2), episodes=range(5)), ratio=0.05)
    assert made.labelled_per_class == (1, 1)
    assert "rounded half up" in made.rule


ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)


@pytest.mark.parametrize(
    ("unlabelled", "validation", "labelled"),
    [(0, None, 5), (0, "subject=1", 5), (1, None, 3)],
    ids=["half of the dataset", "with held-out clips", "one label fewer"],
)
def test_standard_count_needs_half_of_the_training_clips_including_held_out_ones(
    unlabelled, validation, labelled
):
    # 5 % means 5 of 100 clips per class; half of the 10 * 100 training clips is 500.
    clips = ucla_clips(actions=ACTIONS, subjects=range(1, 6))
    train = [name for name in clips if not name.endswith("v03")]
    assert len(train) == 500
    clips |= {name: clips[name]._replace(label=-1) for name in train[:unlabelled]}
    made = make(UCLA, clips, ratio=0.05, validation=validation)
    assert max(made.labelled_per_class) == labelled  # without the standard count: 0.05 * 50, rounded half up


def test_the_number_of_labelled_clips_depends_on_the_family():
    clips = ucla_clips(actions=(1,)) | ucla_clips(actions=(2,), episodes=range(3))  # 20 and 12 train clips
    assert make(UCLA, clips, ratio=0.125, family="per-class").labelled_per_class == (2, 3)
    assert make(UCLA, clips, ratio=0.125, family="per-class-ratio").labelled_per_class == (2, 2)
    assert len(make(UCLA, clips, ratio=0.2, family="global").split.labelled) == int(32 * 0.2)


def test_global_family_ranks_the_whole_pool():
    clips = ucla_clips()
    pool = [name for name in clips if not name.endswith("v03")]
    split = make(UCLA, clips, ratio=0.25, family="global", seed=3).split
    assert set(split.labelled) == set(ranked(pool, 3)[:10])


def test_views_of_one_performance_are_counted_once():
    made = make(UCLA, ucla_clips(), ratio=1)
    assert len(made.split.labelled) == 40
    assert made.performances == 20
    assert made.split.unlabelled == ()


def test_a_class_that_is_only_in_the_test_set_gives_a_warning():
    made = make(UCLA, ucla_clips() | ucla_clips(actions=(12,), views=(3,)), count=1)
    assert made.warnings == ("1 class only in the test set: carry",)


def test_different_requests_have_different_file_names():
    clips = ucla_clips()
    names = [
        split_name(make(UCLA, clips, **request).split, UCLA)
        for request in (
            {"ratio": 0.05}, {"ratio": 0.1}, {"ratio": 1}, {"count": 1}, {"ratio": 0.05, "seed": 1},
            {"ratio": 0.05, "family": "per-class-ratio"}, {"ratio": 0.05, "family": "global"},
            {"ratio": 0.05, "test_view": 1}, {"ratio": 0.05, "validation": "view=1"},
            {"ratio": 0.05, "validation": "subject=1"}, {"ratio": 0.05, "validation": "fraction=0.1"},
        )
    ]  # fmt: skip
    assert names[0] == "ucla-xview-0.05-s0"
    assert names[2:4] == ["ucla-xview-1-s0", "ucla-xview-k1-s0"]
    assert len(set(names)) == len(names)


def test_explicit_default_test_view_gives_the_same_split():
    clips = ucla_clips()
    assert make(UCLA, clips, count=1, test_view=3) == make(UCLA, clips, count=1)


def test_a_split_is_reproduced_from_its_request():
    clips = ucla_clips()
    split = make(UCLA, clips, ratio=0.3, seed=9, test_view=2, validation="subject=2").split
    again = make_split(UCLA, clips, FINGERPRINT, SplitRequest.of(split)).split
    assert compare_splits(split, again) == []


def test_a_moved_clip_is_found_and_named():
    split = make(UCLA, ucla_clips(), count=2).split
    moved = split.model_copy(
        update={"labelled": split.labelled[1:], "unlabelled": (*split.unlabelled, split.labelled[0])}
    )
    findings = compare_splits(moved, split)
    assert len(findings) == 2
    assert split.labelled[0] in findings[0]


def test_a_different_tool_version_is_not_a_difference_between_splits():
    split = make(UCLA, ucla_clips(), count=2).split
    assert compare_splits(split.model_copy(update={"tool_version": "0.0"}), split) == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"ratio": 0}, "--ratio: found 0"),
        ({"ratio": 1.5}, "--ratio: found 1.5"),
        ({"ratio": float("nan")}, "--ratio: found nan"),
        ({}, "found neither"),
        ({"ratio": 0.1, "count": 1}, "found both"),
        ({"count": 0}, "--count: found 0"),
        ({"count": 21}, "pick up with one hand has 20"),
        ({"count": 1, "family": "global"}, "--count: found --family global"),
        ({"ratio": 0.1, "family": "per-clas"}, "Did you mean per-class?"),
        ({"ratio": 0.1, "seed": -1}, "--seed: found -1"),
        ({"ratio": 0.1, "seed": 2**63}, "--seed: found 9223372036854775808, expected 0 or more, and less than"),
        ({"ratio": 0.1, "protocol": "xvew"}, "expected one of xview. Did you mean xview?"),
        ({"ratio": 0.1, "test_view": 4}, "expected one of 1, 2, 3"),
        ({"ratio": 0.1, "validation": "view=3"}, "views 1, 2 in the training set"),
        ({"ratio": 0.1, "validation": "view=1,2"}, "selects every training clip"),
        ({"ratio": 0.1, "validation": "setup=1"}, "found setups none in the training set"),
        ({"ratio": 0.1, "validation": "setup=-1"}, "--validation: found 'setup=-1'"),
        ({"ratio": 0.1, "validation": "fraction=1"}, "--validation: found 'fraction=1'"),
        ({"ratio": 0.1, "validation": "label=3"}, "numbers of view, subject, camera, setup, repetition"),
        ({"ratio": 0.1, "validation": "person=3"}, "--validation subject=3,7"),
        ({"ratio": 0.001, "family": "global"}, "selects no labelled clip"),
    ],
)  # fmt: skip
def test_an_invalid_request_is_an_error_with_the_reason(request_, message):
    with pytest.raises(PspError) as error:
        make(UCLA, ucla_clips(), **request_)
    assert message in str(error.value)


def test_test_view_of_a_fixed_protocol_is_an_error():
    with pytest.raises(PspError, match=r"found 1, expected no test view: the protocol is fixed\. Omit it"):
        make(NTU60, ntu_clips((1,), (1, 3)), ratio=0.5, test_view=1)


def two_protocols(**more):
    xsub = FieldProtocol(field="subject", train=(1,), test=(2,))
    return UCLA.model_copy(update={"protocols": {**UCLA.protocols, "xsub": xsub, **more}})


@pytest.mark.parametrize("protocol", ["xsub", "each-1"])
def test_a_test_view_is_only_accepted_for_protocols_that_split_by_camera(protocol):
    dataset = two_protocols(each=LeaveOneOut(leave_one_out="camera"))
    with pytest.raises(PspError, match=r"expected no test view.*use --protocol xview"):
        make(dataset, ucla_clips(), count=1, protocol=protocol, test_view=3)


@pytest.mark.parametrize("protocol", ["xview", "xsub", "other", "half"])
def test_a_split_of_any_protocol_is_reproduced_from_its_request(protocol):
    other = FieldProtocol(field="camera", train=(1,), test=(2, 3))
    dataset = two_protocols(other=other, half=ShareProtocol(share=0.5))
    split = make(dataset, ucla_clips(), count=1, protocol=protocol).split
    assert split.test_view == (3 if protocol == "xview" else None)
    again = make_split(dataset, ucla_clips(), FINGERPRINT, SplitRequest.of(split)).split
    assert compare_splits(split, again) == []


@pytest.mark.parametrize("protocol", [None, "each", "each-3"])
def test_leave_one_out_over_a_field_without_values_is_an_error_that_names_the_protocol(protocol):
    dataset = UCLA.model_copy(update={"protocols": {"each": LeaveOneOut(leave_one_out="setup")}})
    with pytest.raises(
        PspError, match="protocol each: leaves out values of a field that no clip of ucla has"
    ):
        make(dataset, ucla_clips(), count=1, protocol=protocol)


@pytest.mark.parametrize(("views", "part"), [((1, 2), "test"), ((3,), "training")])
def test_an_empty_training_or_test_set_is_an_error(views, part):
    with pytest.raises(PspError, match=f"protocol xview: the {part} set of ucla is empty"):
        make(UCLA, ucla_clips(views=views), ratio=0.1)


@pytest.mark.real
@pytest.mark.skipif("PSPTOOL_UCLA_RAW" not in os.environ, reason="PSPTOOL_UCLA_RAW is not set")
def test_real_ucla_has_1020_train_clips_464_test_clips_and_50_labels_at_5_percent():
    folder = Path(os.environ["PSPTOOL_UCLA_RAW"]) / "all_sqe"
    clips = {path.stem: parse_ucla(path.stem) for path in folder.glob("*.json")}
    made = make(UCLA, clips, ratio=0.05)
    assert len(made.split.labelled) + len(made.split.unlabelled) == 1020
    assert len(made.split.test) == 464
    assert len(made.split.labelled) == 50
    assert made.labelled_per_class == (5, 5)
