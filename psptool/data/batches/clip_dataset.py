"""A prepared dataset as a ``torch.utils.data.Dataset``, for training other models.

psptool's own training does not use it: it keeps the whole dataset on the device.
Tensor shapes: M persons, T frames, V joints.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from psptool.common.errors import PspError
from psptool.data.batches.sampling import uniform_frames
from psptool.data.store.reading import Store, StoredClip, open_store, reopen_store


class ClipTensors(NamedTuple):
    """One clip.

    Attributes:
        joint: float32 (M, T, V, 3), normalized positions; zero where the person is absent.
        motion: float32 (M, T, V, 3), the next frame minus the current one.
        present: bool (M, T), whether the person is tracked in that frame.
        label: int64 (), 0-based class; -1 without a label.
        position: int64 (), the clip's index in the store.
    """

    joint: Tensor
    motion: Tensor
    present: Tensor
    label: Tensor
    position: Tensor


class ClipDataset(Dataset[ClipTensors]):
    """Clips of a prepared dataset, for a `torch.utils.data.DataLoader` with any number of worker processes.

    An item is a named tuple of tensors: ``joint`` and ``motion``, float32 (M, T, V, 3); ``present``, bool (M, T);
    ``label``, int64 (), 0-based, -1 without a label; ``position``, int64 (), the clip's index in the file. M persons,
    T frames, V joints. Where a person is absent, the first two are zero.

    M and T differ between clips. With both ``frames`` and ``persons``, all items have equal shapes, and the default
    collation of a DataLoader works. Without them, pad in your own ``collate_fn``, or use ``batch_size=None``.

    Args:
        path: The dataset's file.
        names: Clip names in the order of the items, such as a split's ``labelled``; all clips if None.
        frames: T of all items: evenly spaced frames of those in which a person is present, as psptool's own models
            see a test clip; a shorter clip repeats frames. All frames of the clip if None.
        persons: M of all items: further persons are left out, missing ones are zero. All persons if None.

    Raises:
        PspError: The file cannot be opened, or has no clip with one of the names; or a number is below 1.

    Example:
        >>> import psptool
        >>> split = psptool.read_split("splits/ucla-xview-k1-s0.json")
        >>> dataset = psptool.ClipDataset("data/ucla.h5", split.labelled, frames=50, persons=2)
        >>> joint, motion, present, label, position = dataset[0]
        >>> joint.shape, present.shape
        (torch.Size([2, 50, 20, 3]), torch.Size([2, 50]))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        names: Iterable[str] | None = None,
        *,
        frames: int | None = None,
        persons: int | None = None,
    ) -> None:
        for argument, value in {"frames": frames, "persons": persons}.items():
            if value is not None and (not isinstance(value, int) or value < 1):
                raise PspError(argument, repr(value), "a number of at least 1, or None")
        # Absolute, because the file is opened again, perhaps in another working directory.
        self.path, self.frames, self.persons = Path(path).absolute(), frames, persons
        with open_store(path) as store:
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
            torch.from_numpy(self._sized(clip.joint, clip)),
            torch.from_numpy(self._sized(clip.motion, clip)),
            torch.from_numpy(self._sized(clip.present, clip)),
            torch.tensor(clip.key.label),
            torch.tensor(index),
        )

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}

    def _sized(self, values: NDArray[Any], clip: StoredClip) -> NDArray[Any]:
        """The requested frames and persons of an array (M, T, ...) of the clip."""
        if self.frames is not None:
            visible = np.flatnonzero(clip.present.any(axis=0))
            chosen = uniform_frames(torch.tensor([len(visible)]), self.frames)[0].numpy()  # (T,)
            values = values[:, visible[chosen]]
        if self.persons is not None:
            values = values[: self.persons]
            missing = self.persons - len(values)
            values = np.pad(values, [(0, missing), *[(0, 0)] * (values.ndim - 1)])
        return values

    def _store(self) -> Store:
        # An HDF5 handle is invalid after a fork, so a worker must not use its parent's.
        if self._opened is None or self._opened[0] != os.getpid():
            # The indices are those of the clips in the file as it was.
            self._opened = (os.getpid(), reopen_store(self.path, self.manifest.fingerprints.content))
        return self._opened[1]
