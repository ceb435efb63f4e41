"""Clips on which the outputs of an exported model are compared with those of the original."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from psptool.common.paths import recalled
from psptool.common.text import counted
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.reading import open_store
from psptool.evaluation.api import check_dataset
from psptool.evaluation.models import TrainedModel
from psptool.evaluation.predicting import find_recordings
from psptool.formats.synthesis.names import clip_names
from psptool.formats.synthesis.writing import write_ntu, write_ucla
from psptool.preparation.worker import prepare_clip

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
    """Synthetic recordings in the model's format, prepared like its training clips."""
    with tempfile.TemporaryDirectory() as folder:
        if model.config.dataset == "ucla":
            write_ucla(Path(folder), [f"a01_s01_e{n:02d}_v01" for n in range(CLIPS)])
        else:
            write_ntu(Path(folder), clip_names((7, 24, 50), 4, 1, (1,))[:CLIPS])
        found, _ = find_recordings([Path(folder)], model.config.topology)
        outcomes = [
            prepare_clip((source,), reader, model.config.preparation)
            for reader, sources in found
            for source in sources
        ]
    return tuple(outcome.clip for outcome in outcomes if outcome.clip is not None)
