"""The artefact that a command uses if none is named: the newest one."""

import json
import os
from pathlib import Path

import pytest

from psptool.cli.newest import RUN, SPLIT, choose
from psptool.common.errors import PspError


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def split_file(name: str, dataset: str, time: int) -> Path:
    path = Path("splits") / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"dataset": dataset}))
    os.utime(path, (time, time))
    return path


def test_the_artefact_modified_last_is_used_and_named_on_stderr(capsys):
    split_file("b.json", "ucla", 100)
    newest = split_file("a.json", "ucla", 200)
    split_file("c.json", "ucla", 150)
    assert choose(SPLIT) == newest
    printed = capsys.readouterr()
    assert "splits/a.json (the newest of 3)" in printed.err
    assert printed.out == ""


def test_a_named_artefact_is_used_even_if_others_exist(capsys):
    split_file("a.json", "ucla", 100)
    split_file("b.json", "ntu60", 100)
    assert choose(SPLIT, Path("elsewhere.json")) == Path("elsewhere.json")


def test_artefacts_of_different_datasets_are_an_error_that_lists_them_and_the_option():
    split_file("a.json", "ucla", 100)
    split_file("b.json", "ntu60", 200)
    with pytest.raises(PspError) as error:
        choose(SPLIT)
    assert "splits/a.json (ucla), splits/b.json (ntu60)" in str(error.value)
    assert "--split" in str(error.value)
    assert choose(SPLIT, dataset="ucla") == Path("splits/a.json")


def test_if_there_is_none_the_error_names_the_command_that_creates_one():
    with pytest.raises(PspError, match="no split in splits/") as error:
        choose(SPLIT)
    assert "psptool split --ratio 0.05" in str(error.value)


def test_a_file_that_is_not_a_split_is_skipped_and_named_on_stderr(capsys):
    split_file("a.json", "ucla", 100)
    Path("splits/b.json").write_text("{")
    assert choose(SPLIT) == Path("splits/a.json")
    assert "splits/b.json" in capsys.readouterr().err


def test_only_folders_with_weights_count_as_runs():
    for name, time, finished in (("old", 100, True), ("new", 200, True), ("unfinished", 300, False)):
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"dataset": "ucla"}')
        if finished:
            (folder / "last.safetensors").touch()
            os.utime(folder / "last.safetensors", (time, time))
    assert choose(RUN) == Path("runs/new")


def test_predict_without_a_run_names_its_own_option(psptool):
    found = psptool("predict", "all_sqe", code=2)
    assert "no run in runs/" in found.err
    assert "give one with --model" in found.err
