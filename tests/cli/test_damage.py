"""Damaged files: commands verify their input before they compute; files that belong together are written all or none.

`PSPTOOL_DAMAGES=100` sets how many random single-byte changes are tried per file; seeds start at `PSPTOOL_FUZZ_SEED`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from psptool.common.atomic_write import Replacement
from psptool.training import loop
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.state import MAGIC
from tests.cli.conftest import Psptool, files

DAMAGES = int(os.environ.get("PSPTOOL_DAMAGES", "20"))
FIRST = int(os.environ.get("PSPTOOL_FUZZ_SEED", "0"))
DATA = Path("data/ucla.h5")
SPLIT = Path("splits/ucla-xview-0.05-s0.json")
RUN = Path("runs/ucla-xview-0.05-s0-psp-fast")
TRAIN = ("train", "--data", DATA, "--split", SPLIT, "--preset", "fast")


def interrupt(here: Psptool, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that was stopped after its first step; returns its ``resume.pt``."""
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_should_stop", lambda *_: True)
        here(*TRAIN, "--out", "runs/stopped", code=130)
    return Path("runs/stopped/resume.pt")


def flip(path: Path, good: bytes, rng: random.Random) -> str:
    """Change one byte; return a description of the change."""
    place, change = rng.randrange(len(good)), rng.randrange(1, 256)
    path.write_bytes(good[:place] + bytes([good[place] ^ change]) + good[place + 1 :])
    return f"byte {place} of {len(good)}, by {change}"


def result(run: Path) -> dict[str, bytes]:
    return {name: x.numpy().tobytes() for name, x in load_file(run / "last.safetensors").items()}


# --- the dataset


@pytest.mark.parametrize(
    ("array", "value"), [("joint", 0.125), ("present", False), ("state", 1), ("clips/camera", 7)]
)
def test_a_changed_value_is_refused_by_commands_that_compute_with_the_dataset(here, array, value):
    with h5py.File(DATA, "a") as file:
        found = file[array][:]
        found[(5,) * found.ndim if found.ndim < 3 else (5, 3, 1)] = value
        file[array][:] = found
    before = files()
    for command in (
        (*TRAIN, "--out", "runs/new"),
        ("evaluate", RUN),
        ("embed", RUN, "--neighbours", 1),
        ("export-data", "--data", DATA, "--format", "pyskl", "--out", "x.pkl"),
        ("export-data", "--data", DATA, "--format", "stgcn", "--out", "x"),
    ):
        assert f"{DATA}: damaged or altered" in here(*command, code=2).err, command
    assert files() == before


def test_a_changed_clip_table_or_manifest_is_refused_before_a_split_is_created(here):
    good = DATA.read_bytes()
    for column in ("label", "subject", "camera"):
        DATA.write_bytes(good)
        with h5py.File(DATA, "a") as file:
            file[f"clips/{column}"][3] = file[f"clips/{column}"][3] % 2 + 1
        assert (
            "damaged or altered" in here("split", "--count", 1, "--data", DATA, "--out", "s.json", code=2).err
        )
    DATA.write_bytes(good.replace(b'"pick up with one hand"', b'"pick up with one hanD"'))
    assert "manifest" in here("split", "--count", 1, "--data", DATA, "--out", "s.json", code=2).err
    assert not Path("s.json").exists()


@pytest.mark.slow
def test_a_changed_byte_of_a_dataset_is_refused_if_it_alters_a_result(here):
    good, codes = DATA.read_bytes(), []
    here(*TRAIN, "--out", "runs/good")
    expected = result(Path("runs/good"))
    before = here("evaluate", "runs/good", "--no-report", "--json").out
    for seed in range(FIRST, FIRST + DAMAGES):
        change = flip(DATA, good, random.Random(seed))
        shutil.rmtree("runs/new", ignore_errors=True)
        codes.append(here(*TRAIN, "--out", "runs/new", code=None).code)
        assert codes[-1] == 2 or result(Path("runs/new")) == expected, (seed, change)
        ran = here("evaluate", "runs/good", "--no-report", "--json", code=None)
        assert ran.code == 2 or ran.out == before, (seed, change)
    assert 2 in codes
    print({code: codes.count(code) for code in codes})


# --- a run


@pytest.mark.slow
def test_a_changed_byte_of_a_checkpoint_is_refused_if_it_alters_a_result(here, monkeypatch):
    here(*TRAIN, "--out", "runs/good")
    expected = result(Path("runs/good"))
    path = interrupt(here, monkeypatch)
    good = path.read_bytes()
    shutil.copytree(path.parent, "stopped")
    for seed in range(FIRST, FIRST + DAMAGES):
        shutil.rmtree(path.parent)
        shutil.copytree("stopped", path.parent)
        change = flip(path, good, random.Random(seed))
        code = here("train", "--out", path.parent, "--resume", "required", code=None).code
        assert code == 2 or result(path.parent) == expected, (seed, change)


@pytest.mark.slow
def test_a_changed_byte_of_weights_is_refused_if_it_alters_a_result(here):
    path = RUN / "last.safetensors"
    good, expected = path.read_bytes(), here("evaluate", RUN, "--no-report", "--json").out
    for seed in range(FIRST, FIRST + DAMAGES):
        change = flip(path, good, random.Random(seed))
        ran = here("evaluate", RUN, "--no-report", "--json", code=None)
        assert ran.code == 2 or ran.out == expected, (seed, change)


def test_a_changed_checkpoint_is_not_resumed(here, monkeypatch):
    path = interrupt(here, monkeypatch)
    good = path.read_bytes()
    for place in (3, len(MAGIC) + 5, len(good) // 2, len(good) - 400):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        ran = here("train", "--out", path.parent, "--resume", "required", code=2)
        assert f"{path}: damaged" in ran.err
    path.write_bytes(good[:-1])
    assert f"{path}: damaged" in here("train", "--out", path.parent, code=2).err


def test_changed_weights_are_refused_by_commands_that_compute_with_them(here):
    path = RUN / "last.safetensors"
    good = path.read_bytes()
    here("export", RUN, "--safetensors", "--out", "e")
    model = Path("e") / f"{RUN.name}.safetensors"
    path.write_bytes(good[:-3] + bytes([good[-3] ^ 64]) + good[-2:])
    before = files()
    for command in (
        ("evaluate", RUN),
        ("embed", RUN),
        ("export", RUN, "--safetensors"),
        ("predict", "all_sqe", "--model", RUN),
        ("view", DATA, "--model", RUN, "--out", "v.html"),
    ):
        assert f"{path}: damaged or altered" in here(*command, code=2).err, command
    assert "damaged or altered" in here("validate", RUN, code=1).out
    assert files() == before
    content = model.read_bytes()
    model.write_bytes(content.replace(b"pick up with one hand", b"pick up with one hanD"))
    assert model.read_bytes() != content
    assert f"{model}: damaged or altered" in here("predict", "all_sqe", "--model", model, code=2).err


def test_weights_without_a_digest_as_of_an_earlier_version_are_accepted(here):
    expected = here("evaluate", RUN, "--json").out
    save_file(load_file(RUN / "last.safetensors"), RUN / "last.safetensors")
    assert here("evaluate", RUN, "--json").out == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda scores: scores.update(top1=scores["top1"] / 2 + 0.25), "top1: found"),
        (lambda scores: scores["per_class"].update({next(iter(scores["per_class"])): 0.123}), "per_class"),
        (lambda scores: scores["confusion"][0].__setitem__(0, 99), "clips: found 12"),
        (lambda scores: scores["streams"]["joint"].update(top1=0.123), "joint: top1 0.123"),
        (lambda scores: scores.update(clips_unseen=99), "clips_unseen"),
        (lambda scores: scores.update(top1_unseen=float("nan")), "top1_unseen"),
        (lambda scores: scores.update(clips=10**400), "clips"),
    ],
)
def test_scores_that_contradict_their_confusion_matrix_are_refused(here, change, words):
    here("evaluate", RUN, "--no-report")
    path = RUN / "scores.json"
    here("table", RUN)
    here("validate", path)
    scores = json.loads(path.read_text())
    change(scores)
    path.write_text(json.dumps(scores))
    assert words in here("table", RUN, code=2).err.replace("\n", " ")
    assert words in here("validate", path, code=1).out.replace("\n", " ")
    assert words in here("validate", RUN, code=1).out.replace("\n", " ")


# --- a full disk


def test_a_full_disk_during_an_export_is_an_error_and_leaves_no_file(here):
    Path("small").mkdir()
    # A file system of 300 kB, unmounted when the process ends; the arrays have 5 MB.
    script = (
        "mount -t tmpfs -o size=300k tmpfs small || exit 77\n"
        f"{sys.executable} -m psptool export-data --data {DATA} --format stgcn --out small/x\n"
        "code=$?\nfind small -type f\nexit $code"
    )
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    if ran.returncode == 77 or "unshare" in ran.stderr:
        pytest.skip("this system does not allow unprivileged mounts")
    assert ran.returncode == 2, ran
    assert "cannot be written (No space left on device)" in ran.stderr
    assert ran.stdout == ""


def full(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Simulate a full disk when the file ``name`` is flushed."""
    plain = Replacement.sync

    def sync(self: Replacement) -> None:
        if self.target.name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.target))
        plain(self)

    monkeypatch.setattr(Replacement, "sync", sync)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("report.html", ("evaluate", RUN)),
        ("scores.json", ("evaluate", RUN)),
        ("predictions.csv", ("evaluate", RUN)),
        (f"{RUN.name}.md", ("export", RUN, "--safetensors", "--torch-export", "--out", "e")),
        ("ucla-xview-1-s0.json", ("import", "exchange/ucla.pkl", "--out", "data/back.h5")),
        ("back.report.json", ("import", "exchange/ucla.pkl", "--out", "data/back.h5")),
        ("val_label.pkl", ("export-data", "--format", "stgcn", "--out", "x")),
    ],
)
def test_a_command_that_writes_several_files_writes_all_or_none(here, monkeypatch, name, command):
    if command[0] == "import":
        shutil.rmtree("splits")
    for path in RUN.iterdir():
        if path.stem in ("scores", "predictions", "confusion", "report"):
            path.write_bytes(b"old")
    before = {path: Path(path).read_bytes() for path in files()}
    with monkeypatch.context() as patch:
        full(patch, name)
        ran = here(*command, code=2)
    assert "No space left on device" in ran.err
    assert {path: Path(path).read_bytes() for path in files()} == before
    here(*command)
    assert any(Path(path).name == name for path in files())


# --- a training killed before its first checkpoint


def test_a_training_killed_before_its_first_checkpoint_restarts_in_its_folder(here):
    shutil.rmtree("runs")
    here(*TRAIN)
    expected = result(RUN)
    # As after a kill: the configuration remains, and perhaps log entries and a partial file.
    (RUN / "last.safetensors").unlink()
    (RUN / ".last.safetensors.partial").write_bytes(b"x")
    here(*TRAIN)
    assert [path.name for path in Path("runs").iterdir()] == [RUN.name]
    assert result(RUN) == expected
    assert len(RunFolder(RUN).read_log()) == 1


def test_a_training_killed_before_it_wrote_its_configuration_restarts_in_its_folder(here):
    shutil.rmtree("runs")
    RUN.mkdir(parents=True)
    (RUN / ".lock").touch()
    here(*TRAIN)
    assert [path.name for path in Path("runs").iterdir()] == [RUN.name]


def test_resume_off_and_other_settings_do_not_change_a_killed_training(here):
    (RUN / "last.safetensors").unlink()
    before = (RUN / "config.json").read_bytes()
    here(*TRAIN, "--resume", "off")
    here(*TRAIN, "--lr", "0.5")
    here(*TRAIN, "--resume", "required", code=2)
    assert (RUN / "config.json").read_bytes() == before
    assert {path.name for path in Path("runs").glob(f"{RUN.name}*")} == {
        RUN.name,
        f"{RUN.name}-2",
        f"{RUN.name}-3",
    }


def test_the_first_checkpoint_is_early_and_later_ones_follow_once_a_minute(here, monkeypatch):
    saved: list[int] = []
    plain = RunFolder.save_resume
    monkeypatch.setattr(RunFolder, "save_resume", lambda self, state: (saved.append(1), plain(self, state)))
    clock = iter(np.arange(0, 10_000, 0.5))  # the clock advances by half a second per call
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    here(*TRAIN, "--steps", 40, "--out", "runs/new")
    assert len(saved) == 1
