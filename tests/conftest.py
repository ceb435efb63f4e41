"""Fixtures and settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Set before PyTorch is imported, and inherited by the processes that tests start. More threads do not speed up tiny
# networks. On shared cores, they wait for each other. Sums are bit-identical only for equal numbers of threads.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

from psptool.evaluation import api
from psptool.training import record

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

PICTURES = {(record, "curves_png"): record.curves_png, (api, "confusion_png"): api.confusion_png}
"""The functions that plot with Matplotlib at the end of a training and of an evaluation."""


@pytest.fixture(scope="session", autouse=True)
def _no_pictures() -> Iterator[None]:
    """Replace each plot with empty bytes: drawing takes longer than a tiny training."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in PICTURES:
            patch.setattr(module, name, lambda *_: b"")
        yield


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the plots in this test."""
    for (module, name), function in PICTURES.items():
        monkeypatch.setattr(module, name, function)
