"""The page "Use your own data": its commands run on CSV files as it describes them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import psptool as package
from psptool.formats.synthesis.writing import write_ucla
from psptool.schemas.builtin_skeletons import builtin_skeleton
from tests.cli.conftest import Psptool

PAGE = (Path(package.__file__).parent / "OWN_DATA.md").read_text(encoding="utf-8")
ACTIONS = {"a01": "pick_up", "a05": "sit_down", "a11": "throw"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def recordings_as_csv(tmp_path: Path, psptool: Psptool) -> Path:
    """``recordings`` in the folder worked in: 3 actions, 6 subjects, 2 repetitions."""
    names = [f"{a}_s{s:02d}_e{e:02d}_v01" for a in ACTIONS for s in range(1, 7) for e in (0, 1)]
    write_ucla(tmp_path / "raw", names)
    joints = [joint.replace(" ", "_") for joint in builtin_skeleton("kinect20").joints]
    header = ",".join(["frame", *(f"{joint}_{axis}" for joint in joints for axis in "xyz")])
    folder = Path("recordings")
    folder.mkdir()
    for path in (tmp_path / "raw").rglob("*.json"):
        action, subject, episode, _ = path.stem.split("_")
        frames = json.loads(path.read_text(encoding="utf-8"))["skeletons"]
        rows = [
            ",".join([str(number), *(f"{x:.4f}" for joint in frame for x in joint)])
            for number, frame in enumerate(frames)
        ]
        name = f"{ACTIONS[action]}_{subject}_r{int(episode[1:]) + 1}.csv"
        (folder / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_commands_of_the_page_lead_from_csv_files_to_an_evaluated_model(
    recordings_as_csv: Path, psptool: Psptool, small: None
) -> None:
    description, skeleton = blocks("yaml")
    guess, four, rest = blocks("sh")
    psptool(*shlex.split(guess)[1:])
    assert "skeleton: kinect20" in Path("mine.yaml").read_text(encoding="utf-8")
    Path("mine.yaml").write_text(description, encoding="utf-8")
    said = [psptool(*shlex.split(command)[1:]).out for command in four.splitlines()]
    assert re.search(r"kept +36", said[0])
    assert re.search(r"labelled +9\n", said[1])
    Path("mine.yaml").unlink()
    for command in rest.splitlines():
        psptool(*shlex.split(command)[1:])
    assert "sit_down" in Path("timeline.html").read_text(encoding="utf-8")
    # The upper body of the page is a valid skeleton, too.
    other = re.sub("skeleton: kinect20\n", lambda _: skeleton, description)
    Path("upper.yaml").write_text(other, encoding="utf-8")
    assert "upper-body" in psptool("describe", "upper.yaml").out
