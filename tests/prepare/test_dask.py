"""A Dask cluster as the workers: the same bytes as on one core."""

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
def test_two_worker_processes_of_a_cluster_give_the_same_bytes(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("psptool.preparation.worker.TASK_CLIPS", 2)
    here = prepare("ucla", [raw], tmp_path / "here" / "u.h5")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        there = prepare("ucla", [raw], tmp_path / "there" / "u.h5", scheduler=cluster.scheduler_address)
    assert here.path.read_bytes() == there.path.read_bytes()


@pytest.mark.slow
def test_a_lost_worker_of_a_cluster_costs_no_clip(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("psptool.preparation.worker.TASK_CLIPS", 1)
    here = prepare("ucla", [raw], tmp_path / "here" / "u.h5")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:

        def lose_one(done, _total):
            if done == 1:
                os.kill(cluster.workers[0].process.pid, signal.SIGKILL)

        out = tmp_path / "there" / "u.h5"
        there = prepare("ucla", [raw], out, scheduler=cluster.scheduler_address, progress=lose_one)
    assert here.path.read_bytes() == there.path.read_bytes()


def test_a_scheduler_that_does_not_answer_is_an_error_that_names_it(raw, tmp_path, monkeypatch):
    client = distributed.Client
    monkeypatch.setattr(
        distributed, "Client", lambda address, timeout, **rest: client(address, timeout="0.5s", **rest)
    )
    with pytest.raises(PspError, match=r"127\.0\.0\.1:1: the Dask scheduler does not respond"):
        prepare("ucla", [raw], tmp_path / "u.h5", scheduler="tcp://127.0.0.1:1")
