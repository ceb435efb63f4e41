"""A prepared dataset as a ``torch.utils.data.Dataset``, for training other models.

psptool's own training does not use it: it keeps the whole dataset on the device.
Tensor shapes: M persons, T frames, V joints.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from psptool.data.store.reading import Store, open_store


class ClipTensors(NamedTuple):
    """One clip.

    Attributes:
        joint: float32 (M, T, V, 3), normalized positions; zero where the person is absent.
        motion: float32 (M, T, V, 3), the next frame minus the current one.
        present: bool (M, T), whether the person is tracked in that frame.
        label: int64 (), 0-based.
        position: int64 (), the clip's index in the store.
    """

    joint: Tensor
    motion: Tensor
    present: Tensor
    label: Tensor
    position: Tensor


class ClipDataset(Dataset[ClipTensors]):
    """Clips of a prepared dataset. M and T vary between clips, so batching needs a custom ``collate_fn``.

    Each worker process opens the file itself.

    Args:
        path: The dataset's file.
        names: Clip names in the order of the dataset's indices, such as a split's ``labelled``; all clips if None.

    Example:
        >>> dataset = ClipDataset("data/ucla.h5", split.labelled)  # doctest: +SKIP
        >>> joint, motion, present, label, position = dataset[0]   # doctest: +SKIP

    Raises:
        PspError: The file cannot be opened, or has no clip with one of the names.
    """

    def __init__(self, path: str | os.PathLike[str], names: Iterable[str] | None = None) -> None:
        self.path = Path(path)
        with open_store(self.path) as store:
            chosen = store.names if names is None else names
            self.indices = tuple(store.index(name) for name in chosen)
            self.manifest = store.manifest
        self._opened: tuple[int, Store] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> ClipTensors:
        index = self.indices[place]
        clip = self._store().clip(index)
        return ClipTensors(
            torch.from_numpy(clip.joint),
            torch.from_numpy(clip.motion),
            torch.from_numpy(clip.present),
            torch.tensor(clip.key.label),
            torch.tensor(index),
        )

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}

    def _store(self) -> Store:
        # An HDF5 handle is invalid after a fork, so a worker must not use its parent's.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), open_store(self.path))
        return self._opened[1]
