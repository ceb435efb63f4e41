"""Fixtures of the tests of preparation."""

import pytest

from psptool.preparation import pipeline


@pytest.fixture
def worker_processes(monkeypatch):
    """Use as many processes as asked for, however few the clips."""
    monkeypatch.setattr(pipeline, "WORTH_WORKERS", 0.0)
