"""The command that each command names as the next one works as printed, in a POSIX shell."""

import shlex
import shutil
from pathlib import Path

import pytest

from psptool.cli.console import next_step
from tests.cli.conftest import Psptool, Ran

RUN = Path("runs/ucla-xview-0.05-s0-psp-fast")
SPACED = Path("out dir ü")


def next_command(ran: Ran) -> list[str]:
    """The words after ``Next:``, as a shell splits them."""
    (line,) = [line for line in ran.out.splitlines() if line.startswith("Next: ")]
    return shlex.split(line.removeprefix("Next: "))


def next_words(ran: Ran) -> list[str]:
    """The words after ``Next: psptool``."""
    program, *words = next_command(ran)
    assert program == "psptool"
    return words


@pytest.mark.parametrize("name", ["plain", "a b", "it's", "$HOME", "a;b", "ü", "{}", "*"])
def test_next_command_quotes_each_path_for_the_shell(name, capsys):
    next_step("psptool split --ratio 0.05 --data {}", Path(name))
    words = shlex.split(capsys.readouterr().out)
    assert words == ["Next:", "psptool", "split", "--ratio", "0.05", "--data", name]


def test_next_command_of_prepare_and_split_works_with_spaces_in_the_path(psptool: Psptool, ucla_raw: Path):
    data = SPACED / "my data.h5"
    following = next_words(psptool("prepare", "ucla", "--raw", ucla_raw, "--out", data))
    assert following == ["split", "--ratio", "0.05", "--data", str(data)]
    psptool(*following)
    split = SPACED / "my split.json"
    following = next_words(psptool("split", "--ratio", 0.5, "--data", data, "--out", split))
    assert following == ["train", "--split", str(split), "--data", str(data)]
    psptool(*following, "--dry-run")


def test_next_commands_quote_the_path_of_a_run_with_spaces(here: Psptool):
    run, split, features = SPACED / "my run", SPACED / "my split.json", SPACED / "my features.npz"
    shutil.copytree(RUN, run)
    shutil.copy("splits/ucla-xview-0.05-s0.json", split)
    assert next_words(here("inspect", split)) == ["train", "--split", str(split)]
    assert next_words(here("inspect", run)) == ["evaluate", str(run)]
    assert next_words(here("embed", run, "--out", features)) == ["evaluate", str(run)]
    assert next_words(here("predict", "--model", run, next(Path("all_sqe").iterdir()))) == [
        "evaluate",
        str(run),
    ]
    assert next_words(here("runs", SPACED)) == ["table", str(SPACED)]


def test_next_command_names_the_file_if_there_are_several_datasets(
    psptool: Psptool, ucla_raw: Path, ntu_raw: Path
):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    following = next_words(psptool("prepare", "ntu", "--raw", ntu_raw))
    assert following == ["split", "--ratio", "0.05", "--data", "data/ntu60.h5"]
    ran = psptool("split", "--ratio", 0.05, code=2)
    assert (
        "several datasets in data/: found data/ntu60.h5 (ntu60), data/ucla.h5 (ucla). Select one" in ran.err
    )
    assert next_words(psptool(*following)) == ["train"]
    following = next_words(psptool("split", "--ratio", 0.5, "--data", "data/ucla.h5"))
    assert following == ["train", "--split", "splits/ucla-xview-0.5-s0.json"]
    assert "splits of several datasets in splits/" in psptool("train", "--dry-run", code=2).err
    psptool(*following, "--dry-run")


def test_next_command_names_the_dataset_if_a_newer_one_has_its_name(psptool: Psptool, ucla_raw: Path):
    psptool("prepare", "ucla", "--raw", ucla_raw)
    assert next_words(psptool("prepare", "ucla", "--raw", ucla_raw, "--out", "data/b.h5")) == [
        "split",
        "--ratio",
        "0.05",
    ]
    following = next_words(psptool("split", "--ratio", 0.5, "--data", "data/ucla.h5"))
    assert following == ["train", "--data", "data/ucla.h5"]


def test_evaluate_names_a_file_that_it_has_written(here: Psptool):
    split = "splits/validation.json"
    here("split", "--count", 1, "--validation", "view=2", "--out", split)
    here("train", "--split", split, "--set", "optim.steps=1", "--out", "runs/validated")
    for options in (("--no-report", "--validation"), ("--validation",), ("--no-report",), ()):
        _, opened, *_ = next_command(here("evaluate", "runs/validated", *options))
        assert Path(opened.rstrip(";")).is_file()


def test_runs_names_a_command_that_restarts_a_run_without_a_checkpoint(here: Psptool):
    (RUN / "last.safetensors").unlink()
    following = next_words(here("runs"))
    assert following == ["train", "--resume", "auto", "--out", str(RUN)]
    here(*following)
    assert (RUN / "last.safetensors").exists()
