"""A training small enough to run in a test: a dataset of three classes that differ in height, and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from psptool.schemas.training import LossSettings, OptimSettings, TrainingConfig
from psptool.training.api import Trained, train

from ..stores import make_clip, write_ucla
from ..trained import TRAINING, make_split

# View 1 is labelled. View 2 is unlabelled for subjects 1 to 3 and validation for subjects 4 and 5. View 3 is test.
NAMES = [
    f"a{action:02}_s{subject:02}_e00_v{view:02}"
    for action in (1, 2, 5)
    for subject, view in ((1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (4, 2), (5, 2), (1, 3), (2, 3))
]
PARTS = {
    "labelled": [name for name in NAMES if name.endswith("v01")],
    "unlabelled": [name for name in NAMES if name.endswith("v02") and int(name[5:7]) < 4],
    "validation": [name for name in NAMES if name.endswith("v02") and int(name[5:7]) >= 4],
    "test": [name for name in NAMES if name.endswith("v03")],
}
RECIPE = TRAINING.model_copy(
    update={
        "optim": OptimSettings(steps=6, labelled_batch=3, pool_batch=4, lr=0.02, schedule="cosine"),
        "validate_every": 2,
    }
)


@dataclass(frozen=True)
class Files:
    """A dataset and its split."""

    data: Path
    split: Path

    def train(self, recipe: TrainingConfig = RECIPE, out: str = "run") -> Trained:
        return train(self.data, self.split, recipe, device=torch.device("cpu"), out=self.data.parent / out)


def make_files(
    folder: Path, parts: Mapping[str, list[str]] = PARTS, poison: Mapping[str, float] | None = None
) -> Files:
    """Write a dataset and its split; ``poison`` replaces all coordinates of the named clips by a constant."""
    folder.mkdir(exist_ok=True)
    clips = []
    for seed, name in enumerate(NAMES):
        clip = make_clip(name, seed, lift=float(name[1:3]))
        if poison and name in poison:
            clip.joint[:] = poison[name]
        clips.append(clip)
    files = Files(folder / "ucla.h5", folder / "s0.json")
    make_split(files.split, write_ucla(files.data, clips), parts)
    return files


def change(recipe: TrainingConfig = RECIPE, **groups: object) -> TrainingConfig:
    """Copy of the configuration with other values; ``optim={...}`` and ``loss={...}`` update keys of the group."""
    update: dict[str, object] = {}
    for key, value in groups.items():
        old = getattr(recipe, key)
        grouped = isinstance(old, (OptimSettings, LossSettings)) and isinstance(value, dict)
        update[key] = old.model_copy(update=value) if grouped else value
    return recipe.model_copy(update=update)


def weights(trained: Trained, which: str = "last") -> dict[str, Tensor]:
    return load_file(trained.folder / f"{which}.safetensors")


def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether both have the same names and bit-identical tensors."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
