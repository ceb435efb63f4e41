"""The attention maps of a trained run on clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from psptool.common.errors import PspError
from psptool.data.store.arrays import PreparedClip
from psptool.view.maps import ClipAttention
from psptool.view.scene import ViewedClip

if TYPE_CHECKING:
    import torch

    from psptool.model.network import Network
    from psptool.schemas.dataset import PreparationSettings
    from psptool.schemas.run import RunConfig


def with_attention(
    run: Path, config: RunConfig, clips: Sequence[ViewedClip], settings: PreparationSettings
) -> list[ViewedClip]:
    """``clips`` with the attention maps of a run, each clip alone, on test frames.

    Args:
        run: The run's folder.
        config: The run's.
        clips: Prepared as the run's dataset was.
        settings: How they were prepared.

    Raises:
        PspError: The clips are not prepared as the run's; the run has no attention maps, as it was trained
            without the contrast, or cannot be read.
    """
    import torch

    from psptool.evaluation.scoring import load_model
    from psptool.training.runs.folder import RunFolder
    from psptool.training.runs.unfinished import find_weights

    check_same_preparation(run, config, clips, settings)
    device = torch.device("cpu")
    model = load_model(config, find_weights(RunFolder(run), config, "last"), device, contrast=True)
    with torch.inference_mode():
        return [replace(clip, attention=_of_clip(model, config, clip.prepared, device)) for clip in clips]


def _of_clip(model: Network, config: RunConfig, clip: PreparedClip, device: torch.device) -> ClipAttention:
    import torch

    from psptool.data.batches.ragged import Batcher, RaggedClips
    from psptool.data.batches.sampling import uniform_frames
    from psptool.data.skeletons.topologies import TOPOLOGIES
    from psptool.data.store.reading import Rows
    from psptool.model.classifier import PSPNet

    assert isinstance(model, PSPNet)
    assert model.pyramid is not None
    rows = Rows(clip.joint.reshape(-1, *clip.joint.shape[2:]), clip.present.reshape(-1))
    label, frames, persons = (np.array([n]) for n in (clip.key.label, clip.frames, clip.persons))
    ragged = RaggedClips.from_rows(rows, label, frames, persons, TOPOLOGIES[config.topology], device)
    absent = config.training.model.absent_persons
    batcher = Batcher.of(ragged, config.training)
    features = model.features(batcher.test(torch.tensor([0])))
    # Of the persons those that stand in the frames drawn; under `zeros` all have their slot.
    drawn = ragged.visible[uniform_frames(ragged.visible_count, config.training.sampling.frames)[0]].numpy()
    seen = clip.present[:, drawn].any(axis=1) | (absent == "zeros")
    who = tuple(np.flatnonzero(seen).tolist())
    maps = {
        stream: {str(level): maps[: len(who)].numpy() for level, maps in model.pyramid.maps(x).items()}
        for stream, x in features.items()
    }
    return ClipAttention(who, maps)


def check_same_preparation(
    run: Path, config: RunConfig, clips: Sequence[ViewedClip], settings: PreparationSettings
) -> None:
    """Refuse clips that the run cannot look at as it looked at its own.

    Raises:
        PspError: Other joints, or another preparation.
    """
    for clip in clips:
        if clip.topology.name != config.topology:
            raise PspError(
                f"{clip.name}: not the joints that {run} was trained on",
                clip.topology.name,
                config.topology,
                "Name a run of this dataset with --model.",
            )
    if settings != config.preparation:
        raise PspError(
            f"{clips[0].name}: not prepared as the dataset that {run} was trained on",
            str(settings),
            str(config.preparation),
            "Name the run's own dataset, or a raw file, which is then prepared as the run says.",
        )
