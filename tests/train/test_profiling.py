"""Where a step's time goes: every part has its share, and no run is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from psptool.training.profiling import OPERATORS, PARTS, profile_training

from .tiny import RECIPE, make_files


@pytest.mark.slow
def test_every_part_of_a_step_takes_time_and_no_run_is_left(tmp_path: Path) -> None:
    files = make_files(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = profile_training(files.data, files.split, RECIPE, torch.device("cpu"), 3)
    assert found.steps == 3
    assert found.parts.keys() == PARTS.keys()
    assert all(milliseconds > 0 for milliseconds in found.parts.values())
    assert 1e3 * found.seconds > sum(found.parts.values())  # the parts lie apart
    assert len(found.operators) == OPERATORS
    spent = [milliseconds for _, milliseconds, _ in found.operators]
    assert spent == sorted(spent, reverse=True)
    assert sorted(tmp_path.rglob("*")) == before
