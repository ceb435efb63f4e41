"""Positions of a dataset's clips on the device as one ragged tensor, and batches gathered from it without workers.

Motion is computed from the positions when a batch is gathered, with the values of the dataset's ``motion`` array.

Frames and persons of a batch are chosen on the host, in small integer tensors, so that all tensor sizes are known
without waiting for the device.

Notation for tensor shapes: n clips of the dataset, N clips of a batch, P persons of all clips of a batch, T sampled
frames, V joints, R stored rows (one frame of one person each), F visible frames of all clips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import record_function

from psptool.common.errors import PspError
from psptool.data.batches.augmentation import Augmentation, augment, draw_augmentation
from psptool.data.batches.sampling import draw_frames, uniform_frames
from psptool.data.batches.streams import STREAMS, Batch, Frames, Quantity, Read, Stream, to_device
from psptool.data.store.reading import Rows, Store
from psptool.data.store.verifying import verified_positions
from psptool.schemas.training import (
    AugmentSettings,
    SamplingSettings,
    StreamName,
    StreamSettings,
    TrainingConfig,
)
from psptool.skeletons.keys import UpAxis
from psptool.skeletons.topology import Topology

NO_CHANGE = AugmentSettings()
AS_RELEASED = StreamSettings()
DRAWING, AUGMENTING = "psptool: drawing", "psptool: augmenting"
"""Labels of these parts of a step in the profiler, for `psptool train --profile`."""
SLOTS = 2
"""Persons per clip under ``absent_persons: zeros``, as in the original implementation."""
DEVICE_SHARE = 0.5
"""Fraction of the free device memory that clips may use; activations need the rest."""


@dataclass(frozen=True)
class RaggedClips:
    """Clips as rows of one person and frame each, person-major within a clip, as the store has them.

    All but `joint` are on the host.

    Attributes:
        joint: float32 or float16 (R, V, 3), positions; on `device`, or on the host where they do not fit there.
        device: Where batches go.
        present: bool (R,).
        label: int64 (n,).
        first_row: int64 (n,), the clip's first row; -1 for a clip that was not loaded.
        frames: int64 (n,).
        persons: int64 (n,).
        visible: int64 (F,), for each loaded clip the frames in which somebody is present, clip by clip.
        first_visible: int64 (n,), the clip's first entry in `visible`.
        visible_count: int64 (n,), its number of entries there.
        topology: The V joints.
        up: Vertical axis of the positions.
    """

    joint: Tensor
    device: torch.device
    present: Tensor
    label: Tensor
    first_row: Tensor
    frames: Tensor
    persons: Tensor
    visible: Tensor
    first_visible: Tensor
    visible_count: Tensor
    topology: Topology
    up: UpAxis = "z"

    @property
    def place(self) -> Literal["device", "host"]:
        """Whether the positions are on the device, or batches are gathered on the host."""
        return "device" if self.joint.device.type == self.device.type else "host"

    @classmethod
    def from_store(
        cls,
        store: Store,
        topology: Topology,
        device: torch.device,
        storage: torch.dtype = torch.float32,
        chosen: NDArray[np.integer] | None = None,
        verified: bool = False,
    ) -> RaggedClips:
        """Load clips of a prepared dataset. Positions are read in slices, so there is no second copy of them.

        Args:
            store: The dataset.
            topology: The V joints.
            device: Where batches go.
            storage: float32, or float16 for half the memory; batches are float32 in any case.
            chosen: int (n',), numbers of the clips to load; all if None. Clips keep their numbers, and a batch may have
                loaded clips only.
            verified: Read the whole dataset and check its content fingerprint.

        Raises:
            PspError: The file is damaged.
        """
        table = store.table
        loaded = np.arange(len(store)) if chosen is None else np.unique(chosen)
        rows = int((table.frames[loaded] * table.persons[loaded]).sum())
        size = rows * topology.size * 3 * storage.itemsize
        place = device if _fits(size, device) else torch.device("cpu")
        joint = torch.empty(rows, topology.size, 3, dtype=storage, device=place)
        present, end = np.empty(rows, bool), 0
        for part in verified_positions(store, loaded) if verified else store.positions(loaded):
            begin, end = end, end + len(part.joint)
            joint[begin:end] = torch.from_numpy(part.joint)
            present[begin:end] = part.present
        columns = (table.label, table.frames, table.persons)
        return cls._of(joint, present, loaded, *columns, topology, device, store.manifest.up)

    @classmethod
    def from_rows(
        cls,
        rows: Rows,
        label: NDArray[np.integer],
        frames: NDArray[np.integer],
        persons: NDArray[np.integer],
        topology: Topology,
        device: torch.device,
    ) -> RaggedClips:
        """A few clips in memory, for prediction; they are copied to ``device`` in float32.

        Args:
            rows: Of all clips, one after the other, as the store has them.
            label: int (n,).
            frames: int (n,).
            persons: int (n,).
            topology: The V joints.
            device: Where batches go.
        """
        joint = torch.as_tensor(rows.joint).to(device)
        return cls._of(joint, rows.present, np.arange(len(label)), label, frames, persons, topology, device)

    @classmethod
    def _of(
        cls,
        joint: Tensor,
        present: NDArray[np.bool_],
        loaded: NDArray[np.integer],
        label: NDArray[np.integer],
        frames: NDArray[np.integer],
        persons: NDArray[np.integer],
        topology: Topology,
        device: torch.device,
        up: UpAxis = "z",
    ) -> RaggedClips:
        """The clips with the numbers ``loaded``, whose rows are one after the other in ``joint`` and ``present``."""
        length, number = frames[loaded], persons[loaded]
        first_row = np.cumsum(length * number) - length * number
        shown = [
            np.flatnonzero(present[first : first + t * m].reshape(m, t).any(0))
            for first, t, m in zip(first_row, length, number, strict=True)
        ]
        count = np.array([len(visible) for visible in shown], dtype=np.int64)

        def integers(values: NDArray[np.integer]) -> Tensor:
            return torch.as_tensor(np.asarray(values, dtype=np.int64))

        def scattered(values: NDArray[np.integer], otherwise: int) -> Tensor:
            """Values of the loaded clips as a column (n,) of all clips."""
            column = np.full(len(label), otherwise, dtype=np.int64)
            column[loaded] = values
            return torch.as_tensor(column)

        return cls(
            joint=joint,
            device=device,
            present=torch.as_tensor(present),
            label=integers(label),
            first_row=scattered(first_row, -1),
            frames=integers(frames),
            persons=integers(persons),
            visible=integers(np.concatenate(shown)),
            first_visible=scattered(np.cumsum(count) - count, 0),
            visible_count=scattered(count, 0),
            topology=topology,
            up=up,
        )


def _fits(size: int, device: torch.device) -> bool:
    """Whether ``size`` bytes of clips leave the step enough of the device's free memory."""
    return device.type != "cuda" or size <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]


def check_persons(absent_persons: str, persons: NDArray[np.integer]) -> None:
    """Check that ``absent_persons: zeros`` has a slot for each person.

    Args:
        absent_persons: The setting of the model.
        persons: int (n,), number of persons of each clip.

    Raises:
        PspError: A clip has more than `SLOTS` persons.
    """
    most = int(persons.max(initial=0))
    if absent_persons == "zeros" and most > SLOTS:
        raise PspError(
            "model.absent_persons=zeros",
            f"a clip with {most} persons",
            f"at most {SLOTS} persons per clip",
            f"Train with --set model.absent_persons=skip, or prepare the dataset with at most {SLOTS} persons.",
        )


@dataclass(frozen=True)
class _Persons:
    """The P persons of the chosen clips, int64 (P,) each: number of their clip in the batch and in the dataset, number
    in the clip, and first row.
    """

    owner: Tensor
    clip: Tensor
    number: Tensor
    first_row: Tensor


@dataclass(frozen=True)
class Batcher:
    """Turns clip numbers into batches of the network's streams.

    Attributes:
        clips: The dataset on the device.
        sampling: Which frames are sampled.
        augmentation: Changes at training.
        absent_persons: ``skip`` leaves absent persons out; ``zeros`` computes on `SLOTS` persons per clip.
        streams: Which streams a batch has, and how they are made.
    """

    clips: RaggedClips
    sampling: SamplingSettings
    augmentation: AugmentSettings = NO_CHANGE
    absent_persons: str = "skip"
    streams: StreamSettings = AS_RELEASED

    @classmethod
    def of(cls, clips: RaggedClips, recipe: TrainingConfig) -> Batcher:
        """The batcher of a training configuration.

        Raises:
            PspError: As for `check_persons`.
        """
        absent = recipe.model.absent_persons
        check_persons(absent, clips.persons[clips.first_row >= 0].numpy())
        return cls(clips, recipe.sampling, recipe.augment, absent, streams=recipe.streams)

    def train(self, chosen: Tensor, generator: torch.Generator) -> Batch:
        """A training batch: random frames, random augmentations.

        Args:
            chosen: int64 (N,), clip numbers, on the host.
            generator: On the host. It seeds the generator of the noise on another device, so that its state determines
                the whole batch.
        """
        persons = self._persons(chosen)
        read = self._reader(persons, self._random_frames(chosen, generator))
        changes = self._random_changes(len(chosen), generator)
        draws = [(read, changes)]
        for _ in self.streams.names[1:]:
            if not self.sampling.shared:
                read = self._reader(persons, self._random_frames(chosen, generator))
            if not self.augmentation.shared:
                changes = self._random_changes(len(chosen), generator)
            draws.append((read, changes))
        on_device = self._device_generator(generator)
        batch: dict[str, Stream] = {}
        for name, (read, changes) in zip(self.streams.names, draws, strict=True):
            with record_function(DRAWING):
                found = self._content(name, read)
            if not STREAMS[name].noise:
                changes = replace(changes, jitter=0.0)
            mirror = self.clips.topology.mirror
            with record_function(AUGMENTING):
                x = augment(found.x, found.present, found.owner, changes, mirror, on_device)
            batch[name] = self._stream(x, found.owner, len(chosen))
        return batch

    def test(self, chosen: Tensor) -> Batch:
        """A test batch of the clips ``chosen``, int64 (N,): evenly spaced frames, no augmentation."""
        frames = self._visible_frames(chosen, uniform_frames(self._counts(chosen), self.sampling.frames))
        read = self._reader(self._persons(chosen), frames)
        batch: dict[str, Stream] = {}
        for name in self.streams.names:
            found = self._content(name, read)
            batch[name] = self._stream(found.x, found.owner, len(chosen))
        return batch

    def _random_frames(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Random frame numbers of the clips, int64 (N, T)."""
        with record_function(DRAWING):
            return self._visible_frames(chosen, draw_frames(self._counts(chosen), self.sampling, generator))

    def _random_changes(self, clips: int, generator: torch.Generator) -> Augmentation:
        """One augmentation per clip."""
        topology, up = self.clips.topology, self.clips.up
        with record_function(AUGMENTING):
            return draw_augmentation(
                clips, topology.size, self.augmentation, generator, up, topology.dimensions
            )

    def _device_generator(self, generator: torch.Generator) -> torch.Generator:
        """A generator on the device of the clips, seeded by ``generator``."""
        if self.clips.device.type == "cpu":
            return generator
        seed = int(torch.randint(2**62, (), generator=generator))
        return torch.Generator(self.clips.device).manual_seed(seed)

    def _counts(self, chosen: Tensor) -> Tensor:
        """Number of visible frames, int64 (N,)."""
        return self.clips.visible_count[chosen]

    def _visible_frames(self, chosen: Tensor, drawn: Tensor) -> Tensor:
        """Frame numbers in the clip, (N, T), from positions among its visible frames, (N, T)."""
        # (N, 1) + (N, T) -> (N, T), positions in `visible` (F,)
        return self.clips.visible[self.clips.first_visible[chosen][:, None] + drawn]

    def _persons(self, chosen: Tensor) -> _Persons:
        """All persons of the clips ``chosen``, int64 (N,)."""
        count = self.clips.persons[chosen]  # (N,)
        owner = torch.repeat_interleave(torch.arange(len(chosen)), count)  # (N,) -> (P,)
        # Number of the person within its clip: its index less the number of persons in the clips before.
        number = torch.arange(len(owner)) - (count.cumsum(0) - count)[owner]
        # Rows are person-major within a clip: a person's rows come after the frames of the persons before.
        first_row = self.clips.first_row[chosen][owner] + number * self.clips.frames[chosen][owner]
        return _Persons(owner, chosen[owner], number, first_row)

    def _content(self, stream: StreamName, read: Read) -> Frames:
        """The stream named ``stream``."""
        return STREAMS[stream].make(read, self.streams, self.clips.topology)

    def _reader(self, persons: _Persons, frames: Tensor) -> Read:
        """Gathers the frames (N, T) of each clip, each quantity once."""
        return cache(lambda quantity: self._gather(quantity, persons, frames))

    def _gather(self, quantity: Quantity, persons: _Persons, frames: Tensor) -> Frames:
        """Positions or motion in the frames (N, T) of each clip, as (P, T, V, 3)."""
        owner = persons.owner
        rows = persons.first_row[:, None] + frames[owner]  # (P, 1) + (P, T) -> (P, T)
        present = self.clips.present[rows]  # (R,) -> (P, T)
        following = None if quantity == "joint" else self._following(rows, present, persons, frames)
        if self.absent_persons == "zeros":
            # Every clip has SLOTS persons, (N * SLOTS, T, V, 3). Missing persons are zeros in all frames.
            clips = len(frames)
            slot = owner * SLOTS + persons.number  # (P,)
            x = self._fetch(rows, following)
            padded = x.new_zeros(clips * SLOTS, *x.shape[1:])
            shown = present.new_zeros(len(padded), present.shape[1])
            owner = torch.arange(clips).repeat_interleave(SLOTS)
            x = padded.index_copy(0, to_device(slot, x.device), x)
            return Frames(x, shown.index_copy(0, slot, present), owner)
        # A person who is absent from all sampled frames is excluded, so P may be less than the number of persons.
        seen = present.any(1)  # (P, T) -> (P,)
        x = self._fetch(rows[seen], None if following is None else following[seen])
        return Frames(x, present[seen], owner[seen])

    def _following(self, rows: Tensor, present: Tensor, persons: _Persons, frames: Tensor) -> Tensor:
        """The rows of the next frames, (P, T).

        A row is its own successor if the person is absent from either frame, or in the last frame of the clip: the
        difference is exactly zero there.
        """
        ends = frames[persons.owner] == self.clips.frames[persons.clip][:, None] - 1  # (P, T)
        following = rows + (~ends).long()
        return torch.where(present & self.clips.present[following], following, rows)

    def _fetch(self, rows: Tensor, following: Tensor | None = None) -> Tensor:
        """Positions in the rows (P, T): (P, T, V, 3) on the device, in PyTorch's default type.

        With ``following``, (P, T), their differences to the positions in these rows.
        """
        x = self._positions(rows)
        return x if following is None else self._positions(following) - x

    def _positions(self, rows: Tensor) -> Tensor:
        device, data = self.clips.device, self.clips.joint
        if self.clips.place == "device":
            return data[to_device(rows, device)].to(torch.get_default_dtype())
        # Gathered into pinned memory on the host, (P*T, V, 3), so that the copy to the GPU is asynchronous.
        batch = torch.empty(rows.numel(), *data.shape[1:], dtype=data.dtype, pin_memory=device.type == "cuda")
        torch.index_select(data, 0, rows.flatten(), out=batch)
        batch = batch.to(device, non_blocking=True).to(torch.get_default_dtype())
        return batch.view(*rows.shape, *data.shape[1:])

    def _stream(self, x: Tensor, owner: Tensor, clips: int) -> Stream:
        """(P, T, V, 3) -> a stream with (P, 3, T, V)."""
        return Stream.of(x.permute(0, 3, 1, 2), torch.bincount(owner, minlength=clips))
