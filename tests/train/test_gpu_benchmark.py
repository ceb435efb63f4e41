"""The GPU benchmark, run on a CPU with tiny networks and a mock of graph capture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "workflows" / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_checks

    return gpu_checks


def test_the_benchmark_checks_all_packages_that_psptool_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = text.partition("\ndependencies = [")[2].partition("\n]")[0]
    assert sorted(gpu.PACKAGES.values()) == sorted(re.findall(r'"([\w-]+)', required))


def test_batches_have_the_sizes_of_the_datasets_and_one_shape(checks: ModuleType) -> None:
    clips = checks.make_clips(99, True, CPU)
    assert (int(clips.persons.sum()), clips.topology.size) == (119, 25)
    assert clips.frames.min() >= 50  # frames per clip in preset paper
    clips = checks.make_clips(80, False, CPU)
    assert (int(clips.persons.max()), clips.topology.size) == (1, 20)
    config = checks.configuration("paper", torch.device("cuda"), 3)
    assert (config.optim.labelled_batch, config.optim.pool_batch, config.sampling.frames) == (9, 90, 50)


def test_flops_of_a_step_grow_with_the_batch_size(checks: ModuleType) -> None:
    config = checks.configuration("paper", CPU, 1)
    larger = checks.configuration("paper", CPU, 1, ["optim.labelled_batch=6", "optim.pool_batch=12"])
    once, twice = (checks.count_flop(found, "float32", CPU) for found in (config, larger))
    assert 1e6 < once < twice < 2.5 * once


def test_a_failed_check_is_reported_and_the_others_still_run(checks: ModuleType, tmp_path: Path) -> None:
    report = checks.Report(tmp_path / "found.json")
    report.check("first", lambda: (True, "well"))
    report.check("second", lambda: 1 / 0)
    report.measure("third", lambda: {}["key"])
    report.check("fourth", lambda: (None, "no GPU"))
    assert report.failed == 2
    found = json.loads((tmp_path / "found.json").read_text())["checks"]
    assert [(entry["check"], entry["passed"]) for entry in found] == [
        ("first", True),
        ("second", False),
        ("third", False),
        ("fourth", None),
    ]
    assert found[1]["detail"] == "ZeroDivisionError: division by zero"


@pytest.mark.slow
def test_all_checks_that_need_no_gpu_run_without_installing_psptool(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--steps", "1"]
    ran = subprocess.run(
        [*map(str, command), "--json", str(tmp_path / "found.json")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [entry["passed"] for entry in found["checks"]] == [None] * 2 + [True] * 5 + [None]
    for entry in found["checks"][2:6]:  # paper and best, in float32 and in bfloat16
        assert "steps equal eager ones" in entry["check"]
        assert entry["detail"].startswith("difference 0.0e+00 (of two eager runs 0.0e+00), loss ")
    assert [(entry["preset"], entry["captured"]) for entry in found["steps"]] == [
        (preset, captured) for preset in ("paper", "best") for captured in (False, True)
    ]
    assert all(entry["ms"] > 0 and entry["launches"] > 500 for entry in found["steps"])
    assert "0 of 8 checks failed" in ran.stdout
