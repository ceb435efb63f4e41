"""The commands of the page "Use your own data", run on CSV files as described there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import psptool as package
from tests.cli.conftest import Psptool

PAGE = (Path(package.__file__).parent / "OWN_DATA.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def write_recordings() -> None:
    """Run the code of the page, which writes the folder ``recordings``: 3 actions, 6 subjects, 2 repetitions."""
    (code,) = blocks("python")
    exec(code, {})


def test_recordings_written_by_the_code_of_the_page_have_the_columns_shown_there(psptool: Psptool) -> None:
    write_recordings()
    example, _ = blocks("text")
    start = example.split("\n")[0].removesuffix("...")
    lines = Path("recordings/sit_down_s02_r1.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(start)
    assert [line.count(",") for line in lines] == [60] * len(lines)
    assert [line.split(",")[0] for line in lines[1:3]] == ["0", "1"]
    assert "skeleton: kinect20" in psptool("describe", "--from", "recordings").out


@pytest.mark.slow
def test_the_commands_of_the_page_lead_from_csv_files_to_an_evaluated_model(
    psptool: Psptool, small: None
) -> None:
    write_recordings()
    description, skeleton = blocks("yaml")
    guess, steps, rest = blocks("sh")
    psptool(*shlex.split(guess)[1:])
    assert "skeleton: kinect20" in Path("mine.yaml").read_text(encoding="utf-8")
    Path("mine.yaml").write_text(description, encoding="utf-8")
    outputs = [psptool(*shlex.split(command)[1:]).out for command in steps.splitlines()]
    assert re.search(r"kept +36", outputs[0])
    assert re.search(r"labelled +9\n", outputs[1])
    Path("mine.yaml").unlink()
    for command in rest.splitlines():
        psptool(*shlex.split(command)[1:])
    assert "sit_down" in Path("timeline.html").read_text(encoding="utf-8")
    # The upper-body skeleton of the page is valid, too.
    other = re.sub("skeleton: kinect20\n", lambda _: skeleton, description)
    Path("upper.yaml").write_text(other, encoding="utf-8")
    assert "upper-body" in psptool("describe", "upper.yaml").out
