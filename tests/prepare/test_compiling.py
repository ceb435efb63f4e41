"""Compilation of the Numba kernels: its message, and the second process that compiles in parallel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import njit
from numba.core import event

import psptool
from psptool.formats.readers.ntu import NtuReader
from psptool.preparation import compiling

LOAD = """
from psptool.formats.readers.ntu import NtuReader
from psptool.preparation.compiling import load_kernels
load_kernels(NtuReader(), jobs=2, on_message=print)
"""


def test_only_the_first_compilation_prints_a_message():
    messages = []
    listener = compiling._OnFirstCompilation(lambda: messages.append(compiling.MESSAGE))
    with event.install_listener("numba:compile", listener):
        assert njit(lambda x: x + 1)(1) == 2
        assert njit(lambda x: x + 2)(1) == 3
    assert messages == [compiling.MESSAGE]


def test_kernels_loaded_from_the_cache_print_no_message():
    compiling.load_kernels(NtuReader(), 1)
    messages = []
    compiling.load_kernels(NtuReader(), 2, messages.append)
    assert messages == []


def test_a_second_process_that_cannot_start_is_ignored(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with compiling.ExitStack() as stack:
        compiling._start_compiling_others(stack)


def test_the_second_process_imports_no_module_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "numba.py").write_text("open('executed', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compiling, "_COMPILE_OTHERS", "import numba; open('imported', 'w')")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    with compiling.ExitStack() as stack:
        compiling._start_compiling_others(stack)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imported", "numba.py"]


def test_the_second_process_finds_a_psptool_that_was_imported_from_the_working_directory(
    tmp_path, monkeypatch
):
    root = Path(psptool.__file__).parents[1]
    code = f"from psptool.preparation import compiling; open({str(tmp_path / 'found')!r}, 'w')"
    monkeypatch.chdir(root)
    monkeypatch.setattr(compiling, "_COMPILE_OTHERS", code)
    monkeypatch.setattr(sys, "path", ["", *(path for path in sys.path if Path(path) != root)])
    with compiling.ExitStack() as stack:
        compiling._start_compiling_others(stack)
    assert (tmp_path / "found").exists()


@pytest.mark.slow
def test_kernels_are_compiled_once_per_machine(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", LOAD]
    outputs = [
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert outputs == [f"{compiling.MESSAGE}\n", ""]
