"""What all trainings of these tests have in common."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matplotlib would take half of the time of so short a training."""
    monkeypatch.setattr("psptool.training.record.curves_png", lambda *_: b"")
