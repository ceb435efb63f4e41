"""Synthetic run folders: a tiny network with known weights, in the files that a training writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from psptool.model.classifier import PSPNet
from psptool.schemas.dataset import DatasetManifest
from psptool.schemas.run import Provenance, RunConfig
from psptool.schemas.split import Split
from psptool.schemas.training import ModelSettings, SamplingSettings, TrainingConfig
from tests.builtin import UCLA20

TRAINING = TrainingConfig(
    preset="fast",
    model=ModelSettings(channels=(8, 8), qk_channels=(2, 2), strides=(1, 2), heads=2),
    sampling=SamplingSettings(frames=4),
)


def make_split(path: Path, manifest: DatasetManifest, parts: Mapping[str, Sequence[str]]) -> Split:
    """Write a split with the clips of ``parts`` (labelled, unlabelled, validation, test)."""
    names = {part: tuple(parts.get(part, ())) for part in ("labelled", "unlabelled", "validation", "test")}
    split = Split(
        dataset=manifest.dataset,
        protocol="xview",
        test_view=3,
        family="per-class",
        count=1,
        seed=0,
        clips_fingerprint=manifest.fingerprints.clips,
        tool_version="test",
        **names,
    )
    split.save(path)
    return split


def make_network(seed: int = 5, contrast: bool = True) -> PSPNet:
    """A network whose batch norms have random running statistics, so that evaluation must use them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PSPNet(TRAINING.model, UCLA20, classes=10, contrast=contrast)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.1)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2)
    return model.eval()


def make_run(
    folder: Path, manifest: DatasetManifest, data: Path, split: Path, model: PSPNet | None = None
) -> RunConfig:
    """Write ``config.json`` and ``last.safetensors`` to ``folder``."""
    config = RunConfig(
        description=manifest.description,
        preparation=manifest.settings,
        split_name=split.stem,
        split_digest=Split.load(split).digest,
        clips_fingerprint=manifest.fingerprints.clips,
        content_fingerprint=manifest.fingerprints.content,
        seed=7,
        precision="float32",
        training=TRAINING,
        provenance=(
            Provenance(device="cpu", data_path=str(data), split_path=str(split), tool_version="test"),
        ),
    )
    config.save(folder / "config.json")
    save_file((model or make_network()).state_dict(), folder / "last.safetensors")
    return config
