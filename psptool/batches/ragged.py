"""A dataset's clips on the device as one ragged tensor, and batches gathered from it without any worker process.

Notation for tensor shapes: n clips of the dataset, N clips of a batch, P persons of all clips of a batch, T frames
drawn, V joints, R stored rows (one frame of one person each).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from psptool.batches.augmentation import Augmentation, augment, draw_augmentation
from psptool.batches.sampling import draw_frames, even_frames
from psptool.batches.streams import Stream, Streams
from psptool.schemas.training import AugmentSettings, SamplingSettings
from psptool.store.reading import Rows, Store

NO_CHANGE = AugmentSettings()


@dataclass(frozen=True)
class RaggedClips:
    """Clips as rows of one person and frame each, person-major within a clip, as the store has them.

    Attributes:
        joint: float32 (R, V, 3), positions.
        motion: float32 (R, V, 3), differences.
        present: bool (R,).
        label: int64 (n,).
        first_row: int64 (n,), the clip's first row.
        frames: int64 (n,).
        persons: int64 (n,).
        visible: int64 (F,), for each clip the frames in which somebody is present, clip by clip.
        first_visible: int64 (n,), the clip's first entry in `visible`.
        visible_count: int64 (n,), its number of entries there.
        mirror: int64 (V,), for each joint the one on the other side.
    """

    joint: Tensor
    motion: Tensor
    present: Tensor
    label: Tensor
    first_row: Tensor
    frames: Tensor
    persons: Tensor
    visible: Tensor
    first_visible: Tensor
    visible_count: Tensor
    mirror: Tensor

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.joint.device

    @classmethod
    def from_store(cls, store: Store, mirror: tuple[int, ...], device: torch.device) -> RaggedClips:
        """Load a whole prepared dataset onto ``device``."""
        table = store.table
        return cls.from_rows(store.rows(), table.label, table.frames, table.persons, mirror, device)

    @classmethod
    def from_rows(
        cls,
        rows: Rows,
        label: NDArray[np.integer],
        frames: NDArray[np.integer],
        persons: NDArray[np.integer],
        mirror: tuple[int, ...],
        device: torch.device,
    ) -> RaggedClips:
        """Clips whose rows follow each other, as the store has them; label, frames and persons are int (n,)."""
        sizes = frames * persons
        first_row = np.cumsum(sizes) - sizes
        shown = [
            np.flatnonzero(rows.present[first : first + t * m].reshape(m, t).any(0))
            for first, t, m in zip(first_row, frames, persons, strict=True)
        ]
        count = np.array([len(visible) for visible in shown], dtype=np.int64)

        def integers(values: NDArray[np.integer]) -> Tensor:
            return torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)

        return cls(
            joint=torch.as_tensor(rows.joint, device=device),
            motion=torch.as_tensor(rows.motion, device=device),
            present=torch.as_tensor(rows.present, device=device),
            label=integers(label),
            first_row=integers(first_row),
            frames=integers(frames),
            persons=integers(persons),
            visible=integers(np.concatenate(shown)),
            first_visible=integers(np.cumsum(count) - count),
            visible_count=integers(count),
            mirror=torch.tensor(mirror, device=device),
        )


@dataclass(frozen=True)
class Batcher:
    """Turns clip numbers into the network's two streams.

    Attributes:
        clips: The dataset on the device.
        sampling: Which frames are drawn.
        augmentation: What changes at training.
        absent_persons: ``skip`` leaves absent persons out; ``zeros`` computes on `slots` persons a clip.
        slots: Persons a clip under ``zeros``, at most two in the released code.
    """

    clips: RaggedClips
    sampling: SamplingSettings
    augmentation: AugmentSettings = NO_CHANGE
    absent_persons: str = "skip"
    slots: int = 2

    def train(self, chosen: Tensor, generator: torch.Generator) -> Streams:
        """A training batch of the clips ``chosen``, int64 (N,): frames and augmentations are drawn."""
        clips, settings = self.clips, self.augmentation

        def draw() -> Tensor:
            return self._visible_frames(chosen, draw_frames(self._counts(chosen), self.sampling, generator))

        def change() -> Augmentation:
            return draw_augmentation(len(chosen), len(clips.mirror), settings, generator, clips.device)

        frames, changes = draw(), change()
        frames_of_motion = frames if self.sampling.shared else draw()
        changes_of_motion = changes if settings.shared else change()
        streams = []
        for data, drawn, changed in (
            (clips.joint, frames, changes),
            # Noise is for positions: at a high frame rate it would drown their differences.
            (clips.motion, frames_of_motion, replace(changes_of_motion, jitter=0.0)),
        ):
            x, present, owner = self._gather(data, chosen, drawn)
            x = augment(x, owner, changed, clips.mirror, generator, present)
            streams.append(self._stream(x, owner, len(chosen)))
        return Streams(*streams)

    def test(self, chosen: Tensor) -> Streams:
        """A test batch of the clips ``chosen``, int64 (N,): evenly spaced frames, nothing drawn, nothing changed."""
        frames = self._visible_frames(chosen, even_frames(self._counts(chosen), self.sampling.frames))
        streams = []
        for data in (self.clips.joint, self.clips.motion):
            x, _, owner = self._gather(data, chosen, frames)
            streams.append(self._stream(x, owner, len(chosen)))
        return Streams(*streams)

    def _counts(self, chosen: Tensor) -> Tensor:
        return self.clips.visible_count[chosen]

    def _visible_frames(self, chosen: Tensor, drawn: Tensor) -> Tensor:
        """(N, T) positions among the visible frames -> frame numbers in the clip."""
        return self.clips.visible[self.clips.first_visible[chosen][:, None] + drawn]

    def _gather(self, data: Tensor, chosen: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions or motion (P, T, V, 3), presence (P, T), and the clip of each person (P,)."""
        persons = self.clips.persons[chosen]
        owner = torch.repeat_interleave(torch.arange(len(chosen), device=data.device), persons)
        first_person = (persons.cumsum(0) - persons)[owner]
        number = torch.arange(len(owner), device=data.device) - first_person
        rows = self.clips.first_row[chosen][owner] + number * self.clips.frames[chosen][owner]
        rows = rows[:, None] + frames[owner]  # (P, T)
        x, present = data[rows], self.clips.present[rows]
        if self.absent_persons == "zeros":
            # Every clip gets the same number of persons; the missing ones are zeros throughout.
            slot = owner * self.slots + number
            padded = x.new_zeros(len(chosen) * self.slots, *x.shape[1:])
            shown = present.new_zeros(len(padded), present.shape[1])
            owner = torch.arange(len(chosen), device=data.device).repeat_interleave(self.slots)
            return padded.index_copy(0, slot, x), shown.index_copy(0, slot, present), owner
        # A person who is absent from all frames drawn takes no part either.
        seen = present.any(1)
        return x[seen], present[seen], owner[seen]

    def _stream(self, x: Tensor, owner: Tensor, clips: int) -> Stream:
        one_hot = (owner[None, :] == torch.arange(clips, device=x.device)[:, None]).to(x.dtype)  # (N, P)
        return Stream(x.permute(0, 3, 1, 2), one_hot / one_hot.sum(1, keepdim=True))
