"""Tables over runs: hand-computed values, rejected runs, warnings."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from psptool.common.errors import PspError
from psptool.evaluation.rendering import as_csv, markdown
from psptool.evaluation.table import RunScores, build_table, collect_scores, sibling_runs, spread
from psptool.schemas.scores import Scores
from psptool.schemas.table import ScoreTable

OLD = Path(__file__).parent / "scores"


def scores(top1: float, draw: int = 0, clips: int = 1600, **other: object) -> Scores:
    correct = round(top1 * clips)
    values: dict[str, object] = {
        "dataset": "ucla", "split": f"ucla-xview-0.05-s{draw}.json", "method": "psp", "preset": "fast",
        "seed": draw, "weights": "last", "top1": top1, "top5": 1.0,
        "streams": {name: {"top1": top1, "top5": 1.0} for name in ("joint", "motion")},
        "clips": clips, "clips_unseen": 0, "classes_unseen": (),
        "per_class": {"walk around": top1}, "confusion": ((correct, clips - correct), (0, 0)),
        "content_fingerprint": "c" * 64,
        "clips_fingerprint": "d" * 64, "tool_version": "test", "protocol": "xview", "test_view": 3,
        "family": "per-class", "ratio": 0.05, "labelled": 50, "draw": draw, "split_digest": f"{draw:064x}",
        "scored_digest": "e" * 64, "changes": (), "recipe_digest": "f" * 64, "seconds": 10.0 * (draw + 1),
        "device": "cpu", "hardware": "a processor, 1 thread", "precision": "float32",
    }  # fmt: skip
    return Scores.model_validate({**values, **other})


def table(tmp_path: Path, runs: dict[str, Scores], *against: str) -> ScoreTable:
    for name, found in runs.items():
        found.save(tmp_path / "runs" / name / "scores.json")
    return build_table(collect_scores([tmp_path / "runs"]), *against)


def test_mean_deviation_and_error_equal_hand_computed_values() -> None:
    found = spread([0.2, 0.4, 0.9])
    # Deviations from 0.5: -0.3, -0.1, 0.4; sum of squares 0.26; divided by n - 1 = 2: 0.13.
    assert found.mean == pytest.approx(0.5)
    assert found.deviation == pytest.approx(0.13**0.5)
    assert found.error == pytest.approx((0.13 / 3) ** 0.5)
    assert (spread([0.5]).deviation, spread([0.5]).error) == (None, None)


def test_runs_that_differ_only_in_the_label_split_are_one_group(tmp_path: Path) -> None:
    found = table(tmp_path, {"a": scores(0.25, 0), "b": scores(0.75, 1)})
    (group,) = found.groups
    assert (group.labels, group.name, group.draws) == ("5 %", "psp/fast", ("0", "1"))
    assert group.measures["top1"].mean == 0.5
    assert group.measures["top1"].deviation == pytest.approx(0.125**0.5)
    assert group.seconds == 15
    assert "top1_unseen" not in group.measures
    assert found.warnings == ()


def test_the_mean_training_time_of_a_group_is_unknown_if_that_of_one_run_is(tmp_path: Path) -> None:
    assert (
        table(tmp_path, {"a": scores(0.25, 0), "b": scores(0.5, 1, seconds=None)}).groups[0].seconds is None
    )


def test_groups_are_by_labels_method_preset_and_changes_in_order_of_labels(
    tmp_path: Path,
) -> None:
    found = table(
        tmp_path,
        {
            "a": scores(0.5, ratio=0.15),
            "b": scores(0.5, changes=("optim.lr=0.05",)),
            "c": scores(0.5, method="supervised"),
            "d": scores(0.5, preset="paper"),
        },
    )
    assert [(group.labels, group.name) for group in found.groups] == [
        ("5 %", "psp/fast optim.lr=0.05"),
        ("5 %", "supervised/fast"),
        ("5 %", "psp/paper"),
        ("15 %", "psp/fast"),
    ]


def test_runs_trained_without_validation_clips_are_a_separate_group(tmp_path: Path) -> None:
    runs = {"a": scores(0.25), "b": scores(0.5, validation_rule="view=2")}
    assert [group.labels for group in table(tmp_path, runs).groups] == ["5 %", "5 %, trained without view=2"]
    # If the validation clips are evaluated, all runs have the same ones.
    assert RunScores(tmp_path, scores(0.5, validation_rule="view=2", part="validation")).labels == "5 %"


def test_sibling_runs_are_those_of_the_same_group(tmp_path: Path) -> None:
    runs = {
        "own": scores(0.2, 0),
        "other split": scores(0.4, 1),
        "other method": scores(0.4, 2, method="supervised"),
        "other data": scores(0.4, 3, content_fingerprint="0" * 64),
        "other labels": scores(0.4, 4, ratio=0.15),
    }
    for name, found in runs.items():
        found.save(tmp_path / name / "scores.json")
    scores(0.4, 5).save(tmp_path / "other weights" / "scores-best.json")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "scores.json").write_text("{")
    found = sibling_runs(RunScores(tmp_path / "own" / "scores.json", runs["own"]))
    assert [run.path.parent.name for run in found] == ["own", "other split"]


def test_differences_are_paired_by_label_split(tmp_path: Path) -> None:
    runs = {f"p{n}": scores(top1, n) for n, top1 in enumerate((0.5, 0.75, 1.0))}
    runs |= {f"s{n}": scores(top1, n, method="supervised") for n, top1 in enumerate((0.25, 0.75, 0.5))}
    (found,) = table(tmp_path, runs, "supervised").differences
    # 0.25, 0, 0.5: mean 0.25, deviations 0, -0.25, 0.25, variance 0.0625.
    assert (found.name, found.against, found.draws) == ("psp/fast", "supervised/fast", ("0", "1", "2"))
    assert found.measures["top1"].values == (0.25, 0.0, 0.5)
    assert found.measures["top1"].mean == 0.25
    assert found.measures["top1"].error == pytest.approx((0.0625 / 3) ** 0.5)


def test_a_difference_is_over_common_label_splits_and_a_warning_names_the_others(tmp_path: Path) -> None:
    runs = {"p0": scores(0.5, 0), "p1": scores(1.0, 1), "s0": scores(0.25, 0, method="supervised")}
    found = table(tmp_path, runs, "supervised")
    assert found.differences[0].measures["top1"].values == (0.25,)
    assert any("without 1" in warning for warning in found.warnings)
    other = table(
        tmp_path / "other", {"p1": scores(1.0, 1), "s0": scores(0.2, 0, method="supervised")}, "psp"
    )
    assert other.differences == ()
    assert any("no common label split" in warning for warning in other.warnings)


def test_two_reference_groups_are_compared_with_each_other_once(tmp_path: Path) -> None:
    methods = {"s": ("supervised", "best", 0.25), "p": ("psp", "paper", 0.5), "b": ("psp", "best", 0.75)}
    runs = {
        f"{key}{draw}": scores(top1, draw, method=method, preset=preset)
        for key, (method, preset, top1) in methods.items()
        for draw in (0, 1)
    }
    found = table(tmp_path, runs, "supervised", "psp/paper", "psp/paper").differences
    assert {(other.name, other.against): other.measures["top1"].mean for other in found} == {
        ("psp/paper", "supervised/best"): 0.25,
        ("psp/best", "supervised/best"): 0.5,
        ("psp/best", "psp/paper"): 0.25,
    }


def test_gap_closed_is_the_share_of_the_gap_to_all_labels_over_common_label_splits(tmp_path: Path) -> None:
    def supervised(top1: float, draw: int = 0, **other: object) -> Scores:
        return scores(top1, draw, method="supervised", **other)

    runs = {f"l{draw}": supervised(top1, draw) for draw, top1 in enumerate((0.25, 0.5))}
    runs |= {f"p{draw}": scores(top1, draw) for draw, top1 in enumerate((0.5, 0.5, 1.0))}
    runs |= {f"a{draw}": supervised(top1, draw, ratio=1.0) for draw, top1 in enumerate((0.875, 1.0))}
    runs |= {"v": scores(1.0, validation_rule="view=2"), "lv": supervised(0.5, validation_rule="view=2")}
    found = {other.labels: other for other in table(tmp_path, runs, "supervised").differences}
    # Label splits 0 and 1: from 0.375 to 0.5; all labels: 0.9375.
    assert found["5 %"].closed == pytest.approx(0.125 / 0.5625)
    assert found["5 %, trained without view=2"].closed is None, (
        "the runs with all labels had more training clips"
    )
    assert "| 22 % |" in markdown(table(tmp_path, runs, "supervised"))
    # Standard errors 0.125 and 0.0625: a gap of 0.25 is less than twice that of their difference, 0.14.
    runs |= {f"a{draw}": supervised(top1, draw, ratio=1.0) for draw, top1 in enumerate((0.5625, 0.6875))}
    assert table(tmp_path / "near", runs, "supervised").differences[0].closed is None


def test_several_runs_of_one_label_split_count_once_with_a_warning(tmp_path: Path) -> None:
    found = table(tmp_path, {"a": scores(0.2, 0), "b": scores(0.4, 0, seed=9), "c": scores(0.9, 1)})
    assert found.groups[0].measures["top1"].values == pytest.approx((0.3, 0.9))
    (warning,) = found.warnings
    assert "label split 0 has 2 runs" in warning
    assert str(tmp_path / "runs" / "b") in warning


def test_runs_with_all_labels_are_distinguished_by_their_seed(tmp_path: Path) -> None:
    runs = {f"s{n}": scores(top1, n, ratio=1.0, split_digest="0" * 64) for n, top1 in enumerate((0.5, 1.0))}
    found = table(tmp_path, runs)
    assert found.groups[0].draws == ("0", "1")
    assert found.groups[0].measures["top1"].values == (0.5, 1.0)
    assert found.warnings == ()


def test_different_training_seeds_of_a_pair_give_a_warning(tmp_path: Path) -> None:
    runs = {"p": scores(0.5, 0), "s": scores(0.25, 0, method="supervised", seed=7)}
    assert any(
        "training seeds differ for label split 0" in word
        for word in table(tmp_path, runs, "supervised").warnings
    )


def test_different_devices_and_configurations_in_a_group_give_warnings(tmp_path: Path) -> None:
    runs = {"a": scores(0.5, 0), "b": scores(0.5, 1, precision="bfloat16", recipe_digest="0" * 64)}
    first, second = table(tmp_path, runs).warnings
    assert "training configurations differ" in first
    assert "a processor, 1 thread, float32; a processor, 1 thread, bfloat16" in second


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"content_fingerprint": "0" * 64}, "content fingerprint: cccccccccccc in"),
        ({"clips_fingerprint": "0" * 64}, "clips fingerprint"),
        ({"protocol": "xsub"}, "protocol: xview in"),
        ({"test_view": 2}, "test view: 3 in"),
        ({"scored_digest": "0" * 64}, "evaluated clips"),
        ({"clips": 800}, "evaluated clips per class"),
        ({"family": "global"}, "label family: per-class in"),
        ({"dataset": "ntu60"}, "dataset: ucla in"),
    ],
)
def test_runs_that_are_not_comparable_are_refused_with_their_names(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    with pytest.raises(PspError) as caught:
        table(tmp_path, {"fine": scores(0.5), "odd": scores(0.5, 1, **change)})
    assert named in str(caught.value)
    assert str(tmp_path / "runs" / "fine") in str(caught.value)
    assert str(tmp_path / "runs" / "odd") in str(caught.value)


@pytest.mark.parametrize("change", [{"weights": "best"}, {"part": "validation"}])
def test_different_checkpoints_or_parts_in_one_table_are_refused(change: dict[str, object]) -> None:
    runs = [RunScores(Path("a.json"), scores(0.5)), RunScores(Path("b.json"), scores(0.5, 1, **change))]
    with pytest.raises(PspError, match=f"{next(iter(change))}: .* in a.json; .* in b.json"):
        build_table(runs)


def fold(number: int, top1: float, draw: int = 0, **other: object) -> Scores:
    return scores(
        top1, draw, clips=100 * number, split=f"ucla-loso-{number}-0.05-s{draw}.json",
        protocol=f"loso-{number}", leave_one_out="loso", test_view=None,
        split_digest=f"{10 * number + draw:064x}", scored_digest=f"{number:064x}", **other,
    )  # fmt: skip


def test_folds_of_leave_one_out_are_one_group_and_each_has_equal_weight(tmp_path: Path) -> None:
    runs = {"a": fold(2, 0.25), "b": fold(1, 0.5), "c": fold(1, 1.0, 1)}
    found = table(tmp_path, runs)
    (group,) = found.groups
    assert group.draws == ("loso-1", "loso-2")
    # The mean of 0.5 and 1.0 has the same weight as the 0.25 of the other fold.
    assert group.measures["top1"].values == (0.75, 0.25)
    assert (group.measures["top1"].mean, len(group.runs)) == (0.5, 3)
    assert (found.protocol, found.folds, found.clips) == ("loso", ("loso-1", "loso-2"), 300)
    assert found.warnings == (
        "5 %, psp/fast: the folds have different numbers of runs, whose means count once",
    )
    assert markdown(found).startswith(
        "ucla, loso (2 folds), 300 test clips, last checkpoint; in %, mean ± standard deviation over folds."
    )
    assert [run.split_name for run in sibling_runs(collect_scores([tmp_path / "runs" / "a"])[0])] == [
        "loso-2 seed 0", "loso-1 seed 0", "loso-1 seed 1"
    ]  # fmt: skip


def test_differences_are_paired_by_fold_and_a_missing_fold_gives_warnings(tmp_path: Path) -> None:
    runs = {"a": fold(1, 0.5), "b": fold(2, 0.25), "c": fold(2, 0.5, method="supervised")}
    found = table(tmp_path, runs, "supervised")
    assert found.differences[0].measures["top1"].values == (-0.25,)
    assert found.warnings == (
        "5 %, supervised/fast: no run of loso-1, which other groups have",
        "5 %, psp/fast against supervised/fast: over the 1 common fold, without loso-1",
    )


def test_gap_closed_is_computed_over_the_folds_that_all_three_groups_have(tmp_path: Path) -> None:
    runs = {"a1": fold(1, 0.75), "a2": fold(2, 0.25)}
    runs |= {f"s{n}": fold(n, 0.5, method="supervised") for n in (1, 2)}
    runs |= {f"all{n}": fold(n, top1, method="supervised", ratio=1.0) for n, top1 in ((1, 1.0), (3, 0.75))}
    found = table(tmp_path, runs, "supervised")
    # Fold 1: from 0.5 to 1.0, of which 0.75 is half.
    assert [one.closed for one in found.differences] == [0.5]


def test_runs_of_a_fold_on_different_clips_and_runs_of_another_protocol_are_refused(tmp_path: Path) -> None:
    other = fold(1, 0.5, 1).model_copy(update={"scored_digest": "a" * 64})
    with pytest.raises(PspError, match="not comparable: evaluated clips: "):
        table(tmp_path / "clips", {"a": fold(1, 0.5), "b": other, "c": fold(2, 0.5)})
    with pytest.raises(PspError, match=r"protocol: loso in .*; xview in "):
        table(tmp_path / "protocol", {"a": fold(1, 0.5), "b": scores(0.5, test_view=None)})


def test_against_must_match_exactly_one_group(tmp_path: Path) -> None:
    runs = {"a": scores(0.5), "b": scores(0.5, preset="paper"), "c": scores(0.5, method="supervised")}
    with pytest.raises(PspError, match="Did you mean supervised"):
        table(tmp_path, runs, "supervized")
    with pytest.raises(PspError, match="one group of psp/fast; psp/paper"):
        table(tmp_path, runs, "psp")
    assert {found.name for found in table(tmp_path, runs, "psp/paper").differences} == {
        "psp/fast",
        "supervised/fast",
    }


def test_scores_of_earlier_versions_give_the_published_values() -> None:
    found = build_table(collect_scores([OLD]), "supervised")
    psp, supervised = found.groups
    assert (
        f"{100 * psp.measures['top1'].mean:.1f} {100 * supervised.measures['top1'].mean:.1f}" == "67.4 64.3"
    )
    difference = found.differences[0].measures["top1_joint"]
    assert difference.error is not None
    assert f"{100 * difference.mean:.1f} {100 * difference.error:.1f}" == "24.5 4.0"
    assert "| ucla-xview-0.05 | psp/small | 5 | 67.4 ± 5.2 |" in markdown(found)


def test_scores_given_as_file_folder_and_parent_folder_are_collected_once(tmp_path: Path) -> None:
    scores(0.5).save(tmp_path / "runs" / "a" / "scores.json")
    kind = {"part": "validation", "weights": "best"}
    scores(0.6, **kind).save(tmp_path / "runs" / "a" / "scores-validation-best.json")
    run = tmp_path / "runs" / "a"
    assert len(collect_scores([run, run / "scores.json", tmp_path / "runs"])) == 1
    assert collect_scores([run], "validation", "best")[0].scores.top1 == 0.6
    with pytest.raises(PspError, match="psptool evaluate"):
        collect_scores([tmp_path / "runs"], "validation")
    with pytest.raises(PspError, match="nowhere: there is no such file or folder"):
        collect_scores([tmp_path / "nowhere"])


def test_scores_of_another_part_or_checkpoint_are_refused_with_the_options_to_use(
    tmp_path: Path,
) -> None:
    run, collected = tmp_path / "runs" / "a", tmp_path / "collected"
    scores(0.6, part="validation", weights="best").save(run / "scores-validation-best.json")
    scores(0.5).save(collected / "a.json")
    with pytest.raises(PspError, match="psptool table --validation --weights best for these scores"):
        collect_scores([run])
    with pytest.raises(PspError, match="Leave out --validation and --weights"):
        collect_scores([collected], "validation")
    assert collect_scores([run], "validation", "best")[0].scores.part == "validation"


def test_csv_has_fractions_and_one_line_per_group_and_difference(tmp_path: Path) -> None:
    runs = {"p": scores(0.5, 0), "q": scores(1.0, 1)}
    runs |= {"s": scores(0.25, 0, method="supervised"), "t": scores(0.25, 1, method="supervised")}
    lines = list(csv.DictReader(io.StringIO(as_csv(table(tmp_path, runs, "supervised")))))
    assert [(line["method"], line["against"], float(line["top1_mean"])) for line in lines] == [
        ("psp/fast", "", 0.75),
        ("supervised/fast", "", 0.25),
        ("psp/fast", "supervised/fast", 0.5),
    ]
    assert lines[0]["top1_unseen_mean"] == ""
