"""Real faults: kills at random moments, a full disk, a killed worker, folders that cannot be written."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import time
from importlib import import_module
from pathlib import Path

import pytest

from psptool.common.errors import PspError
from psptool.data.store.validating import validate
from psptool.data.store.writing import StoreWriter
from psptool.preparation import pipeline, worker
from psptool.preparation.pipeline import prepare
from tests.prepare.raw import write_ucla_clips

CLIPS = 90
# Forked processes start fast, because they need no imports.
FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_ucla_clips(folder, CLIPS, frames=20)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(raw, tmp_path_factory):
    done = prepare("ucla", [raw], tmp_path_factory.mktemp("uninterrupted") / "u.h5")
    return done.path.read_bytes(), done.report_path.read_bytes()


def in_a_process(function, *arguments, context=FORK):
    """Run in a separate process; returns its exit code, negative if a signal ended it."""
    process = context.Process(target=function, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


def assert_completes(raw, folder, uninterrupted):
    """Check that the next run writes the bytes of an uninterrupted run and leaves no other file."""
    done = prepare("ucla", [raw], folder / "u.h5")
    assert (done.path.read_bytes(), done.report_path.read_bytes()) == uninterrupted
    assert sorted(path.name for path in folder.iterdir()) == ["u.h5", "u.report.json"]
    return done


def kill_self(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_leaves_the_old_dataset_or_the_complete_new_one(
    raw, tmp_path, uninterrupted
):
    rng = random.Random(5)
    old = prepare("ucla", [raw], tmp_path / "u.h5", pipeline.PreparationSettings(align="none"))
    before = old.path.read_bytes()
    began = time.perf_counter()
    assert in_a_process(prepare, "ucla", [raw], tmp_path / "x.h5") == 0
    duration = time.perf_counter() - began
    (tmp_path / "x.h5").unlink()
    (tmp_path / "x.report.json").unlink()
    killed = tries = 0
    while killed < 30 and tries < 200:
        process = FORK.Process(target=prepare, args=("ucla", [raw], tmp_path / "u.h5"))
        process.start()
        process.join(rng.uniform(0, duration))
        process.kill()
        process.join()
        killed, tries = killed + (process.exitcode == -signal.SIGKILL), tries + 1
        found = old.path.read_bytes()
        assert found in (before, uninterrupted[0])
        if found == uninterrupted[0]:
            prepare("ucla", [raw], tmp_path / "u.h5", pipeline.PreparationSettings(align="none"), force=True)
    assert killed == 30
    assert_completes(raw, tmp_path, uninterrupted)


def kill_before_the_report_is_written(raw, folder):
    pipeline.make_report = kill_self
    prepare("ucla", [raw], folder / "u.h5")


def kill_before_any_file_is_renamed(raw, folder):
    Path.replace = kill_self
    prepare("ucla", [raw], folder / "u.h5")


def kill_before_the_dataset_is_renamed(raw, folder):
    StoreWriter.commit = kill_self
    prepare("ucla", [raw], folder / "u.h5")


def kill_between_dataset_and_report(raw, folder):
    commit = StoreWriter.commit

    def commit_and_kill(writer):
        commit(writer)
        kill_self()

    StoreWriter.commit = commit_and_kill
    prepare("ucla", [raw], folder / "u.h5")


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(kill_before_the_report_is_written, marks=pytest.mark.slow),
        pytest.param(kill_before_any_file_is_renamed, marks=pytest.mark.slow),
        kill_before_the_dataset_is_renamed,
    ],
)
def test_a_run_killed_before_a_rename_leaves_the_old_dataset_and_the_next_run_completes(
    raw, tmp_path, uninterrupted, kill
):
    old = prepare("ucla", [raw], tmp_path / "u.h5", pipeline.PreparationSettings(align="none"))
    before = old.path.read_bytes()
    assert in_a_process(kill, raw, tmp_path) == -signal.SIGKILL
    assert old.path.read_bytes() == before
    assert validate(old.path) == []
    assert not assert_completes(raw, tmp_path, uninterrupted).current


def test_a_run_killed_between_dataset_and_report_leaves_no_report_and_the_next_run_writes_it(
    raw, tmp_path, uninterrupted
):
    assert in_a_process(kill_between_dataset_and_report, raw, tmp_path) == -signal.SIGKILL
    assert validate(tmp_path / "u.h5") == []
    assert not (tmp_path / "u.report.json").exists()
    assert not assert_completes(raw, tmp_path, uninterrupted).current


@pytest.mark.parametrize("name", ["u.h5", "u.report.json"])
def test_a_folder_with_the_name_of_an_output_is_refused_and_no_file_is_written(raw, tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(PspError, match=rf"{name}: cannot be written .*found a folder"):
        prepare("ucla", [raw], tmp_path / "u.h5")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def prepare_with_little_disk(raw, folder, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        prepare("ucla", [raw], folder / "u.h5")
    except PspError as error:
        os._exit(7 if "cannot be written" in str(error) else 8)
    os._exit(9)


@pytest.mark.parametrize("limit", [1000, 300_000, 900_000])
def test_a_full_disk_is_an_error_and_leaves_no_partial_file(raw, tmp_path, uninterrupted, limit):
    assert limit < len(uninterrupted[0])
    assert in_a_process(prepare_with_little_disk, raw, tmp_path, limit) == 7
    assert list(tmp_path.iterdir()) == []
    assert_completes(raw, tmp_path, uninterrupted)


def children_of(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def kill_the_workers(raw, folder):
    """Prepare, and kill the worker processes after the first clip."""
    worker.TASK_CLIPS, pipeline.WORTH_WORKERS = 1, 0.0

    def kill_children(done, _total):
        if done == 1:
            for child in children_of(os.getpid()):
                if "loky" in Path(f"/proc/{child}/cmdline").read_text():
                    os.kill(child, signal.SIGKILL)

    try:
        prepare("ucla", [raw], folder / "u.h5", jobs=2, progress=kill_children)
    except PspError as error:
        os._exit(7 if "worker process was lost" in str(error) else 8)
    os._exit(9)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found through /proc")
def test_a_killed_worker_is_an_error_and_leaves_no_partial_file(raw, tmp_path, uninterrupted):
    # A forked process would inherit the worker pool of an earlier test, without the threads that manage it.
    assert in_a_process(kill_the_workers, raw, tmp_path, context=SPAWN) == 7
    assert list(tmp_path.iterdir()) == []
    assert_completes(raw, tmp_path, uninterrupted)


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), ImportError("no sem_open")])
def test_worker_processes_that_cannot_be_started_are_an_error_that_suggests_jobs_1(
    raw, tmp_path, uninterrupted, monkeypatch, error, worker_processes
):
    # multiprocessing raises these errors if /dev/shm is read-only or missing.
    def refuse(*_, **__):
        raise error

    # Patch the module by its name: before its import, the attribute of the package is multiprocessing's module.
    monkeypatch.setattr(import_module("joblib.externals.loky.backend.synchronize"), "_SemLock", refuse)
    with pytest.raises(PspError, match=r"worker processes cannot be started.*--jobs 1.*/dev/shm"):
        prepare("ucla", [raw], tmp_path / "u.h5", jobs=7)
    assert list(tmp_path.iterdir()) == []
    assert_completes(raw, tmp_path, uninterrupted)


def test_an_output_folder_that_is_a_file_is_an_error_that_names_it(raw, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PspError, match="file"):
        prepare("ucla", [raw], tmp_path / "file" / "u.h5")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write anywhere")
def test_a_folder_without_permission_is_an_error_that_names_the_file(raw, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PspError, match=r"u\.h5"):
            prepare("ucla", [raw], tmp_path / "u.h5")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_deleted_after_it_was_listed_is_an_error_that_names_it(tmp_path, monkeypatch):
    write_ucla_clips(tmp_path / "raw", 3)
    gone = tmp_path / "raw" / "a01_s01_e01_v01.json"
    monkeypatch.setattr(pipeline, "check_disk", lambda *_: gone.unlink())
    with pytest.raises(PspError, match="a01_s01_e01_v01"):
        prepare("ucla", [tmp_path / "raw"], tmp_path / "u.h5")
    assert not list(tmp_path.glob("*u.h5*"))
