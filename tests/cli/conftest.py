"""Fixtures of the command-line tests: a working folder, small recordings, and the output of a command."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from psptool.cli.main import app
from psptool.formats.synthesis import names
from psptool.formats.synthesis.names import clip_names
from psptool.formats.synthesis.writing import write_ntu, write_ucla
from psptool.schemas import recipes
from psptool.schemas.builtin_skeletons import FOLDER

ACTIONS = (7, 24)
UCLA_NAMES = [f"a{a:02d}_s{s:02d}_e00_v{v:02d}" for a in (1, 5) for s in (1, 2, 3) for v in (1, 2, 3)]


@dataclass(frozen=True)
class Ran:
    """Exit code and output of one command."""

    code: int
    out: str
    err: str


class Psptool(Protocol):
    """Runs the command line in this process."""

    def __call__(self, *arguments: object, code: int | None = 0) -> Ran: ...


class Terminal:
    """A stream that reports to be a terminal and keeps what is written."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="package")
def ntu_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 ``.skeleton`` files of NTU 60: 2 actions, 2 train and 2 test subjects, 3 cameras."""
    folder = tmp_path_factory.mktemp("raw") / "ntu"
    write_ntu(folder, clip_names(ACTIONS, train_subjects=2, test_subjects=2, repetitions=(1,)))
    return folder


@pytest.fixture(scope="package")
def ucla_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 JSON files of NW-UCLA: 2 actions, 3 subjects, 3 views."""
    folder = tmp_path_factory.mktemp("raw") / "ucla"
    write_ucla(folder, UCLA_NAMES)
    return folder


@pytest.fixture
def psptool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Psptool:
    """The command line in an empty folder; an exit code other than the expected one fails the test."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object, code: int | None = 0) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments], prog_name="psptool")
        printed = capsys.readouterr()
        found: Any = ended.value.code
        ran = Ran(0 if found is None else int(found), printed.out, printed.err)
        assert code is None or ran.code == code, ran
        assert "Traceback" not in ran.err
        return ran

    return run


def files() -> list[str]:
    """All files under the working folder, including hidden ones."""
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


TINY = {
    "model": {"channels": [8], "qk_channels": [2], "strides": [2], "heads": 2},
    "sampling": {"frames": 8},
    "optim": {"steps": 2, "labelled_batch": 2, "pool_batch": 4},
}
SHOWN_UCLA_NAMES = [
    f"a{a:02d}_s{s:02d}_e{e:02d}_v{v:02d}"
    for a in (1, 5)
    for s in (1, 2)
    for e in (0, 1, 2)
    for v in (1, 2, 3)
]


def run_line(line: str) -> None:
    """Run a shell line of psptool commands in this process; a redirection of stdout is ignored."""
    for command in line.partition(" > ")[0].split("&&"):
        program, *arguments = shlex.split(command.replace("PATH", "all_sqe"), comments=True)
        assert program == "psptool"
        if arguments[0] == "prepare" and "--jobs" not in arguments:
            # Worker processes are reused across tests and stay in the folder of the first test.
            arguments += ["--jobs", "1"]
        with pytest.raises(SystemExit) as ended:
            app(arguments, prog_name="psptool")
        assert not ended.value.code, command


@pytest.fixture(scope="package")
def small() -> Iterator[None]:
    """Replaces all presets with tiny training settings, and the clips of the demo with a few."""
    demo = clip_names(ACTIONS, 1, 1, (1,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "PRESETS", dict.fromkeys(recipes.PRESETS, TINY))
        patch.setattr(names, "demo_names", lambda: demo)
        yield


@pytest.fixture(scope="package")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings under the file names of the documented commands."""
    folder = tmp_path_factory.mktemp("recordings")
    ntu = clip_names(ACTIONS, train_subjects=1, test_subjects=1, repetitions=(1,))
    write_ntu(folder / "nturgb+d_skeletons", ntu)
    write_ntu(folder / "nturgbd_skeletons_s001_to_s017.zip", ntu)
    write_ntu(folder / "nturgbd_skeletons_s018_to_s032.zip", clip_names((80,), 1, 1, (1,)))
    write_ucla(folder, SHOWN_UCLA_NAMES)
    return folder


@pytest.fixture(scope="package")
def workspace(recordings: Path, small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `recordings` with the output of commands: schemas, a dataset, two splits and their runs."""
    folder = tmp_path_factory.mktemp("workspace") / "files"
    shutil.copytree(recordings, folder)
    shutil.copytree(folder / "all_sqe", folder / "recordings")
    description = (FOLDER / "datasets" / "ucla.yaml").read_text(encoding="utf-8")
    (folder / "mine.yaml").write_text(description.replace("name: ucla", "name: mine"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "psptool schemas",
            "psptool prepare ucla --raw all_sqe",
            "psptool split --ratio 0.05 && psptool train --preset fast",
            "psptool evaluate runs/ucla-xview-0.05-s0-psp-fast",
            "psptool split --count 1 --validation view=2 && psptool train --preset fast",
            "psptool export-data --format pyskl --out exchange/ucla.pkl",
            "psptool export-data --format stgcn --out exchange/ucla",
        ):
            run_line(line)
    return folder


@pytest.fixture
def here(workspace: Path, psptool: Psptool) -> Psptool:
    """Runs commands in a copy of the folder `workspace`, which has a dataset, splits and runs."""
    shutil.copytree(workspace, ".", dirs_exist_ok=True)
    return psptool
