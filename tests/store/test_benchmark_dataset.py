"""The dataset that the memory benchmark writes is a readable dataset."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from psptool.data.store.reading import open_store
from tests.builtin import NTU60


def test_the_memory_benchmark_writes_a_dataset_of_the_stated_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "workflows" / "benchmarks"))
    import memory

    monkeypatch.setattr(memory, "PACKED", 4)
    positions = memory.write_dataset(tmp_path / "ntu60.h5", 10)
    monkeypatch.delitem(sys.modules, "memory")
    with open_store(tmp_path / "ntu60.h5") as store:
        assert len(store) == 10
        assert store.array("joint")[:].nbytes == positions
        assert [NTU60.parse(name) for name in store.names] == [store.key(n) for n in range(10)]
        assert np.isfinite(store.clip(9).joint).all()
