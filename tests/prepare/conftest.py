"""Fixtures of the preparation tests."""

import pytest

from psptool.preparation import pipeline


@pytest.fixture
def worker_processes(monkeypatch):
    """Use the requested number of worker processes even for few clips."""
    monkeypatch.setattr(pipeline, "WORTH_WORKERS", 0.0)
