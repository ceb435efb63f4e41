"""What all tests have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before PyTorch is imported: test processes that share the cores must not wait for each other's threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from psptool.evaluation import api
from psptool.training import record

PICTURES = {(record, "curves_png"): record.curves_png, (api, "confusion_png"): api.confusion_png}
"""The functions that draw with Matplotlib at the end of a training and of an evaluation."""


@pytest.fixture(scope="session", autouse=True)
def _no_pictures() -> Iterator[None]:
    """Replace the pictures by no bytes: they take more time than a tiny training."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in PICTURES:
            patch.setattr(module, name, lambda *_: b"")
        yield


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the pictures in this test."""
    for (module, name), function in PICTURES.items():
        monkeypatch.setattr(module, name, function)
