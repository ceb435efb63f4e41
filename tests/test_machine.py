"""Information about the hardware, the memory and the source revision."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from psptool.common import machine
from psptool.training import guards


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@x")
    ran = subprocess.run(
        ("git", "-C", str(folder), *who, *arguments), capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def test_commit_is_that_of_the_source_and_is_marked_if_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "psptool" / "common"
    package.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    assert machine.commit() is None
    (package / "machine.py").write_text("1\n")
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "x")):
        git(tmp_path, *arguments)
    head = git(tmp_path, "rev-parse", "HEAD")
    assert machine.commit() == head
    (package / "machine.py").write_text("2\n")
    assert machine.commit() == f"{head}+"


def test_hardware_names_the_processor_and_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    assert machine.hardware("cpu") == f"{machine.cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"
    assert machine.usable_cores() >= 1


def test_free_memory_is_at_most_the_total_memory() -> None:
    memory = machine.memory()
    assert memory is None or 0 < memory[0] <= memory[1]


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_is_in_bytes_on_every_system(
    monkeypatch: pytest.MonkeyPatch, system: str, unit: int
) -> None:
    counted = resource.getrusage(resource.RUSAGE_SELF)
    monkeypatch.setattr(resource, "getrusage", lambda who: counted)
    monkeypatch.setattr(sys, "platform", system)
    assert guards._in_use(torch.device("cpu")) == machine.peak_memory() == counted.ru_maxrss * unit
