"""Features of clips: the classifier maps them to the logits, and files store them without pickle."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from psptool.common.errors import PspError
from psptool.data.store.reading import open_store
from psptool.evaluation import features as features_module
from psptool.evaluation.features import ClipFeatures, embed, features_file
from psptool.evaluation.models import TrainedModel, open_model
from psptool.evaluation.scoring import score_clips
from psptool.schemas.split import Split

from ..stores import make_clip, write_ucla
from ..trained import make_run, make_split

NAMES = [f"a01_s01_e0{n}_v0{1 + n % 3}" for n in range(5)]
CLASSES = [str(n) for n in range(10)]


@pytest.fixture
def model_and_features(tmp_path: Path) -> tuple[TrainedModel, ClipFeatures]:
    """A run on five clips, one of them with two persons, and their features."""
    persons = [((True,) * 6,), ((True,) * 6, (False,) * 3 + (True,) * 3), *[((True,) * 6,)] * 3]
    clips = [
        make_clip(name, n, present) for n, (name, present) in enumerate(zip(NAMES, persons, strict=True))
    ]
    manifest = write_ucla(tmp_path / "ucla.h5", clips)
    parts = {"labelled": NAMES[:1], "unlabelled": NAMES[1:2], "test": NAMES[2:4]}
    split: Split = make_split(tmp_path / "split.json", manifest, parts)
    make_run(tmp_path / "run", manifest, tmp_path / "ucla.h5", tmp_path / "split.json")
    model = open_model(tmp_path / "run")
    with open_store(tmp_path / "ucla.h5") as store:
        return model, embed(model, store, split)


def test_the_classifier_maps_the_features_to_the_logits(
    model_and_features: tuple[TrainedModel, ClipFeatures],
) -> None:
    model, features = model_and_features
    with open_store(model.config.latest.data_path) as store:
        scored = score_clips(model.net, model.config, store, np.arange(5), torch.device("cpu"))
    for name, x in features.by_stream.items():
        found = model.net.classifier(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(found, scored.by_stream[name], atol=1e-5)


def test_clips_loaded_in_chunks_have_the_same_features(
    model_and_features: tuple[TrainedModel, ClipFeatures], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, whole = model_and_features
    monkeypatch.setattr(features_module, "CHUNK", 2)
    with open_store(model.config.latest.data_path) as store:
        parts = embed(model, store, Split.load(Path(model.config.latest.split_path)))
    for name, x in whole.by_stream.items():
        np.testing.assert_allclose(parts.by_stream[name], x, rtol=1e-5, atol=1e-6)


def test_parts_are_those_of_the_split(model_and_features: tuple[TrainedModel, ClipFeatures]) -> None:
    _, features = model_and_features
    order = dict(zip(features.names, features.parts, strict=True))
    assert [order[name] for name in NAMES] == ["labelled", "unlabelled", "test", "test", ""]
    assert [features.names[n] for n in features.within("test")] == sorted(NAMES[2:4])
    assert features.concatenated.shape == (5, 2 * features.by_stream["joint"].shape[1])


def test_an_npz_stores_the_features_without_pickle(
    model_and_features: tuple[TrainedModel, ClipFeatures],
) -> None:
    _, features = model_and_features
    blob = features_file(features, CLASSES, Path("x.npz"))
    with np.load(io.BytesIO(blob), allow_pickle=False) as read:
        assert read["names"].tolist() == list(features.names)
        np.testing.assert_array_equal(read["motion"], features.by_stream["motion"])
        np.testing.assert_array_equal(read["labels"], features.labels)


def test_parquet_stores_one_row_per_clip(model_and_features: tuple[TrainedModel, ClipFeatures]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    _, features = model_and_features
    read = parquet.read_table(io.BytesIO(features_file(features, CLASSES, Path("x.parquet"))))
    assert read["part"].to_pylist() == list(features.parts)
    np.testing.assert_array_equal(
        np.array(read["joint"].to_pylist(), np.float32), features.by_stream["joint"]
    )


def test_another_file_name_extension_is_refused(
    model_and_features: tuple[TrainedModel, ClipFeatures],
) -> None:
    with pytest.raises(PspError, match=r"x\.csv.*\.npz or \.parquet"):
        features_file(model_and_features[1], CLASSES, Path("x.csv"))
