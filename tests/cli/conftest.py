"""The command line as a user meets it: a folder to work in, small recordings, and what a command printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from psptool.cli.main import app
from psptool.synthesis.names import clip_names
from psptool.synthesis.writing import write_ntu, write_ucla

ACTIONS = (7, 24)
UCLA_NAMES = [f"a{a:02d}_s{s:02d}_e00_v{v:02d}" for a in (1, 5) for s in (1, 2, 3) for v in (1, 2, 3)]


@dataclass(frozen=True)
class Ran:
    """One command's end."""

    code: int
    out: str
    err: str


class Psptool(Protocol):
    """Runs the command line in this process."""

    def __call__(self, *arguments: object, code: int | None = 0) -> Ran: ...


@pytest.fixture(scope="session")
def ntu_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 ``.skeleton`` files of NTU 60: 2 actions, 2 train and 2 test subjects, 3 cameras."""
    folder = tmp_path_factory.mktemp("raw") / "ntu"
    write_ntu(folder, clip_names(ACTIONS, train_subjects=2, test_subjects=2, repetitions=(1,)))
    return folder


@pytest.fixture(scope="session")
def ucla_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 JSON files of NW-UCLA: 2 actions, 3 subjects, 3 views."""
    folder = tmp_path_factory.mktemp("raw") / "ucla"
    write_ucla(folder, UCLA_NAMES)
    return folder


@pytest.fixture
def psptool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Psptool:
    """The command line in an empty folder; a code other than the expected one fails the test."""
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
    """All files under the folder worked in, hidden ones too."""
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())
