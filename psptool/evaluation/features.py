"""Features of clips: the pooled output of the encoder, one vector per clip and stream.

Notation for array shapes: N clips, C channels.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from psptool.common.errors import PspError
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.store.reading import Store
from psptool.evaluation.models import TrainedModel
from psptool.evaluation.scoring import CHUNK
from psptool.schemas.split import SPLIT_PARTS, Split
from psptool.skeletons.keys import class_name

NO_PART = ""
"""Part of a clip that is not in the split."""
BATCH = 64


@dataclass(frozen=True)
class ClipFeatures:
    """The features of N clips.

    Attributes:
        names: Clip names, N of them.
        labels: int64 (N,), 0-based; `NO_LABEL` for clips without one.
        parts: Part of the split of each clip, or `NO_PART`.
        by_stream: Output of the encoder, averaged over persons, frames and joints, float32 (N, C) per stream.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    parts: tuple[str, ...]
    by_stream: Mapping[str, NDArray[np.float32]]

    @property
    def concatenated(self) -> NDArray[np.float32]:
        """The features of all S streams concatenated, (N, S * C)."""
        return np.concatenate(tuple(self.by_stream.values()), axis=1)

    def within(self, *parts: str) -> NDArray[np.int64]:
        """Indices of the clips in any of ``parts``, ascending."""
        return np.flatnonzero(np.isin(self.parts, parts))


@torch.inference_mode()
def embed(model: TrainedModel, store: Store, split: Split) -> ClipFeatures:
    """Features of all clips of a dataset, in evaluation mode from uniformly spaced frames, as in `score_clips`.

    Args:
        model: The model.
        store: The dataset of its training.
        split: The split of its training.

    Raises:
        PspError: A feature is not finite, or the store is damaged.
    """
    topology = model.config.topology
    parts: dict[str, list[torch.Tensor]] = defaultdict(list)
    for chunk in torch.split(torch.arange(len(store)), CHUNK):
        clips = RaggedClips.from_store(store, topology, model.device, chosen=chunk.numpy())
        batcher = Batcher.of(clips, model.config.training)
        for some in torch.split(chunk, BATCH):
            batch = batcher.test(some)
            for name, x in model.net.features(batch).items():
                parts[name].append(batch[name].average @ x.mean((2, 3)))  # (N, P) @ (P, C)
    by_stream = {name: torch.cat(found).cpu().numpy() for name, found in parts.items()}
    if not all(np.isfinite(x).all() for x in by_stream.values()):
        raise PspError(
            f"{model.path}: some features are not finite",
            fix="The training diverged: train again with a lower optim.lr, or with optim.clip_norm of 5 or less.",
        )
    part_of = {name: part for part in SPLIT_PARTS for name in getattr(split, part)}
    own_parts = tuple(part_of.get(name, NO_PART) for name in store.names)
    return ClipFeatures(store.names, store.table.label, own_parts, by_stream)


def check_file_name(path: Path) -> None:
    """Check that a file of features can be written in the format of the extension of ``path``.

    Raises:
        PspError: Another extension than ``.npz`` or ``.parquet``, or Parquet without pyarrow.
    """
    if path.suffix not in (".npz", ".parquet"):
        raise PspError("--out", str(path), "a file name ending in .npz or .parquet", "Change the extension.")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise PspError("Parquet needs pyarrow, which is not installed", fix="pip install pyarrow")


def features_file(features: ClipFeatures, class_names: Sequence[str], path: Path) -> bytes:
    """Content of a ``.npz`` or ``.parquet`` file with the features, by the extension of ``path``.

    The npz file has the arrays ``names``, ``labels``, ``parts`` and ``class_names``, and one array per stream, without
    pickled objects. The Parquet file has one row per clip: name, label, class, part, and each stream as a list.

    Raises:
        PspError: As `check_file_name`.
    """
    check_file_name(path)
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
    import pyarrow
    import pyarrow.parquet

    columns = {
        "name": features.names,
        "label": features.labels,
        "class": [class_name(class_names, label) for label in features.labels],
        "part": features.parts,
        **{name: list(x) for name, x in features.by_stream.items()},
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()
