"""A complete grid on synthetic recordings: planned, killed twice, resumed, run once, collected."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from psptool.schemas.scores import Scores
from psptool.schemas.table import ScoreTable

from .conftest import WORKFLOWS

pytest.importorskip("snakemake")
pytestmark = pytest.mark.slow

ROOT = WORKFLOWS.parent
# A checkpoint at every step, and enough steps for a kill between two checkpoints.
LONGER = (
    "set=[sampling.frames=16,optim.steps=25,optim.labelled_batch=8,optim.pool_batch=16,checkpoint_every=1]"
)


@dataclass
class Grid:
    """A grid in its own folder.

    Attributes:
        folder: Where Snakemake runs.
        plan: Output of the first dry run (``-n``).
        before: Modification times of the files of finished runs at the last kill.
        unfinished: Runs that had a checkpoint and no final weights at the last kill.
    """

    folder: Path
    plan: str = ""
    before: dict[Path, int] = field(default_factory=dict)
    unfinished: list[Path] = field(default_factory=list)

    def command(self, *options: str, config: tuple[str, ...] = (), question: str = "smoke") -> list[str]:
        file = str(WORKFLOWS / f"{question}.yaml")
        call = [
            sys.executable,
            "-m",
            "snakemake",
            "-s",
            str(WORKFLOWS / "Snakefile"),
            *options,
            "--cores",
            "2",
        ]
        return [*call, "--configfile", file, "--config", LONGER, *config]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(), cwd=self.folder, env=environment(), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def call(self, *options: str, config: tuple[str, ...] = (), question: str = "smoke") -> str:
        """Run Snakemake and return its output; the test fails if Snakemake does."""
        ran = subprocess.run(
            self.command(*options, config=config, question=question), cwd=self.folder, env=environment(),
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    def runs(self, *present: str, absent: str = "scores.json") -> list[Path]:
        found = (self.folder / "smoke-grid" / "runs").glob("*")
        return [
            run for run in found
            if all((run / name).exists() for name in present) and not (run / absent).exists()
        ]  # fmt: skip

    @property
    def finished(self) -> list[Path]:
        return self.runs("scores.json", absent="none")

    def log(self, run: Path) -> str:
        return (self.folder / "smoke-grid" / "logs" / f"{run.name}.log").read_text(encoding="utf-8")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def modification_times(runs: list[Path]) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for run in runs for path in run.iterdir()}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Plan a grid, kill Snakemake while its trainings continue, kill all processes, then run the grid to its end."""
    grid = Grid(tmp_path_factory.mktemp("grid"))
    grid.plan = grid.call("-n")
    first = grid.start()
    wait_until(lambda: bool(grid.runs("resume.pt")), first)
    first.kill()
    second = grid.start()
    wait_until(
        lambda: bool(grid.finished) and bool(grid.runs("resume.pt", absent="last.safetensors")), second
    )
    for process in (first, second):
        os.killpg(process.pid, signal.SIGKILL)
    grid.before = modification_times(grid.finished)
    grid.unfinished = grid.runs("resume.pt", absent="last.safetensors")
    grid.call()
    return grid


def test_the_dry_run_lists_every_rule_with_its_number_of_jobs(grid: Grid) -> None:
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", grid.plan, re.MULTILINE))
    expected = {"recordings": "1", "prepare": "1", "split": "3", "run": "6", "table": "1", "all": "1"}
    assert jobs == {**expected, "total": "13"}


def test_the_table_has_every_row_with_its_label_splits_and_the_difference_to_supervised(grid: Grid) -> None:
    table = ScoreTable.load(grid.folder / "smoke-grid" / "smoke.json")
    assert (table.dataset, table.protocol, table.part) == ("ntu60", "xsub", "test")
    rows = [(group.labels, group.name.partition(" ")[0], len(group.draws)) for group in table.groups]
    assert sorted(rows) == [
        ("100 %", "supervised/demo", 1), ("2 per class", "psp/demo", 1), ("2 per class", "psp/demo", 2),
        ("2 per class", "supervised/demo", 2),
    ]  # fmt: skip
    assert {found.against.partition(" ")[0] for found in table.differences} == {"supervised/demo"}
    assert len(table.differences) == 2
    page = (grid.folder / "smoke-grid" / "smoke.md").read_text(encoding="utf-8")
    first = re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)
    assert (first.count("2 per class"), first.count("100 %")) == (5, 1)


def test_runs_that_were_finished_when_the_grid_was_killed_are_not_repeated(grid: Grid) -> None:
    assert grid.before
    assert {path: path.stat().st_mtime_ns for path in grid.before} == grid.before


def test_a_killed_training_resumes_from_its_checkpoint(grid: Grid) -> None:
    assert grid.unfinished
    assert all("resuming this run" in grid.log(run) for run in grid.unfinished)
    assert all(Scores.load(run / "scores.json") for run in grid.unfinished)


def test_a_second_call_does_nothing(grid: Grid) -> None:
    assert "Nothing to be done" in grid.call()


def test_a_table_of_fewer_runs_is_outdated_if_more_are_requested_even_without_snakemake_metadata(
    grid: Grid, tmp_path: Path
) -> None:
    other, out = Grid(tmp_path), f"out={grid.folder / 'smoke-grid'}"
    assert "Nothing to be done" in other.call("-n", config=(out,))
    plan = other.call("-n", config=(out, "seeds=[0,7]"))
    assert re.search(r"^run +[1-9]", plan, re.MULTILINE), plan


def test_neither_newer_inputs_nor_forceall_repeat_a_finished_run(grid: Grid) -> None:
    out = grid.folder / "smoke-grid"
    for path in (*out.glob("recordings/*"), *out.glob("data/*"), *out.glob("splits/*")):
        path.touch()
    assert "Nothing to be done" in grid.call()
    forced = grid.call("-n", "--forceall")
    assert set(re.findall(r"^(?:local)?rule (\w+):", forced, re.MULTILINE)) == {"table", "all"}


def test_the_resources_of_a_run_are_stated_for_slurm(grid: Grid) -> None:
    plan = grid.call("-n", question="ntu60", config=(f"raw={grid.folder}", "seeds=[0]", "protocols=xsub"))
    (stated, *_) = re.findall(r"^rule run:\n(?:    .*\n)*?    resources: (.*)", plan, re.MULTILINE)
    assert {"runtime=120", "gpu=1", "mem_mb=32000"} <= set(stated.split(", "))


def test_scores_are_collected_and_another_grid_uses_them_as_finished(grid: Grid) -> None:
    results = grid.folder / "my results"
    output = grid.call("collect", config=(f"results={results}",))
    assert "scores of 6 of 6 runs" in output
    assert {path.stem for path in (results / "smoke").glob("*.json")} == {run.name for run in grid.finished}
    grid.call(config=("out=elsewhere", f"known={results}/smoke"))
    elsewhere = grid.folder / "elsewhere"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["smoke.json", "smoke.md"]
    assert (elsewhere / "smoke.md").read_text() == (results / "smoke" / "table.md").read_text()
