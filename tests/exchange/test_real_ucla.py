"""Export of the real NW-UCLA recordings to the formats that support 20 joints, and import."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from psptool.data.store.reading import open_store
from psptool.exchange.formats import FORMATS
from psptool.exchange.importing import import_clips
from psptool.exchange.parts import full_splits, parts_of, splits_of
from psptool.preparation.pipeline import prepare
from psptool.schemas.dataset import PreparationSettings

RAW = os.environ.get("PSPTOOL_UCLA_RAW")
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(RAW is None, reason="PSPTOOL_UCLA_RAW names no folder with the recordings"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    done = prepare("ucla", [Path(RAW)], tmp_path_factory.mktemp("real") / "ucla.h5")
    with open_store(done.path) as opened:
        yield opened


@pytest.mark.parametrize("kind", ["pyskl", "stgcn"])
@pytest.mark.parametrize(("coordinates", "off"), [("normalized", 0.0), ("recorded", 2e-6)])
def test_every_clip_is_preserved(store, tmp_path, kind, coordinates, off):
    form = FORMATS[kind]
    parts = parts_of(store, form, None)
    path = tmp_path / f"ucla{form.ending}"
    form.write(store, parts, coordinates, path)
    contents = [form.read(path)]
    done = import_clips(contents, tmp_path / "back.h5", coordinates, PreparationSettings())
    with open_store(done.path) as back:
        assert back.manifest.fingerprints.clips == store.manifest.fingerprints.clips
        np.testing.assert_allclose(back.array("joint")[:], store.array("joint")[:], rtol=0, atol=off)
        np.testing.assert_array_equal(back.array("present")[:], store.array("present")[:])
        splits, lost = splits_of(back, contents)
        assert [split.digest for split in splits] == [
            split.digest for split in full_splits(store) if split.test_view == 3
        ]
        assert lost == []
