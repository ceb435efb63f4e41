"""Every command that the README or a ``--help`` shows runs, on small synthetic recordings under the names shown."""

import re
import shutil
from pathlib import Path

import pytest

from psptool.cli.main import app
from tests.cli.conftest import run_line

README = Path(__file__).parents[2] / "README.md"
# What a fresh machine runs; .ci/run runs them.
INSTALLING = [
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/psptool demo",
    ".venv/bin/pip install '.[test]' && .venv/bin/pytest",
]


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and line not in INSTALLING]


SLOW = re.compile(r"psptool (train|demo|export) |psptool demo$|psptool train$|.*--gif")
"""Commands that take more than about 3 s."""


def help_commands() -> list:
    groups = [app.info, *app.registered_commands]
    lines = [line.strip() for group in groups for line in str(group.epilog).splitlines()]
    commands = sorted({line for line in lines if line.startswith("psptool")})
    return [pytest.param(one, marks=pytest.mark.slow) if SLOW.match(one) else one for one in commands]


def test_readme_shows_the_two_commands_of_a_fresh_machine_and_the_four():
    text = README.read_text(encoding="utf-8")
    assert all(command in text for command in INSTALLING)
    four = "psptool prepare ucla --raw all_sqe\npsptool split --ratio 0.05\npsptool train\npsptool evaluate\n"
    assert four in text


@pytest.mark.slow
def test_readme_commands_run_in_the_order_shown(recordings, small, tmp_path, monkeypatch):
    shutil.copytree(recordings, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for command in readme_commands():
        # Two datasets side by side would have to be told apart with --data.
        run_line(
            command + " --out elsewhere/ntu.h5" if command.startswith("psptool prepare ntu") else command
        )


@pytest.mark.parametrize("command", help_commands())
def test_help_example_runs(worked_in, tmp_path, monkeypatch, command):
    if "--onnx" in command:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    shutil.copytree(worked_in, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if command.startswith("psptool export-data"):
        # What `psptool import` reads would be in the way.
        shutil.rmtree("exchange")
    run_line(command)
