"""What the encoder makes of clips: one vector a clip and stream, for people who compute on with it.

Notation for array shapes: N clips, C channels.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from psptool.common.errors import PspError
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.skeletons.topologies import TOPOLOGIES
from psptool.data.store.reading import Store
from psptool.evaluation.models import TrainedModel
from psptool.evaluation.scoring import CHUNK
from psptool.schemas.split import SPLIT_PARTS, Split

NO_PART = ""
"""The part of a clip that the split leaves out."""
BATCH = 64


@dataclass(frozen=True)
class ClipFeatures:
    """The features of N clips.

    Attributes:
        names: Clip names, N of them.
        labels: int64 (N,), from 0.
        parts: For each clip its part of the split, or `NO_PART`.
        by_stream: float32 (N, C) each, the encoder's features averaged over persons, frames and joints.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    parts: tuple[str, ...]
    by_stream: Mapping[str, NDArray[np.float32]]

    @property
    def concatenated(self) -> NDArray[np.float32]:
        """All S streams side by side, (N, S * C)."""
        return np.concatenate(tuple(self.by_stream.values()), axis=1)

    def within(self, *parts: str) -> NDArray[np.int64]:
        """Numbers of the clips in any of ``parts``, ascending."""
        return np.flatnonzero(np.isin(self.parts, parts))


@torch.inference_mode()
def embed(model: TrainedModel, store: Store, split: Split) -> ClipFeatures:
    """The encoder's features of all clips of a dataset, from test frames and in evaluation mode, as in prediction.

    Args:
        model: The model.
        store: The dataset it was trained on.
        split: The split it was trained on.

    Raises:
        PspError: A feature is not finite, or the store is damaged.
    """
    topology = TOPOLOGIES[model.config.topology]
    parts: dict[str, list[torch.Tensor]] = defaultdict(list)
    for chunk in torch.split(torch.arange(len(store)), CHUNK):
        clips = RaggedClips.from_store(store, topology, model.device, chosen=chunk.numpy())
        batcher = Batcher.of(clips, model.config.training)
        for some in torch.split(chunk, BATCH):
            batch = batcher.test(some)
            for name, x in model.net.features(batch).items():
                parts[name].append(batch[name].average @ x.mean((2, 3)))
    by_stream = {name: torch.cat(found).cpu().numpy() for name, found in parts.items()}
    if not all(np.isfinite(x).all() for x in by_stream.values()):
        raise PspError(
            f"{model.path}: some features are not finite",
            fix="The training broke down: train again with a lower optim.lr, or with optim.clip_norm of 5 or less.",
        )
    where = {name: part for part in SPLIT_PARTS for name in getattr(split, part)}
    own_parts = tuple(where.get(name, NO_PART) for name in store.names)
    return ClipFeatures(store.names, store.table.label, own_parts, by_stream)


def features_file(features: ClipFeatures, class_names: Sequence[str], path: Path) -> bytes:
    """The features as the bytes of a ``.npz`` or, where ``path`` ends so, a ``.parquet`` file.

    An npz holds ``names``, ``labels``, ``parts``, ``class_names`` and an array per stream under its name, none of
    them pickled; Parquet has one row per clip: name, label, class, part, and the streams as lists.

    Raises:
        PspError: Another ending, or Parquet without pyarrow.
    """
    buffer = io.BytesIO()
    if path.suffix == ".npz":
        np.savez_compressed(
            buffer,
            names=np.array(features.names),
            labels=features.labels,
            parts=np.array(features.parts),
            class_names=np.array(class_names),
            **features.by_stream,  # type: ignore[arg-type]
        )
        return buffer.getvalue()
    if path.suffix != ".parquet":
        raise PspError("--out", str(path), "a name that ends in .npz or .parquet", "Name another file.")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PspError(
            "Parquet needs pyarrow, which is not installed", fix="pip install 'psptool[parquet]'"
        ) from error
    columns = {
        "name": features.names,
        "label": features.labels,
        "class": [class_names[label] for label in features.labels],
        "part": features.parts,
        **{name: list(x) for name, x in features.by_stream.items()},
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()
