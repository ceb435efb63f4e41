"""The alignment benchmark: its measures, and a complete run on synthetic clips."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from psptool.formats.synthesis.writing import write_ucla


@pytest.fixture
def alignment(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "workflows" / "benchmarks"))
    import alignment

    yield alignment
    monkeypatch.delitem(sys.modules, "alignment")


def rotation_about(axis: int, degrees: float) -> np.ndarray:
    """Rotation about a coordinate axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    one, two = [n for n in range(3) if n != axis] if axis != 1 else (2, 0)
    matrix = np.eye(3)
    matrix[[one, one, two, two], [one, two, one, two]] = cos, -sin, sin, cos
    return matrix


@pytest.mark.parametrize("degrees", [-170.0, -30.0, 0.0, 20.0, 179.0])
def test_yaw_and_tilt_of_a_yaw_followed_by_a_tilt(alignment: ModuleType, degrees: float) -> None:
    rotation = (rotation_about(0, 25) @ rotation_about(2, degrees))[None]
    assert alignment.yaw(rotation)[0] == pytest.approx(abs(degrees), abs=1e-6)
    assert alignment.tilt(rotation)[0] == pytest.approx(25)


def test_fit_recovers_the_rotation_between_two_clips(alignment: ModuleType) -> None:
    one, rotation = (
        np.random.default_rng(0).normal(size=(7, 20, 3)),
        rotation_about(1, 50) @ rotation_about(2, 100),
    )
    np.testing.assert_allclose(alignment.fit(one, one @ rotation.T), rotation, atol=1e-12)


def test_benchmark_prints_a_line_per_estimator(
    alignment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"a{action:02d}_s01_e00_v{view:02d}" for action in (1, 4, 5) for view in (1, 2, 3)]
    write_ucla(tmp_path, names)
    monkeypatch.setattr(sys, "argv", ["alignment.py", str(tmp_path / "all_sqe")])
    alignment.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 pairs of views 1 and 2")
    assert len(lines) == 3 + len(alignment.estimators())
