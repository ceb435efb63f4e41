"""A run folder: its name, and how its files are written."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from psptool.common.errors import PspError
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.run import Provenance, RunConfig
from psptool.training.runs.folder import RunFolder
from tests.builtin import UCLA

from ..trained import TRAINING

CONFIG = RunConfig(
    description=UCLA.complete(),
    preparation=PreparationSettings(),
    split_name="ucla-xview-0.05-s0",
    split_digest="0" * 64,
    clips_fingerprint="1" * 64,
    content_fingerprint="2" * 64,
    seed=0,
    precision="float32",
    training=TRAINING,
    provenance=(
        Provenance(
            device="cpu",
            data_path="data/ucla.h5",
            split_path="splits/ucla-xview-0.05-s0.json",
            tool_version="test",
        ),
    ),
)


def create(config: RunConfig, *where: Path) -> RunFolder:
    """A new run folder, with its lock released."""
    folder, lock = RunFolder.create(config, *where)
    lock.close()
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_name_has_split_method_and_preset_and_later_runs_are_numbered() -> None:
    stem = "ucla-xview-0.05-s0-psp-fast"
    made = [create(CONFIG).path for _ in range(3)]
    assert made == [Path("runs") / name for name in (stem, f"{stem}-2", f"{stem}-3")]
    assert RunConfig.load(made[2] / "config.json") == CONFIG


def test_another_method_has_another_name() -> None:
    other = CONFIG.model_copy(update={"training": TRAINING.model_copy(update={"method": "supervised"})})
    assert create(CONFIG).path.name == "ucla-xview-0.05-s0-psp-fast"
    assert create(other).path.name == "ucla-xview-0.05-s0-supervised-fast"


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "absent"])
def test_a_named_folder_is_used_if_it_is_absent_or_empty(exists: bool) -> None:
    out = Path("deep") / "run"
    if exists:
        out.mkdir(parents=True)
    assert create(CONFIG, out).config == out / "config.json"
    assert RunConfig.load(out / "config.json") == CONFIG
    assert not Path("runs").exists()


def test_a_named_folder_that_is_not_empty_is_refused_and_left_unchanged() -> None:
    out = Path("run")
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(PspError, match=r"run: the folder is not empty.*Choose a new folder with --out"):
        create(CONFIG, out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_the_folder_of_a_process_killed_before_it_wrote_its_configuration_is_used() -> None:
    out = Path("run")
    out.mkdir()
    (out / ".config.json.partial").write_text('{"format')
    assert RunConfig.load(create(CONFIG, out).config) == CONFIG
    assert sorted(path.name for path in out.iterdir()) == [".lock", "config.json"]


@pytest.mark.parametrize("out", [Path("file"), Path("file/run"), None], ids=["file", "below a file", "runs"])
def test_a_folder_that_cannot_be_created_is_an_error_with_a_suggestion(out: Path | None) -> None:
    Path("file").write_text("")
    Path("runs").write_text("")
    with pytest.raises(PspError, match=r"the run folder cannot be created .*--out"):
        create(CONFIG, out)


@pytest.mark.parametrize("name", ["log.jsonl", "resume.pt", "last.safetensors"])
def test_an_error_removes_no_run_that_has_a_log_a_checkpoint_or_weights(name: str) -> None:
    run = create(CONFIG)
    (run.path / name).touch()
    before = sorted(Path().rglob("*"))
    with pytest.raises(PspError), run.removed_on_error(Path()):
        raise PspError("the disk is full")
    assert sorted(Path().rglob("*")) == before


def test_every_log_entry_is_one_line() -> None:
    folder = create(CONFIG)
    entries = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1e-30, "note": "a\nb"}]
    for entry in entries:
        folder.append_log(entry)
    lines = folder.log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == entries


def test_a_log_that_cannot_be_written_is_an_error_that_names_it() -> None:
    folder = create(CONFIG)
    folder.log.mkdir()
    with pytest.raises(PspError, match=r"log\.jsonl: cannot be written"):
        folder.append_log({"step": 1})


WEIGHTS = {"a": torch.randn(3, 4).T, "b": torch.arange(5), "c": torch.tensor(2.0, requires_grad=True)}


def test_saved_weights_are_bit_identical_including_noncontiguous_ones() -> None:
    folder = create(CONFIG)
    folder.save_weights("last", WEIGHTS)
    found = load_file(folder.weights("last"))
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_weights_that_cannot_be_written_leave_only_the_old_ones(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = create(CONFIG)
    folder.save_weights("best", WEIGHTS)
    before = folder.weights("best").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        with pytest.raises(PspError, match=r"best\.safetensors: cannot be written \(No space left"):
            folder.save_weights("best", {"a": torch.zeros(2)})
    assert folder.weights("best").read_bytes() == before
    assert {path.name for path in folder.path.iterdir()} == {".lock", "config.json", "best.safetensors"}


def test_an_absent_run_is_an_error_that_suggests_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "ucla-s0-psp").mkdir()
    with pytest.raises(PspError, match=r"ucla-s1-psp: there is no such run.*Did you mean ucla-s0-psp\?"):
        RunFolder(tmp_path / "ucla-s1-psp").read_config()
    with pytest.raises(PspError, match=r"there is no such run.*psptool train"):
        RunFolder(tmp_path / "none" / "x").read_config()
    with pytest.raises(PspError, match=r"ucla-s0-psp: not a run folder.*no config.json"):
        RunFolder(tmp_path / "ucla-s0-psp").read_config()
    (tmp_path / "a.h5").touch()
    with pytest.raises(PspError, match=r"a\.h5: not a run folder"):
        RunFolder(tmp_path / "a.h5").read_config()
