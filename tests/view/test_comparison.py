"""The page of a table of runs: groups with their label splits, differences, and provenance."""

import re

from psptool.evaluation.table import RunScores, build_table, collect_scores
from psptool.view.charts import Dots, axis_ticks, dot_chart
from psptool.view.comparison import table_page

from ..evaluate.test_table import OLD, fold, scores
from .test_page import macro


def page_of(tmp_path, runs, *against):
    found = [RunScores(tmp_path / name / "scores.json", run) for name, run in runs.items()]
    return table_page(build_table(found, *against), found)


def dots(rows, signed=False):
    return macro("dots", dot_chart(rows, signed))


def test_dots_are_at_their_values_on_the_axis():
    row = Dots(
        "psp",
        [("label split 0", 0.6), ("label split 1", 0.7)],
        0.65,
        0.05,
        "65.0 ± 5.0",
        strong="label split 1",
    )
    shown = dots([row])
    # The ticks go from 60 to 70.
    assert re.findall(r"<em[^>]*>(\d+)</em>", shown)[:: len(re.findall("<em", shown)) - 1] == ["60", "70"]
    assert '<i style="left:0.00%" title="label split 0: 60.0 %">' in shown
    assert '<i class=strong style="left:100.00%" title="label split 1: 70.0 %">' in shown
    assert '<s style="left:50.00%">' in shown
    assert '<b style="left:0.00%;width:100.00%">' in shown


def test_differences_have_a_line_at_zero_and_the_axis_of_accuracies_ends_at_100():
    assert "<u class=zero" in dots([Dots("a", [("label split 0", 0.02)], 0.02, None, "+2.0")], signed=True)
    shown = dots([Dots("a", [("label split 0", 1.0), ("label split 1", 0.9)], 0.95, 0.07, "95.0 ± 7.1")])
    assert max(map(float, re.findall(r"<em[^>]*>([\d.]+)</em>", shown))) == 100
    assert dots(["only a heading"]) == ""


def test_axis_includes_zero_or_spans_at_least_ten_points():
    assert (axis_ticks(27, 70, False)[0], axis_ticks(60, 70, False)[0]) == (0, 60)
    for value in (0.0, 3.0, 19.2, 64.0, 99.9, 100.0):
        ticks = axis_ticks(value, value, False)
        assert 0 <= ticks[0] <= value <= ticks[-1] <= 100
        assert ticks[-1] - ticks[0] >= 10
        assert 3 <= len(ticks) <= 6
    assert 0 in axis_ticks(3, 3.1, True)
    assert 0 in axis_ticks(-3.1, -3, True)
    assert axis_ticks(0, 0, True) == [-1, -0.5, 0, 0.5, 1]


def test_every_group_has_its_label_splits_mean_and_difference(tmp_path):
    runs = {f"p{n}": scores(top1, n) for n, top1 in enumerate((0.5, 0.75))}
    runs |= {f"s{n}": scores(top1, n, method="supervised") for n, top1 in enumerate((0.25, 0.25))}
    text = page_of(tmp_path, runs, "supervised")
    assert "ucla: 4 runs in 2 groups" in text
    assert all(f'title="label split {n}: {value} %"' in text for n, value in enumerate((50.0, 75.0)))
    assert "62.5 ± 17.7" in text
    # 25 and 50 points: mean 37.5, standard error 12.5.
    assert "+37.5 ± 12.5" in text
    assert all(f'title="label split {n}: {value} points"' in text for n, value in enumerate((25.0, 50.0)))
    assert "without a duplicate" not in text  # no run has such clips


def test_rows_have_a_heading_per_amount_of_labels_if_there_are_several(tmp_path):
    text = page_of(tmp_path, {"a": scores(0.5), "b": scores(0.6, ratio=0.15)})
    assert text.index("<h3>5 %</h3>") < text.index("<h3>15 %</h3>")
    assert "<h3>" not in page_of(tmp_path, {"a": scores(0.5), "b": scores(0.6, 1)})


def test_page_has_warnings_training_time_and_provenance(tmp_path):
    runs = {"a": scores(0.5, 0, commit="9" * 40), "b": scores(0.5, 1, precision="bfloat16", seconds=3590.0)}
    text = page_of(tmp_path, runs)
    assert "trained on different devices" in text
    # 10 s and 3,590 s: 1,800 s per training, one hour in total.
    assert "<td class=number>1800</td><td class=number>1.0</td>" in text
    assert "9" * 12 in text
    assert all(digit * 64 in text for digit in "cde")  # content, clips, evaluated clips
    assert text.count("ffffffffffff</td>") == 2  # digest of each configuration
    assert str(tmp_path / "a" / "scores.json") in text


def test_class_accuracies_and_confusions_are_over_all_runs_of_a_group(tmp_path):
    counts = {"a": ((0, 0, 0), (0, 3, 1), (0, 0, 2)), "b": ((0, 0, 0), (0, 1, 3), (0, 1, 1))}
    runs = {
        name: scores(
            0.5, n, clips=6, confusion=confusion,
            per_class={"sit": confusion[1][1] / 4, "stand": confusion[2][2] / 2},
        )
        for n, (name, confusion) in enumerate(counts.items())
    }  # fmt: skip
    text = page_of(tmp_path, runs)
    assert "sit predicted as stand: 4 of 8" in text
    assert re.search(r'<tr><td>sit</td>\s*<td class="number[^>]*>50.0</td>', text)
    assert re.search(r'<tr><td>stand</td>\s*<td class="number[^>]*>75.0</td>', text)


def test_a_class_without_test_clips_in_the_first_run_has_its_name_from_another(tmp_path):
    counts = {"a": ((0, 0, 0), (0, 3, 1), (0, 0, 2)), "b": ((2, 1, 0), (0, 0, 0), (0, 1, 2))}
    named = {"a": ("sit", "stand"), "b": ("walk", "stand")}
    runs = {
        name: fold(n, 0.5, confusion=counts[name], per_class=dict.fromkeys(named[name], 0.5))
        for n, name in enumerate(counts, 1)
    }
    text = page_of(tmp_path, runs)
    assert "walk predicted as sit: 1 of 3" in text
    assert "sit predicted as stand: 1 of 4" in text
    assert "stand predicted as sit: 1 of 5" in text


def test_names_from_scores_never_become_markup(tmp_path):
    hostile = "<img src=x onerror=alert(1)>"
    odd = {"method": hostile, "changes": (hostile,), "split": hostile, "per_class": {hostile: 0.5}}
    runs = {"a": scores(0.5, draw=0, **odd), hostile: scores(0.5)}
    text = page_of(tmp_path, runs, "psp")
    assert "&lt;img" in text
    assert "<img" not in text


def test_scores_of_earlier_versions_have_no_empty_columns():
    runs = collect_scores([OLD])
    text = table_page(build_table(runs, "supervised"), runs)
    assert "67.4 ± 5.2" in text
    assert "<th>training time" not in text
    assert "split digest" not in text
