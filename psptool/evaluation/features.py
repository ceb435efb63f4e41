"""What the encoder makes of clips: one vector a clip and stream, for people who compute on with it.

Notation for array shapes: N clips, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
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
        joint: float32 (N, C), the joint stream's encoder features averaged over persons, frames and joints.
        motion: float32 (N, C), the motion stream's.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    parts: tuple[str, ...]
    joint: NDArray[np.float32]
    motion: NDArray[np.float32]

    @property
    def both(self) -> NDArray[np.float32]:
        """Both streams side by side, (N, 2C)."""
        return np.concatenate((self.joint, self.motion), axis=1)

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
    clips = RaggedClips.from_store(store, TOPOLOGIES[model.config.topology], model.device)
    training = model.config.training
    batcher = Batcher.of(clips, training)
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for some in torch.split(torch.arange(len(store)), BATCH):
        streams = batcher.test(some)
        joint, motion = model.net.features(streams)
        parts.append(
            (streams.joint.average @ joint.mean((2, 3)), streams.motion.average @ motion.mean((2, 3)))
        )
    of_joint, of_motion = (torch.cat(own).cpu().numpy() for own in zip(*parts, strict=True))
    if not (np.isfinite(of_joint).all() and np.isfinite(of_motion).all()):
        raise PspError(
            f"{model.path}: some features are not finite",
            fix="The training broke down: train again with a lower optim.lr, or with optim.clip_norm of 5 or less.",
        )
    where = {name: part for part in SPLIT_PARTS for name in getattr(split, part)}
    own_parts = tuple(where.get(name, NO_PART) for name in store.names)
    return ClipFeatures(store.names, store.table.label, own_parts, of_joint, of_motion)


def features_file(features: ClipFeatures, class_names: Sequence[str], path: Path) -> bytes:
    """The features as the bytes of a ``.npz`` or, where ``path`` ends so, a ``.parquet`` file.

    An npz holds ``names``, ``labels``, ``parts``, ``joint``, ``motion`` and ``class_names``, none of them pickled;
    Parquet one row a clip: name, label, class, part, and joint and motion as lists.

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
            joint=features.joint,
            motion=features.motion,
            class_names=np.array(class_names),
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
        "joint": list(features.joint),
        "motion": list(features.motion),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()
