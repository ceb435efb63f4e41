"""Settings files: the runs they request, the runs they share, and errors before anything runs."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from psptool.common.errors import PspError
from psptool.evaluation.table import build_table, collect_scores
from psptool.training.runs.folder import RunFolder

from ..evaluate.test_table import scores
from .conftest import WORKFLOWS

FILES = sorted(WORKFLOWS.glob("*.yaml"))


def settings(name: str, **other: Any) -> dict[str, Any]:
    """A settings file as Snakemake reads it, with changes as from its command line."""
    return {**yaml.safe_load((WORKFLOWS / f"{name}.yaml").read_text(encoding="utf-8")), **other}


def test_there_is_a_file_for_each_research_question() -> None:
    assert {path.stem for path in FILES} == {"rq1", "rq2", "rq3", "rq4", "ntu60", "ntu120", "smoke"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_settings_file_has_the_name_of_its_question_and_states_its_number_of_runs(path, grids) -> None:
    grid = grids.read_grid(settings(path.stem))
    assert grid.settings.question == path.stem
    (stated,) = re.findall(r"^# (?:.* )?(\d+) runs of", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(grid.runs) == int(stated)


def test_questions_share_the_runs_that_both_request(grids) -> None:
    rq1, rq2, rq3, rq4 = (set(grids.read_grid(settings(f"rq{n}")).runs) for n in (1, 2, 3, 4))
    assert len(rq1 & rq2 & rq3) == 6  # psp unchanged: two label ratios, three label splits
    assert not rq4 & (rq1 | rq2 | rq3)  # with teacher and pose branch


def test_the_name_of_a_run_has_its_split_method_preset_and_a_digest_of_its_settings(grids) -> None:
    grid = grids.read_grid(settings("rq1"))
    assert {run.split for run in grid.runs.values()} == set(grid.splits)
    assert "ucla-xview-0.05-s0" in grid.splits  # as psptool split names it
    assert all(re.fullmatch(rf"{run.split}-psp-fast-[0-9a-f]{{8}}", run.name) for run in grid.runs.values())


def test_changed_settings_create_other_runs_and_settings_equal_to_the_defaults_do_not(grids) -> None:
    usual = grids.read_grid(settings("rq1")).runs.keys()
    assert not usual & grids.read_grid(settings("rq1", set=["optim.steps=300"])).runs.keys()
    assert (
        usual == grids.read_grid(settings("rq1", set=["optim.steps=600", "optim.momentum=0.9"])).runs.keys()
    )


def test_teacher_settings_change_only_runs_with_a_teacher(grids) -> None:
    usual, changed = (
        grids.read_grid(settings("rq4", ratios=[0.05], set=changes)).tables["rq4"]
        for changes in ([], ["teacher.momentum=0.9"])
    )
    assert changed["supervised"] == usual["supervised"]
    assert changed["without-teacher"] == usual["without-teacher"]
    assert not set(changed["best"]) & set(usual["best"])


def test_strings_from_the_command_line_are_converted_to_lists_and_numbers(grids) -> None:
    requested = settings(
        "ntu60", raw="a.zip", protocols="xview", seeds=["1"], ratios=["0.1"], set="optim.steps=5"
    )
    grid = grids.read_grid(requested)
    assert grid.raw == ["a.zip"]
    assert set(grid.splits) == {"ntu60-xview-0.1-s1", "ntu60-xview-1-s1"}
    assert all("optim.steps=5" in run.arguments for run in grid.runs.values())


def test_a_subset_of_methods_is_compared_only_if_it_includes_the_baseline(grids) -> None:
    grid = grids.read_grid(settings("rq4", only=["supervised", "best"], ratios=[0.05]))
    assert len(grid.runs) == 10
    supervised = [grid.own_scores(run) for run in grid.tables["rq4"]["supervised"]]
    assert grid.bases("rq4") == [supervised]
    assert len(grids.read_grid(settings("rq4", ratios=[0.05])).bases("rq4")) == 2
    assert grids.read_grid(settings("rq4", only="best")).bases("rq4") == []


def test_a_tilde_is_expanded_to_the_home_folder(grids, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    grid = grids.read_grid(settings("rq1", raw="~/all_sqe", out="~/grids"))
    assert grid.raw == ["/home/someone/all_sqe"]
    assert grid.data == "/home/someone/grids/data/ucla.h5"


def test_every_protocol_has_its_own_table(grids) -> None:
    tables = grids.read_grid(settings("ntu60")).tables
    assert set(tables) == {"ntu60-xsub", "ntu60-xview"}
    assert all("-xsub-" in run for runs in tables["ntu60-xsub"].values() for run in runs)


def test_the_folds_of_leave_one_out_share_one_table(grids, tmp_path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: own\nskeleton: kinect20\nformat: {reader: ucla}\nclasses: {1: reach}\nframe_rate: 30\n"
        "clips: {pattern: 'a(?P<label>[0-9]+)_s(?P<subject>[0-9]+)'}\n"
        "protocols: {loso: {leave_one_out: subject}, half: {share: 0.5}}\n"
    )
    requested = settings("rq4", dataset=str(own), protocols=["loso-1", "loso-2"], test_view=None, only="best")
    (runs,) = grids.read_grid(requested).tables["rq4"].values()
    assert len(runs) == 2 * 4 * 5
    several = grids.read_grid({**requested, "protocols": ["loso-1", "half", "loso-2"]})
    assert set(several.tables) == {"rq4-loso", "rq4-half"}
    with pytest.raises(PspError, match="found 'loso', expected one of loso-VALUE, half"):
        grids.read_grid({**requested, "protocols": ["loso"]})


def test_with_a_validation_rule_validation_clips_are_scored_and_no_test_result_is_replaced(grids) -> None:
    grid, usual = grids.read_grid(settings("rq1", validation="view=2")), grids.read_grid(settings("rq1"))
    assert grid.scores_name == "scores-validation.json"
    assert not grid.runs.keys() & usual.runs.keys()
    assert not grid.tables.keys() & usual.tables.keys()
    assert all(split.arguments[-2:] == ("--validation", "view=2") for split in grid.splits.values())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"methds": {}}, "no key 'methds'.*Did you mean methods"),
        ({"raw": []}, "raw=PATH"),
        ({"synthetic": {"actions": [7], "train_subjects": 1, "test_subjects": 1}}, "one of the two"),
        ({"ratios": []}, "ratios or counts"),
        ({"ratios": [5]}, "--ratio.*5"),
        ({"seeds": []}, "seeds"),
        ({"protocols": "xsubb"}, "protocols"),
        ({"against": "jiont"}, "no method of this name: 'jiont' .Did you mean joint"),
        ({"only": ["joint", "prat-joint"]}, "no method of this name: 'prat-joint' .Did you mean part-joint"),
        ({"set": "optim.stes=3"}, "methods.joint: .*Did you mean optim.steps"),
        (
            {"methods": {"a": {"method": "psp", "preset": "fas"}}, "against": ()},
            "methods.a: .*Did you mean fast",
        ),
        ({"resources": {"run": {"threads": 0}}}, "resources.run.threads"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_invalid_settings_are_refused_and_named(grids, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(PspError, match=expected):
        grids.read_grid(settings("rq1", **change))


def test_known_scores_are_used_until_the_run_has_its_own(grids, tmp_path: Path) -> None:
    known = tmp_path / "known"
    grid = grids.read_grid(settings("rq1", out=str(tmp_path / "out"), known=str(known)))
    first, second, *_ = grid.runs
    scores(0.5).save(known / f"{first}.json")
    assert grid.scores(first) == str(known / f"{first}.json")
    assert grid.scores(second) == grid.own_scores(second)
    assert grid.finished("rq1") == [first]
    scores(0.5).save(Path(grid.own_scores(first)))
    assert grid.scores(first) == grid.own_scores(first)


def test_the_baseline_row_has_the_same_name_as_in_the_table(grids, tmp_path: Path) -> None:
    grid = grids.read_grid(settings("rq1", out=str(tmp_path)))
    (base,) = grid.bases("rq1")
    assert base == [grid.own_scores(run) for run in grid.tables["rq1"]["joint"]]
    scores(0.5, changes=('model.levels=["joint"]',)).save(Path(base[0]))
    scores(0.5).save(Path(grid.own_scores(grid.tables["rq1"]["body-part-joint"][0])))
    found = build_table(collect_scores([tmp_path / "runs"]), grids.row(Path(base[0])))
    assert [difference.against for difference in found.differences] == ['psp/fast model.levels=["joint"]']


def test_wait_for_returns_when_no_other_process_trains_in_the_folder(grids, tmp_path: Path) -> None:
    grids.wait_for(tmp_path / "absent")  # no process to wait for
    grids.wait_for(tmp_path)
    assert list(tmp_path.iterdir()) == []
    lock = RunFolder(tmp_path).acquire_lock()
    waiting = threading.Thread(target=grids.wait_for, args=(tmp_path,))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    lock.close()
    waiting.join(5)
    assert not waiting.is_alive()
