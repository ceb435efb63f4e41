"""Every command that the README or a ``--help`` shows runs, on small synthetic recordings under the names shown."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from psptool.cli.main import app
from psptool.schemas import training
from psptool.synthesis import names
from psptool.synthesis.names import clip_names
from psptool.synthesis.writing import write_ntu, write_ucla
from tests.cli.conftest import ACTIONS

README = Path(__file__).parents[2] / "README.md"
# What a fresh machine runs; .ci/run runs them.
INSTALLING = [
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/psptool demo",
    ".venv/bin/pip install '.[test]' && .venv/bin/pytest",
]
TINY = {
    "model": {"channels": [8], "inter": [2], "strides": [2], "heads": 2},
    "sampling": {"frames": 8},
    "optim": {"steps": 2, "labelled": 2, "unlabelled": 4},
}
UCLA_NAMES = [
    f"a{a:02d}_s{s:02d}_e{e:02d}_v{v:02d}"
    for a in (1, 5)
    for s in (1, 2)
    for e in (0, 1, 2)
    for v in (1, 2, 3)
]


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and line not in INSTALLING]


def help_commands() -> list[str]:
    groups = [app.info, *app.registered_commands]
    lines = [line.strip() for group in groups for line in str(group.epilog).splitlines()]
    return sorted({line for line in lines if line.startswith("psptool")})


def test_readme_shows_the_two_commands_of_a_fresh_machine_and_the_four():
    text = README.read_text(encoding="utf-8")
    assert all(command in text for command in INSTALLING)
    four = "psptool prepare ucla --raw all_sqe\npsptool split --ratio 0.05\npsptool train\npsptool evaluate\n"
    assert four in text


def run_line(line: str) -> None:
    """Run a shell line of psptool commands in this process."""
    for command in line.split("&&"):
        program, *arguments = shlex.split(command.replace("PATH", "all_sqe"))
        assert program == "psptool"
        if arguments[0] == "prepare" and "--jobs" not in arguments:
            # Worker processes live on from test to test, in the folder of the first.
            arguments += ["--jobs", "1"]
        with pytest.raises(SystemExit) as ended:
            app(arguments, prog_name="psptool")
        assert not ended.value.code, command


@pytest.fixture(scope="module")
def small():
    """Trains with a tiny recipe, and makes up few clips for the demo."""
    demo = clip_names(ACTIONS, 1, 1, (1,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "PRESETS", dict.fromkeys(training.PRESETS, TINY))
        patch.setattr(names, "demo_names", lambda: demo)
        yield


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder with recordings under the names that the commands use."""
    folder = tmp_path_factory.mktemp("recordings")
    ntu = clip_names(ACTIONS, train_subjects=1, test_subjects=1, repetitions=(1,))
    write_ntu(folder / "nturgb+d_skeletons", ntu)
    write_ntu(folder / "nturgbd_skeletons_s001_to_s017.zip", ntu)
    write_ntu(folder / "nturgbd_skeletons_s018_to_s032.zip", clip_names((80,), 1, 1, (1,)))
    write_ucla(folder, UCLA_NAMES)
    return folder


@pytest.fixture(scope="module")
def worked_in(recordings, small, tmp_path_factory):
    """The same folder with what the commands leave behind: schemas, a dataset, two splits and their runs."""
    folder = tmp_path_factory.mktemp("worked") / "in"
    shutil.copytree(recordings, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "psptool schemas",
            "psptool prepare ucla --raw all_sqe",
            "psptool split --ratio 0.05 && psptool train --preset small",
            "psptool split --count 1 --validation view=2 && psptool train --preset small",
        ):
            run_line(line)
    return folder


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
    shutil.copytree(worked_in, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run_line(command)
