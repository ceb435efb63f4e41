"""Conventions of all commands: output streams, exit codes, suggestions, the next command."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psptool.cli import console
from psptool.common.errors import PspError
from psptool.common.text import counted
from psptool.schemas.published import artefacts
from tests.cli.conftest import Terminal, files


def test_json_is_the_only_output_on_stdout(psptool, ucla_raw):
    prepared = json.loads(psptool("prepare", "ucla", "--raw", ucla_raw, "--json").out)
    assert (prepared["clips"], prepared["file"]) == (18, "data/ucla.h5")
    split = json.loads(psptool("split", "--ratio", "0.5", "--json").out)
    assert (split["labelled"], split["test"]) == (6, 6)
    seen = json.loads(psptool("inspect", "data/ucla.h5", "--json").out)
    keys = ["dataset", "clips", "frames", "rows", "joints", "classes", "quarantined", "skipped", "duplicates"]
    assert list(seen)[: len(keys)] == keys
    assert (seen["dataset"], seen["clips"], seen["joints"], seen["classes"]) == ("ucla", 18, 20, 10)


def test_each_command_names_the_next_one(psptool, ucla_raw):
    assert psptool("prepare", "ucla", "--raw", ucla_raw).out.endswith("Next: psptool split --ratio 0.05\n")
    assert psptool("split", "--ratio", "0.5").out.endswith("Next: psptool train\n")


def test_the_artefact_used_by_default_is_named_on_stderr(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    assert "dataset: data/ucla.h5" in psptool("split", "--ratio", "0.5").err


def test_dry_run_writes_nothing(psptool, ucla_raw):
    ran = psptool("prepare", "ucla", "--raw", ucla_raw, "--dry-run")
    assert "to prepare" in ran.out
    assert files() == []
    assert json.loads(psptool("prepare", "ucla", "--raw", ucla_raw, "--dry-run", "--json").out)["clips"] == 18


def test_a_current_dataset_is_kept_and_reported(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    before = Path("data/ucla.h5").stat().st_ino
    assert "already current" in psptool("prepare", "ucla", "--raw", ucla_raw).err
    assert Path("data/ucla.h5").stat().st_ino == before
    psptool("prepare", "ucla", "--raw", ucla_raw, "--force")
    assert Path("data/ucla.h5").stat().st_ino != before


def test_replacing_a_split_by_one_with_other_clips_is_reported(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    split = ("split", "--ratio", 0.5, "--out", "s.json")
    assert "replaced" not in psptool(*split).err
    assert "replaced" not in psptool(*split).err
    err = " ".join(psptool(*split, "--seed", 1).err.split())
    assert (
        "s.json: replaced (other clips, as many as before); runs trained on it can no longer be evaluated"
        in err
    )
    err = " ".join(psptool("split", "--ratio", 1, "--out", "s.json").err.split())
    assert (
        "(6 labelled, 6 unlabelled and 6 test clips before, 12 labelled, 0 unlabelled and 6 test clips now)"
        in err
    )


def test_preparing_a_current_dataset_makes_it_the_newest(psptool, ucla_raw):
    prepare = ("prepare", "ucla", "--raw", ucla_raw)
    psptool(*prepare)
    psptool(*prepare, "--align", "robust", "--out", "data/robust.h5")
    os.utime("data/ucla.h5", (1, 1))
    psptool(*prepare)
    assert "dataset: data/ucla.h5 (the newest of 2)" in psptool("split", "--ratio", "0.5").err


def test_a_current_dataset_that_cannot_be_made_the_newest_is_reported(psptool, ucla_raw, monkeypatch):
    def refused(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    psptool("prepare", "ucla", "--raw", ucla_raw)
    monkeypatch.setattr(os, "utime", refused)
    ran = psptool("prepare", "ucla", "--raw", ucla_raw)
    assert "data/ucla.h5: not made the newest dataset (Operation not permitted)" in ran.err


def test_creating_a_current_split_makes_it_the_newest(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    psptool("split", "--ratio", "0.5")
    psptool("split", "--ratio", "0.9")
    os.utime("splits/ucla-xview-0.5-s0.json", (1, 1))
    ran = psptool("split", "--ratio", "0.5")
    assert "already current" in ran.err
    assert Path("splits/ucla-xview-0.5-s0.json").stat().st_mtime > 1


def test_several_raw_paths_after_one_option(psptool, ucla_raw, tmp_path):
    names = sorted(ucla_raw.rglob("*.json"))
    for folder, some in (("one", names[:9]), ("two", names[9:])):
        (tmp_path / folder).mkdir()
        for path in some:
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    ran = psptool("prepare", "ucla", "--raw", tmp_path / "one", tmp_path / "two", "--json")
    assert json.loads(ran.out)["clips"] == 18


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("spilt",), "split"),
        (("split", "--ratoi", "0.1"), "--ratio"),
        (("prepare", "utu", "--raw", "x"), "Did you mean ntu?"),
        (("prepare", "ntu", "--raw", "x", "--align", "boddy"), "Did you mean body?"),
        (("schemas", "--show", "splits"), "Did you mean split?"),
    ],
)
def test_the_nearest_name_is_suggested(psptool, arguments, expected):
    assert expected in psptool(*arguments, code=2).err


@pytest.mark.parametrize(
    "arguments", [("split",), ("split", "--ratio", "half"), ("prepare", "ntu"), ("inspect", "x")]
)
def test_usage_errors_have_exit_code_2(psptool, arguments):
    assert psptool(*arguments, code=2).out == ""


def test_check_has_exit_code_1_if_the_split_differs(psptool, ucla_raw):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    psptool("split", "--ratio", "0.5")
    path = Path("splits/ucla-xview-0.5-s0.json")
    assert "identical" in psptool("split", "--check", path).out
    split = json.loads(path.read_text())
    split["seed"] = 1
    path.write_text(json.dumps(split))
    ran = psptool("split", "--check", path, code=1)
    assert "labelled: " in ran.out
    ran = psptool("split", "--check", path, "--json", code=1)
    assert json.loads(ran.out)["same"] is False


def test_ctrl_c_has_exit_code_130_and_no_traceback(tmp_path):
    code = (
        "import psptool.cli.schemas as s, time, psptool.schemas.published as p\n"
        "def wait():\n    print('waiting', flush=True)\n    time.sleep(60)\n"
        "p.artefacts = wait\n"
        "from psptool.cli.main import main\nmain()"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, "schemas"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
        # A test run in the background of a script ignores SIGINT, and so do its child processes.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "waiting\n"
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err == "Stopped.\n"


def test_an_error_of_the_operating_system_causes_no_traceback(psptool, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "schemas/split.json")

    monkeypatch.setattr("psptool.common.atomic_write.write_whole", full)
    assert psptool("schemas", code=2).err == "error: schemas/split.json: No space left on device\n"


def test_closed_stdout_causes_no_traceback(tmp_path):
    ran = subprocess.run(
        f"{sys.executable} -m psptool schemas --show training | head -1",
        shell=True, capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert ran.stdout.startswith("key")
    assert ran.stderr == ""


@pytest.mark.parametrize("command", ["schemas", "split"])
def test_files_are_written_before_their_names_are_printed(psptool, ucla_raw, monkeypatch, command):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    arguments = {"schemas": ("schemas",), "split": ("split", "--ratio", "0.5")}[command]

    def closed(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(console, "_echo", closed)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # the command sets it to None
    psptool(*arguments, code=1)
    written = {"schemas": "schemas/*.json", "split": "splits/*.json"}[command]
    assert len(list(Path().glob(written))) == {"schemas": len(artefacts()), "split": 1}[command]


@pytest.mark.parametrize("no_color", [False, True])
def test_errors_are_coloured_on_a_terminal_unless_no_color_is_set(monkeypatch, no_color):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1") if no_color else monkeypatch.delenv("NO_COLOR", raising=False)
    console.fail("wrong")
    assert "wrong" in terminal.text
    assert ("\x1b[1;31m" in terminal.text) is not no_color


def test_choice_lists_the_accepted_values():
    with pytest.raises(PspError, match="--align: found 'x', expected one of body, none"):
        console.choice("x", ("body", "none"), "--align")


def test_quiet_prints_only_results_and_errors(psptool, ucla_raw):
    ran = psptool("prepare", "ucla", "--raw", ucla_raw, "-q")
    assert "kept" in ran.out
    assert "Next:" not in ran.out
    assert ran.err == ""
    assert psptool("split", "--ratio", "0.5", "--quiet", "--json").err == ""
    assert "at most 1" in psptool("split", "--ratio", "2", "-q", code=2).err
    assert "dataset: data/ucla.h5" in psptool("split", "--ratio", "0.5").err


@pytest.mark.parametrize(
    ("shell", "line", "expected"),
    [
        ("bash", "psptool ev", "evaluate"),
        ("zsh", "psptool train --pre", "--preset"),
        pytest.param("bash", "psptool train --pre", "--preset", marks=pytest.mark.slow),
        pytest.param("zsh", "psptool ev", "evaluate", marks=pytest.mark.slow),
    ],
)
def test_shell_completes_commands_and_options_without_torch(shell, line, expected):
    variables = {"bash": ("COMP_WORDS", "COMP_CWORD"), "zsh": ("_TYPER_COMPLETE_ARGS",)}[shell]
    values = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_TYPER_COMPLETE_ARGS": line}
    code = (
        "import sys; from psptool.cli.main import main\n"
        "try: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "_PSPTOOL_COMPLETE": f"complete_{shell}", **{key: values[key] for key in variables}},
    )  # fmt: skip
    assert expected in ran.stdout
    assert ran.stderr == "False\n"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_script_is_shown(psptool, monkeypatch, shell):
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    assert "_PSPTOOL_COMPLETE" in psptool("--show-completion").out


@pytest.mark.parametrize("no_color", [False, True])
def test_next_and_headline_are_coloured_on_a_terminal_unless_no_color_is_set(monkeypatch, no_color):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1") if no_color else monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(console, "_quiet", False)
    console.next_step("psptool train")
    console.headline("Top-1 19.2 %", " on 3 clips")
    assert ("\x1b[" in terminal.text) is not no_color
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.text)
    assert plain == "Next: psptool train\nTop-1 19.2 % on 3 clips\n"


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips"), (1484, "1,484 clips")]
)
def test_a_number_and_its_noun_agree(number, expected):
    assert counted(number, "clip") == expected
