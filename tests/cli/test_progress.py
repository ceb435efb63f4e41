"""Progress on stderr: a bar that fits a terminal, lines of text elsewhere."""

import re
import shutil
import sys

import pytest

from psptool.cli import console
from psptool.cli import progress as module
from psptool.cli.progress import ProgressReport, duration
from tests.cli.conftest import Terminal

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(autouse=True)
def _not_quiet(monkeypatch):
    monkeypatch.setattr(console, "_quiet", False)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_has_step_loss_rate_and_time_left(clock, capsys):
    report = ProgressReport("step", "steps")
    report(0, 600)
    clock[0] = 60
    report(120, 600, "loss 3.21  lr 0.08", due=True)
    assert capsys.readouterr().err == "step 120/600  loss 3.21  lr 0.08  2.0 steps/s  ETA 4:00\n"


def test_a_line_is_printed_every_30_seconds_without_a_terminal(clock, capsys):
    report = ProgressReport("preparing", "clips")
    for clock[0] in range(0, 100, 10):
        report(int(clock[0]), 1000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["30/1000", "60/1000", "90/1000"]


def test_short_tasks_print_nothing_without_a_terminal(capsys):
    with ProgressReport("working") as report:
        report(1, 3)
    assert capsys.readouterr().err == ""


def test_the_rate_of_a_resumed_training_counts_only_steps_since_it_resumed(clock, capsys):
    report = ProgressReport("step", "steps")
    report(500, 600)
    clock[0] = 10
    report(510, 600, due=True)
    assert "1.0 steps/s  ETA 1:30" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "expected"), [(0, "0:00"), (228, "3:48"), (3599.6, "1:00:00")])
def test_durations(seconds, expected):
    assert duration(seconds) == expected


def test_a_bar_with_step_and_time_left_fits_80_columns_and_notes_are_on_separate_lines(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    with ProgressReport("step", "steps") as report:
        report(0, 60_000)
        clock[0] = 60
        report(12_000, 60_000, "loss 3.21  lr 0.0812  val 45.2 %")
        report._bar.refresh()
        console.note("a note")
    rows = [row.rstrip() for row in re.split(r"[\r\n]", ESCAPES.sub("", terminal.text))]
    assert max(map(len, rows)) <= 80
    assert any("12000/60000" in row and "ETA 4:00" in row and "loss 3.21" in row for row in rows)
    assert "a note" in rows


def test_training_reports_every_step(workspace, psptool, monkeypatch):
    shutil.copytree(workspace, ".", dirs_exist_ok=True)
    seen = []
    monkeypatch.setattr(
        ProgressReport, "__call__", lambda self, done, total, *rest, **options: seen.append(done)
    )
    train = ("train", "--split", "splits/ucla-xview-0.05-s0.json", "--preset", "fast")
    psptool(*train, "--set", "optim.steps=3")
    assert sorted(set(seen)) == [0, 1, 2, 3]


def test_training_without_a_terminal_prints_a_line_every_ten_steps(workspace, psptool):
    shutil.copytree(workspace, ".", dirs_exist_ok=True)
    train = ("train", "--split", "splits/ucla-xview-0.05-s0.json", "--preset", "fast")
    err = psptool(*train, "--set", "optim.steps=21").err
    lines = [line for line in err.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["10/21", "20/21", "21/21"]
    assert all(re.search(r"loss \d+\.\d\d  lr \S+  \S+ steps/s  ETA \d+:\d\d$", line) for line in lines)


def test_export_reports_which_format_it_writes(workspace, psptool):
    shutil.copytree(workspace, ".", dirs_exist_ok=True)
    err = psptool("export", "runs/ucla-xview-0.05-s0-psp-fast", "--safetensors").err
    assert "exporting 0/1  safetensors" in err
