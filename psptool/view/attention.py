"""Computes the attention maps of a trained run for clips."""

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

    from psptool.model.classifier import PSPNet
    from psptool.schemas.dataset import PreparationSettings
    from psptool.schemas.run import RunConfig


def with_attention(
    run: Path, config: RunConfig, clips: Sequence[ViewedClip], settings: PreparationSettings
) -> list[ViewedClip]:
    """Add the attention maps of a run to ``clips``, computed one clip at a time from uniformly spaced frames.

    Args:
        run: Folder of the run.
        config: Configuration of the run.
        clips: Clips that are prepared like the dataset of the run.
        settings: Preparation of the clips.

    Raises:
        PspError: The preparation differs from that of the run, the run has no attention maps because it has another
            network or was trained without contrastive loss, or the run cannot be read.
    """
    import torch

    from psptool.evaluation.scoring import load_model
    from psptool.model.classifier import PSPNet
    from psptool.training.runs.folder import RunFolder
    from psptool.training.runs.unfinished import find_weights

    check_same_preparation(run, config, clips, settings)
    device = torch.device("cpu")
    model = load_model(config, find_weights(RunFolder(run), config, "last"), device, contrast=True)
    if not isinstance(model, PSPNet):
        raise PspError(
            f"{run}: no attention maps", f"network {config.training.model.network}", "a run with network psp"
        )
    with torch.inference_mode():
        return [replace(clip, attention=_of_clip(model, config, clip.prepared, device)) for clip in clips]


def _of_clip(model: PSPNet, config: RunConfig, clip: PreparedClip, device: torch.device) -> ClipAttention:
    import torch

    from psptool.data.batches.ragged import Batcher, RaggedClips
    from psptool.data.batches.sampling import uniform_frames
    from psptool.data.store.reading import Rows

    assert model.pyramid is not None
    rows = Rows(clip.joint.reshape(-1, *clip.joint.shape[2:]), clip.present.reshape(-1))
    label, frames, persons = (np.array([n]) for n in (clip.key.label, clip.frames, clip.persons))
    ragged = RaggedClips.from_rows(rows, label, frames, persons, config.topology, device)
    absent = config.training.model.absent_persons
    batcher = Batcher.of(ragged, config.training)
    features = model.features(batcher.test(torch.tensor([0])))
    # The persons in the sampled frames. With absent_persons=zeros, all persons.
    sampled = ragged.visible[uniform_frames(ragged.visible_count, config.training.sampling.frames)[0]].numpy()
    seen = clip.present[:, sampled].any(axis=1) | (absent == "zeros")
    persons_seen = tuple(np.flatnonzero(seen).tolist())
    maps = {
        stream: {
            str(level): maps[: len(persons_seen)].numpy() for level, maps in model.pyramid.maps(x).items()
        }
        for stream, x in features.items()
    }
    return ClipAttention(persons_seen, maps)


def check_same_preparation(
    run: Path, config: RunConfig, clips: Sequence[ViewedClip], settings: PreparationSettings
) -> None:
    """Check that clips have the topology and the preparation of the run's dataset.

    Raises:
        PspError: Another topology or another preparation.
    """
    for clip in clips:
        if clip.topology != config.topology:
            raise PspError(
                f"{clip.name}: not the skeleton that {run} was trained on",
                clip.topology.name,
                config.topology.name,
                "Give a run of this dataset with --model.",
            )
    if settings != config.preparation:
        raise PspError(
            f"{clips[0].name}: not prepared like the dataset that {run} was trained on",
            str(settings),
            str(config.preparation),
            "Give the dataset of the run, or a raw file, which is prepared with the settings of the run.",
        )
