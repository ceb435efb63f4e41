"""Clips on which the outputs of an exported model are compared with those of the original."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psptool.common.paths import recalled
from psptool.common.text import counted
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.reading import open_store
from psptool.evaluation.api import check_dataset
from psptool.evaluation.loaded import raw_clip
from psptool.evaluation.models import TrainedModel
from psptool.preparation.normalize import normalize
from psptool.preparation.selection import find_persons

CLIPS = 20
"""Number of clips compared."""


@dataclass(frozen=True)
class ComparisonClips:
    """The clips to compare on.

    Attributes:
        clips: The prepared clips.
        description: Their number and source, as text.
        example: The name of one of them in the dataset; None for synthetic recordings.
        missing: The run's dataset if it does not exist, so that the clips are synthetic; None otherwise.
    """

    clips: tuple[PreparedClip, ...]
    description: str
    example: str | None = None
    missing: Path | None = None


def comparison_clips(model: TrainedModel, data: Path | None = None) -> ComparisonClips:
    """Clips of the dataset at even intervals; synthetic recordings if the run's dataset does not exist.

    Args:
        model: The model that is exported.
        data: The dataset; that of the run if None.

    Raises:
        PspError: The dataset cannot be read, or was prepared differently from the run's.
    """
    path = data or recalled(model.config.latest.data_path)
    if data is None and not path.exists():
        return ComparisonClips(synthetic_clips(model), f"{CLIPS} synthetic recordings", missing=path)
    with open_store(path) as store:
        check_dataset(model.path, model.config, store)
        chosen = sorted({n * len(store) // CLIPS for n in range(CLIPS)})
        clips = tuple(store.clip(index).prepared() for index in chosen)
    return ComparisonClips(clips, f"{counted(len(clips), 'clip')} of {path}", clips[0].name)


def synthetic_clips(model: TrainedModel) -> tuple[PreparedClip, ...]:
    """Clips of one person with random, smooth movements, prepared like the training clips of the model."""
    rng, topology = np.random.default_rng(0), model.config.topology
    bones = rng.normal(0, 0.3, (topology.size, 3))
    clips = []
    for number in range(CLIPS):
        frames = 30 + 5 * number
        walk = rng.normal(0, 0.02, (frames, topology.size, 3)).cumsum(axis=0)  # (T, V, 3)
        recorded = (bones + walk + (0, 0, 3)).astype(np.float32)
        if topology.dimensions == 2:
            recorded[..., 2] = 0
        clip = raw_clip(f"synthetic_{number:02d}", recorded[None])
        persons = find_persons(clip, topology, model.config.preparation)
        clips.append(normalize(clip.name, clip.key, persons, topology, model.config.preparation))
    return tuple(clips)
