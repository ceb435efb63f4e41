"""Exclusive use of a run folder, and errors of folders that cannot be used."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
import torch

from psptool.cli.newest import Stage, choose
from psptool.common.errors import PspError
from psptool.schemas.run import RunConfig
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.state import seal
from psptool.training.runs.unfinished import RunSlot, find_weights, resolve_run

from .test_folder import CONFIG


def checkpoint(step: int) -> bytes:
    """The content of a ``resume.pt`` without weights."""
    file = io.BytesIO()
    fields = {"step": step, "seconds": 1.0, "best": -1.0, "best_step": 0, "window": torch.zeros(0, 0)}
    torch.save({**fields, "model": {}, "optimizer": {}, "teacher": {}, "random": []}, file)
    return seal(file.getvalue())


def unfinished(path: Path, step: int = 16) -> RunFolder:
    """The folder of an interrupted training."""
    folder, lock = RunFolder.create(CONFIG, path)
    lock.close()
    folder.resume.write_bytes(checkpoint(step))
    return folder


@pytest.mark.parametrize("resume", ["auto", "off"])
def test_only_one_of_two_trainings_started_at_once_in_one_folder_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: str
) -> None:
    got: list[RunSlot | str] = []
    plain = RunConfig.save

    def request() -> None:
        try:
            got.append(resolve_run(CONFIG, tmp_path / "run", tmp_path, resume))  # type: ignore[arg-type]
        except PspError as error:
            got.append(str(error))

    def save(config: RunConfig, path: Path) -> None:
        monkeypatch.setattr(RunConfig, "save", plain)
        request()  # The second request, just before the configuration of the first one is written.
        plain(config, path)

    monkeypatch.setattr(RunConfig, "save", save)
    request()
    second, first = got
    assert isinstance(first, RunSlot)
    assert isinstance(second, str)
    assert "another psptool process is training in this folder" in second


def test_only_one_of_many_trainings_started_at_once_in_one_folder_gets_it(tmp_path: Path) -> None:
    for number in range(10):
        got: list[RunSlot] = []
        refused: list[str] = []
        start = threading.Barrier(6)

        def request(
            out: Path,
            start: threading.Barrier = start,
            got: list[RunSlot] = got,
            refused: list[str] = refused,
        ) -> None:
            start.wait()
            try:
                got.append(resolve_run(CONFIG, out, tmp_path, "auto"))
            except PspError as error:
                refused.append(error.what)

        threads = [threading.Thread(target=request, args=(tmp_path / f"run-{number}",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        assert len(refused) == 5
        assert all("another psptool process" in words for words in refused)


def test_the_lock_of_a_run_that_was_removed_meanwhile_is_not_acquired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)

    def lock_after_removal(held: object) -> bool:
        run.lock.unlink()
        return True

    monkeypatch.setattr("psptool.training.runs.folder.lock", lock_after_removal)
    with pytest.raises(PspError, match="another psptool process"):
        run.acquire_lock()


def test_no_lock_file_is_created_in_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for resume in ("auto", "off", "required"):
        with pytest.raises(PspError, match=r"not empty|no unfinished run"):
            resolve_run(CONFIG, tmp_path, tmp_path, resume)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(PspError, match="no unfinished run"):
        resolve_run(CONFIG, tmp_path / "absent", tmp_path, "required")
    assert not (tmp_path / "absent").exists()


def test_a_damaged_configuration_is_reported_when_a_new_run_is_created(tmp_path: Path) -> None:
    folder = unfinished(tmp_path / "runs" / "a")
    folder.config.write_text('{"format_ver')
    slot = resolve_run(CONFIG, None, tmp_path / "runs", "auto")
    ((path, words),) = slot.unreadable
    assert path == folder.path
    assert "config.json: not a valid RunConfig file" in words
    with pytest.raises(PspError, match=r"no unfinished run.*a: config\.json: not a valid RunConfig file"):
        resolve_run(CONFIG, None, tmp_path / "runs", "required")


@pytest.mark.parametrize("resume", ["auto", "required", "off"])
def test_a_damaged_configuration_in_a_named_folder_is_an_error(tmp_path: Path, resume: str) -> None:
    folder = unfinished(tmp_path / "a")
    folder.config.write_text("{}")
    with pytest.raises(PspError, match=r"config\.json: not a valid RunConfig file|the folder is not empty"):
        resolve_run(CONFIG, folder.path, tmp_path, resume)  # type: ignore[arg-type]
    assert folder.config.read_text() == "{}"


def test_a_run_that_vanishes_while_runs_are_listed_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, plain = tmp_path / "gone" / "resume.pt", Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([gone, *plain(self, pattern)]))
    other = unfinished(tmp_path / "other")
    slot = resolve_run(CONFIG, None, tmp_path, "auto")
    assert (slot.folder, slot.unreadable) == (other, ())


def test_a_run_that_vanishes_while_the_newest_is_chosen_does_not_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.h5", "b.h5"):
        Path(name).touch()

    def dataset(path: Path) -> str:
        if path.name == "b.h5":
            path.unlink()
        return "ucla"

    assert choose(Stage("dataset", "*.h5", "--data", "psptool prepare", dataset)) == Path("a.h5")


@pytest.mark.parametrize("which", ["last", "best"])
def test_weights_of_an_interrupted_run_are_an_error_with_its_step_and_how_to_resume(
    tmp_path: Path, which: str
) -> None:
    folder = unfinished(tmp_path / "a run")
    steps = CONFIG.training.optim.steps
    with pytest.raises(PspError) as caught:
        find_weights(folder, CONFIG, which)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"{folder.path}: interrupted at step 16 of {steps}. "
        f"Resume: psptool train --resume required --out '{folder.path}'"
    )
    with folder.acquire_lock(), pytest.raises(PspError, match="is being trained"):
        find_weights(folder, CONFIG, "last")
    folder.resume.unlink()
    with pytest.raises(PspError, match=r"interrupted before the first checkpoint.*--resume auto --out"):
        find_weights(folder, CONFIG, "last")
    folder.weights("last").touch()
    assert find_weights(folder, CONFIG, "last") == folder.weights("last")
    with pytest.raises(PspError, match="Omit --weights best"):
        find_weights(folder, CONFIG, "best")
