"""Invalid logs, and names with terminal control characters."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from psptool.common.errors import PspError
from psptool.common.text import printable
from psptool.formats.readers.unpickling import load_pickle
from psptool.schemas.report import PreparationReport
from psptool.training.runs.folder import RunFolder
from tests.cli.conftest import Terminal

RUN = Path("runs/ucla-xview-0.05-s0-psp-fast")
EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r"


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        "null",
        '"step"',
        "{}",
        '{"step": "x", "loss": 1}',
        '{"step": 1, "loss": [1]}',
        '{"step": true}',
        '{"step": 1' + "0" * 400 + ', "lr": 1, "seconds": 1}',
        "[" * 100000,
        '{"step": 1, "loss": null}',
        '{"step": 1, "\\u001b": 1}',
        "\x00",
        '{"step": 2, "loss": -1e308}',
    ],
    ids=range(14),
)
def test_a_log_is_read_up_to_the_first_invalid_line(tmp_path, line):
    folder = RunFolder(tmp_path)
    good = {"step": 1, "loss": 2.0, "lr": 0.1, "seconds": 1.0}
    folder.log.write_text(f"{json.dumps(good)}\n{line}\n{json.dumps(good)}\n")
    assert folder.read_log() == [good]
    assert folder.count_bad_log_lines() == 2


@pytest.mark.parametrize("line", ["[]", '{"step": "x", "loss": 1}', '{"step": 1}', '{"step": 1, "lr": {}}'])
@pytest.mark.parametrize(
    "command", [("evaluate", RUN), ("runs",), ("train", "--preset", "fast", "--out", RUN)]
)
def test_commands_succeed_or_report_an_error_for_a_run_with_an_invalid_log(here, command, line):
    (RUN / "log.jsonl").write_text(line + "\n")
    ran = here(*command, code=None)
    assert ran.code in (0, 2)


def test_control_characters_are_escaped():
    assert printable(EVIL) == r"\u001b[2J\u001b]0;owned\u0007\u009b31m\u202e\u000d"
    assert printable("plain\ttext\nü 数据") == "plain\ttext\nü 数据"


def only_printable(text: str) -> bool:
    return not set(text) & set(EVIL.replace("[2J", "").replace("]0;owned", "").replace("31m", ""))


@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow such names")
@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_names_with_control_characters_are_shown_escaped(here, as_json):
    folder = RUN.with_name(EVIL)
    shutil.copytree(RUN, folder)
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"split_name": "', '"split_name": "\\u001b[2J')
    )
    for command in (("runs", *as_json), ("inspect", folder, *as_json), ("validate", folder, *as_json)):
        ran = here(*command, code=None)
        assert only_printable(ran.out + ran.err), command
        assert ran.code in (0, 1)
    ran = here("inspect", f"{EVIL}.h5", code=2)
    assert only_printable(ran.err)
    if as_json:
        assert json.loads(here("runs", "--json").out)["runs"]


def test_control_characters_in_messages_are_escaped(monkeypatch):
    from psptool.cli import console

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    console.fail(EVIL)
    console.warn(EVIL)
    console.note(EVIL)
    assert "\x1b[2J" not in terminal.text
    assert "\x9b" not in terminal.text


def test_a_view_of_the_working_directory_is_named_after_it(here):
    here("view", ".")
    assert Path(f"{Path.cwd().name}.html").exists()
    assert not Path(".html").exists()


def test_coordinates_beyond_100_m_are_noted(psptool, ucla_raw):
    shutil.copytree(ucla_raw, "raw")
    (path,) = Path("raw").rglob("a01_s01_e00_v01.json")
    values = json.loads(path.read_text())
    values["skeletons"] = [
        [[1000 * value for value in joint] for joint in frame] for frame in values["skeletons"]
    ]
    path.write_text(json.dumps(values))
    psptool("prepare", "ucla", "--raw", "raw", "--jobs", "1")
    notes = PreparationReport.load(Path("data/ucla.report.json")).notes
    assert [note.name for note in notes if "more than 100 m" in note.note] == ["a01_s01_e00_v01"]


@pytest.mark.parametrize("code", [pickle.DUP, pickle.MARK], ids=["DUP", "MARK"])
def test_a_pickle_of_one_repeated_opcode_is_refused_before_it_fills_the_memory(tmp_path, code):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x03N" + code * 20_000_000 + b".")
    with pytest.raises(PspError, match="refused"):
        load_pickle(tmp_path / "x.pkl")


def test_validate_checks_splits_and_runs(here):
    here("validate", RUN)
    (split,) = (
        Path("splits").glob("*-s0.json")
        if len(list(Path("splits").glob("*-s0.json"))) == 1
        else [Path("splits/ucla-xview-0.05-s0.json")]
    )
    here("validate", split)
    values = json.loads(split.read_text())
    values["test"][0], values["labelled"][0] = values["labelled"][0], values["test"][0]
    split.write_text(json.dumps(values))
    assert values["labelled"][0] in here("validate", split, code=1).out
    with (RUN / "log.jsonl").open("a") as file:
        file.write("[]\n")
    assert "log.jsonl: 1 line at its end" in here("validate", RUN, code=1).out
    weights = RUN / "last.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "last.safetensors" in here("validate", RUN, code=1).out
    Path("bad.json").write_text('{"dataset": "ucla", "seed": -1}')
    assert "not a valid Split file" in here("validate", "bad.json", code=1).out
