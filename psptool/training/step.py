"""One training step as a function of tensors.

Between its inputs and its loss terms, a step reads no value back to the host, and nothing in it depends on a number
that changes from step to step: such numbers are tensors of the inputs. So a step can be captured as a CUDA graph
(`psptool.training.graphs`) and replayed with other values in the same tensors.

Notation for tensor shapes: L labelled clips and U clips of the pool of this rank, P persons of all clips.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from psptool.common.distributed import SINGLE, ProcessGroup
from psptool.data.batches.streams import Batch, to_device
from psptool.losses.total import total_loss
from psptool.model.network import Network
from psptool.schemas.training import TrainingConfig
from psptool.training.teacher import Teacher

Terms = tuple[tuple[str, ...], Tensor]
"""Names of the loss and its terms, and their values (terms,) on the device, without gradients."""


@dataclass(frozen=True)
class StepScalars:
    """Numbers that change from step to step, as 0-d tensors on the device.

    Attributes:
        values: (3,), float32 on a GPU, where the fused optimizers require it, else float64.
    """

    values: Tensor

    @classmethod
    def on(cls, device: torch.device) -> StepScalars:
        """All zero, on ``device``."""
        return cls(
            torch.zeros(3, dtype=torch.float32 if device.type == "cuda" else torch.float64, device=device)
        )

    @property
    def lr(self) -> Tensor:
        """Learning rate."""
        return self.values[0]

    @property
    def teacher_weight(self) -> Tensor:
        """Weight of the teacher loss."""
        return self.values[1]

    @property
    def teacher_momentum(self) -> Tensor:
        """Momentum of the teacher's moving average."""
        return self.values[2]

    def set(self, lr: float, teacher_weight: float, teacher_momentum: float) -> None:
        """Set the values, in one copy to the device."""
        values = torch.tensor([lr, teacher_weight, teacher_momentum], dtype=self.values.dtype)
        self.values.copy_(to_device(values, self.values.device))


@dataclass(frozen=True)
class StepInputs:
    """Everything that a step reads besides its own state (weights, optimizer, teacher).

    Attributes:
        batch: L labelled clips, followed by U clips of the pool.
        labels: int64 (L,).
        pool: Number of clips of the pool on all ranks.
        scalars: The same tensors in every step.
        teacher_batch: Test batch of the U clips; None if the teacher does not predict in this step.
    """

    batch: Batch
    labels: Tensor
    pool: int
    scalars: StepScalars
    teacher_batch: Batch | None = None

    @property
    def key(self) -> Hashable:
        """Equal for two inputs if a step runs the same kernels on both, with other values in their tensors."""
        # The network slices the persons of the pool by a number that the host counts.
        first_persons = tuple(stream.first_person(len(self.labels)) for stream in self.batch.values())
        shapes = tuple((x.shape, x.stride(), x.dtype) for x in self._tensors())
        return tuple(self.batch), first_persons, shapes, self.pool, self.teacher_batch is not None

    def clone(self) -> StepInputs:
        """A copy with tensors of its own, of the same memory layout, and with the same `scalars`."""
        teacher_batch = None if self.teacher_batch is None else _clone(self.teacher_batch)
        return replace(
            self, batch=_clone(self.batch), labels=self.labels.clone(), teacher_batch=teacher_batch
        )

    def copy_(self, other: StepInputs) -> None:
        """Copy the values of ``other``, which has the same `key`, into the tensors of this one."""
        for own, theirs in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(theirs, non_blocking=True)

    def _tensors(self) -> Iterator[Tensor]:
        """The tensors that `copy_` fills: all but `scalars` and the counts of persons on the host."""
        yield self.labels
        for batch in (self.batch, self.teacher_batch or {}):
            for stream in batch.values():
                yield stream.x
                yield stream.average


def _clone(batch: Batch) -> Batch:
    return {
        name: replace(stream, x=stream.x.clone(), average=stream.average.clone())
        for name, stream in batch.items()
    }


@dataclass(frozen=True)
class TrainStep:
    """One optimizer step on this rank's shard of the global batch.

    Attributes:
        model: In training mode; trained in place.
        optimizer: Its learning rate is `StepScalars.lr`; see `psptool.training.optimization.use_learning_rate`.
        config: The training configuration.
        precision: Precision of the forward pass.
        teacher: Updated in place; None without a teacher.
        ranks: The processes that share the global batch.
    """

    model: Network
    optimizer: torch.optim.Optimizer
    config: TrainingConfig
    precision: torch.dtype
    teacher: Teacher | None = None
    ranks: ProcessGroup = SINGLE

    def __call__(self, inputs: StepInputs) -> Terms:
        """Update weights, optimizer and teacher; the loss and its terms before the update."""
        scalars, labels = inputs.scalars, None
        if self.teacher is not None and inputs.teacher_batch is not None:
            labels = self.teacher.predict(inputs.teacher_batch, self.ranks, inputs.pool)  # (U, K)
        terms = total_loss(
            self.model,
            inputs.batch,
            inputs.labels,
            self.config,
            self.precision,
            self.ranks,
            inputs.pool,
            labels,
            scalars.teacher_weight,
        )
        # Gradients are new tensors of every step. Those of a captured step always have the same addresses.
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        self.ranks.all_reduce_gradients(self.model.parameters())
        if self.config.optim.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        if self.teacher is not None:
            self.teacher.update(self.model, scalars.teacher_momentum)
        return tuple(terms), _stack(terms)


def _stack(terms: Mapping[str, Tensor]) -> Tensor:
    """Scalars as one tensor (terms,), without gradients."""
    return torch.stack([value.detach() for value in terms.values()])
