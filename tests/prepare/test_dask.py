"""Preparation on a Dask cluster writes the same bytes as on one core."""

from __future__ import annotations

import os
import signal

import pytest

from psptool.common.errors import PspError
from psptool.preparation.pipeline import prepare
from tests.prepare.raw import write_ucla_clips

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")


@pytest.fixture
def raw(tmp_path):
    write_ucla_clips(tmp_path / "raw", 10)
    return tmp_path / "raw"


@pytest.mark.slow
def test_two_workers_of_a_cluster_write_the_same_bytes(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("psptool.preparation.worker.TASK_CLIPS", 2)
    local = prepare("ucla", [raw], tmp_path / "local" / "u.h5")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        remote = prepare("ucla", [raw], tmp_path / "remote" / "u.h5", scheduler=cluster.scheduler_address)
    assert local.path.read_bytes() == remote.path.read_bytes()


@pytest.mark.slow
def test_no_clip_is_lost_with_a_killed_worker_of_a_cluster(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("psptool.preparation.worker.TASK_CLIPS", 1)
    local = prepare("ucla", [raw], tmp_path / "local" / "u.h5")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:

        def kill_one(done, _total):
            if done == 1:
                os.kill(cluster.workers[0].process.pid, signal.SIGKILL)

        out = tmp_path / "remote" / "u.h5"
        remote = prepare("ucla", [raw], out, scheduler=cluster.scheduler_address, progress=kill_one)
    assert local.path.read_bytes() == remote.path.read_bytes()


def test_a_scheduler_that_does_not_respond_is_an_error_with_its_address(raw, tmp_path, monkeypatch):
    client = distributed.Client
    monkeypatch.setattr(
        distributed, "Client", lambda address, timeout, **rest: client(address, timeout="0.5s", **rest)
    )
    with pytest.raises(PspError, match=r"127\.0\.0\.1:1: the Dask scheduler does not respond"):
        prepare("ucla", [raw], tmp_path / "u.h5", scheduler="tcp://127.0.0.1:1")
