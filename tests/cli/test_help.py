"""``--help``: fast, short enough for one screen, with examples."""

import subprocess
import sys

import pytest

from psptool.cli.main import app

HEAVY = {"torch", "h5py", "numba", "scipy", "numpy", "pydantic", "matplotlib", "joblib", "yaml", "rich"}
COMMANDS = [
    command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands
]


def test_help_imports_no_large_library():
    code = (
        "import sys; from psptool.cli.main import app\n"
        "try: app(['--help'])\n"
        f"finally: print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in ran.stdout
    assert ran.stderr.strip() == "[]"


def test_the_list_of_commands_is_complete():
    expected = {
        "prepare",
        "split",
        "train",
        "evaluate",
        "inspect",
        "validate",
        "demo",
        "schemas",
        "table",
        "doctor",
        "view",
        "export-data",
        "import",
    }
    expected |= {"predict", "export", "embed", "config", "runs", "describe"}
    assert set(COMMANDS) == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_shows_examples(psptool, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    lines = psptool(command, "--help").out.splitlines()
    # `train` has more options: one for each setting for which other training tools have one.
    assert len(lines) <= (37 if command == "train" else 26)
    assert max(map(len, lines)) <= 80
    examples = lines[lines.index("  Examples:") + 1 :]
    assert examples
    assert all(line.strip().startswith(f"psptool {command}") for line in examples if line.strip())


def test_list_of_commands_fits_a_screen_and_truncates_no_sentence(psptool, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = psptool("--help").out.splitlines()
    assert len(lines) <= 44
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith("...") for line in lines[lines.index("Start:") :])


def test_commands_are_listed_by_group_in_the_order_of_work(psptool):
    lines = psptool("--help").out.splitlines()
    groups = ["Start:", "Data:", "Train:", "Analyse:", "Share:"]
    assert [line for line in lines if line in groups] == groups
    within = {line.split()[0]: number for number, line in enumerate(lines) if line.startswith("  ")}
    at = {group: lines.index(group) for group in groups}
    assert at["Data:"] < within["prepare"] < within["split"] < at["Train:"]
    assert at["Train:"] < within["train"] < within["runs"] < at["Analyse:"]
    assert at["Analyse:"] < within["evaluate"] < at["Share:"] < within["export"]


def test_help_lists_every_accepted_choice(psptool):
    from typing import get_args

    from psptool.schemas.dataset import Align
    from psptool.schemas.split import Family

    assert all(choice in psptool("prepare", "--help").out for choice in get_args(Align))
    assert all(choice in psptool("split", "--help").out for choice in get_args(Family))


def test_without_a_command_help_is_shown(psptool):
    assert "Train:" in psptool(code=None).out + psptool(code=None).err


@pytest.mark.parametrize(("command", "name"), [("prepare", "PATH"), ("view", "CLIP"), ("import", "FILE")])
def test_usage_has_no_nested_brackets(psptool, command, name):
    usage = psptool(command, "--help").out.splitlines()[0]
    assert name in usage
    assert not any(twice in usage for twice in ("[[", "......", "...}"))


def test_runs_as_a_module():
    ran = subprocess.run(
        [sys.executable, "-m", "psptool", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("psptool ")
