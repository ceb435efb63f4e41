"""The reference readers of the benchmark return the expected positions and states."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from psptool.formats.synthesis.recording import Faults, record
from psptool.formats.synthesis.writing import write_ntu

NAMES = ["S001C001P003R001A023", "S002C002P005R001A050", "S003C003P008R002A080"]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "workflows" / "benchmarks"))
    yield
    for name in ("floor", "plain_reader"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_the_floor_benchmark_reads_positions_and_states_of_every_body(tmp_path, benchmarks):
    import floor

    write_ntu(tmp_path, NAMES)
    for name in NAMES:
        xyz, state = floor.scan_file(tmp_path / f"{name}.skeleton")
        clip = record(name)
        np.testing.assert_allclose(xyz, clip.xyz, rtol=1e-6)
        np.testing.assert_array_equal(state, clip.state)


def test_the_plain_reader_returns_a_centred_upright_main_person_with_unit_spine_length(tmp_path, benchmarks):
    import plain_reader

    write_ntu(tmp_path, NAMES, faults=Faults.none())
    for name in NAMES:
        recorded, joint, motion = plain_reader.prepare(tmp_path / f"{name}.skeleton")
        persons = 2 if name.endswith("A050") else 1
        assert joint.shape == motion.shape == recorded.shape == (persons, record(name).frames, 25, 3)
        assert joint[0, 0, 0] == pytest.approx(0)
        assert np.linalg.norm(joint[0, 0, 20]) == pytest.approx(1)
        assert joint[0, :5, 20].mean(axis=0)[2] > 0.95
        np.testing.assert_array_equal(motion[:, :-1], joint[:, 1:] - joint[:, :-1])
