"""The training loop: optimizer steps, validation, logging and checkpoints.

Notation for tensor shapes: L labelled clips and U clips of the pool in a global batch; n clips of this rank
or of a split; K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from psptool.common.distributed import SINGLE, ProcessGroup
from psptool.data.batches.ragged import Batcher
from psptool.data.batches.streams import Batch, any_stream, take, to_device
from psptool.model.logits import clip_logits
from psptool.model.network import Network, add_up
from psptool.schemas.training import TrainingConfig
from psptool.training.clip_batches import endless_batches
from psptool.training.graphs import Capture, StepCache
from psptool.training.guards import check_terms, check_weights
from psptool.training.optimization import build_optimizer, learning_rate, use_learning_rate
from psptool.training.state import TrainState
from psptool.training.step import StepInputs, StepScalars, Terms, TrainStep
from psptool.training.teacher import Teacher

LOG_EVERY = 10
"""Steps between log entries."""
VALIDATIONS = 20
"""Number of validations of a training, if `TrainingConfig.validate_every` is 0."""
CHECKPOINT_SECONDS = 60
"""Time between checkpoints, if `TrainingConfig.checkpoint_every` is 0."""
FIRST_CHECKPOINT_SECONDS = 5
"""Time before the first checkpoint of a new training, if `TrainingConfig.checkpoint_every` is 0."""


@dataclass(frozen=True)
class Progress:
    """Progress of a training, reported every `LOG_EVERY` steps and after each validation.

    Attributes:
        step: Number of completed steps.
        steps: Number of steps of the training.
        terms: Loss and its terms by name, means since the last report.
        lr: Learning rate of the last step.
        seconds: Time since the first step.
        validation: Top-1 accuracy on the validation clips, if this step was validated.
        best: Whether `validation` is the highest so far.
    """

    step: int
    steps: int
    terms: dict[str, float]
    lr: float
    seconds: float
    validation: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Pools:
    """Clip numbers by use in training, int64 (n,) each. Test clips are in none of them.

    Attributes:
        labelled: Clips whose labels are used.
        pool: Clips of the contrastive loss and the teacher, used without labels; empty if neither is on.
        validation: Clips for the selection of the best weights; may be empty.
    """

    labelled: Tensor
    pool: Tensor
    validation: Tensor


@dataclass
class Loop:
    """The training loop.

    Attributes:
        model: On the device, trained in place.
        batcher: The dataset on the device.
        pools: The clips of the training.
        config: The training configuration.
        seed: Random seed of clips, frames and augmentation.
        precision: Precision of the forward pass.
        ranks: The processes of the training; all have the same pools and seed.
        capture: How steps are captured (`psptool.training.graphs`); None runs all steps eagerly.
        on_warning: Called if capturing fails.
        last_checkpoint: A sentence for error messages: which checkpoint is the last one.
    """

    model: Network
    batcher: Batcher
    pools: Pools
    config: TrainingConfig
    seed: int
    precision: torch.dtype
    ranks: ProcessGroup = SINGLE
    capture: Capture | None = None
    on_warning: Callable[[str], None] = lambda warning: None
    last_checkpoint: str = field(default="There is no checkpoint yet.", init=False)

    def run(
        self,
        on_progress: Callable[[Progress], None],
        *,
        on_start: Callable[[int], None] = lambda step: None,
        on_step: Callable[[int], None] = lambda step: None,
        save: Callable[[bytes], None] = lambda checkpoint: None,
        stop_requested: Callable[[], bool] = lambda: False,
        save_best: Callable[[], None] = lambda: None,
        checkpoint: Mapping[str, Any] | None = None,
        source: str = "resume.pt",
    ) -> int:
        """Train until the last step, or until a stop is requested.

        Args:
            on_progress: Called every `LOG_EVERY` steps, after each validation, and at the end.
            on_start: Called before the first step with the number of completed steps (0 unless resumed).
            on_step: Called after each step with the number of completed steps.
            save: Called on rank 0 with the bytes of each checkpoint.
            stop_requested: Whether to save a checkpoint and stop after this step. Several ranks agree on it only every
                `LOG_EVERY` steps, because the collective operation makes them wait for each other.
            save_best: Called on rank 0 if the weights are the best so far, after the checkpoint was saved: if the
                process is killed at any time, the best weights are never of a later step than the checkpoint.
            checkpoint: State to resume from; None starts at step 0.
            source: File of the checkpoint, for error messages.

        Returns:
            Number of completed steps.

        Raises:
            PspError: The loss or a weight is not finite, or ``checkpoint`` does not fit the training.
        """
        optim = self.config.optim
        optimizer = build_optimizer(self.model, optim)
        generator = torch.Generator().manual_seed(self.seed)
        state = TrainState(self.model, optimizer, generator, teacher=self._build_teacher())
        if checkpoint is not None:
            state.unpack(checkpoint, source)
            self.last_checkpoint = _checkpoint_sentence(state.step)
        scalars = StepScalars.on(self.batcher.clips.device)
        use_learning_rate(optimizer, scalars.lr)
        step = TrainStep(self.model, optimizer, self.config, self.precision, state.teacher, self.ranks)
        cache = StepCache(step, self.capture, self.on_warning)
        on_start(state.step)
        if 0 < state.step == state.best_step:
            # The process may have been killed between saving the checkpoint and saving its best weights.
            self._save_best(save_best)
        labelled, pool = self._clip_batches(state.step)
        start = time.perf_counter() - state.seconds
        saved = time.perf_counter()
        if checkpoint is None:
            saved -= CHECKPOINT_SECONDS - FIRST_CHECKPOINT_SECONDS
        self.model.train()
        while state.step < optim.steps:
            chosen = torch.cat((next(labelled), next(pool)))  # clips (L + U,)
            names, terms = self._step(cache, scalars, chosen, state)
            # Kept on the device until they are logged: no step waits for the device, and the batch of the next one is
            # prepared while the device computes.
            state.window.append(terms)
            state.step += 1
            state.seconds = time.perf_counter() - start
            last = state.step == optim.steps
            best = self._log(state, names, on_progress) if self._should_log(state.step) else False
            on_step(state.step)
            stop = self._should_stop(stop_requested, state.step) and not last
            # Best weights are always saved with the checkpoint of their step, also at the last step.
            if stop or best or (not last and self._should_save(state.step, saved)):
                self._save_checkpoint(state, names, save)
                saved = time.perf_counter()
            if best:
                self._save_best(save_best)
            if stop:
                break
        check_weights(self.model, state.step, self.last_checkpoint)
        return state.step

    def _log(
        self, state: TrainState, names: tuple[str, ...], on_progress: Callable[[Progress], None]
    ) -> bool:
        """Report progress, after a validation if one is due; whether its accuracy is the highest so far.

        Args:
            state: The training after a step.
            names: Names of the loss terms in `TrainState.window`.
            on_progress: As in `run`.
        """
        steps = self.config.optim.steps
        means = check_terms(torch.stack(state.window), names, state.step, self.last_checkpoint)
        state.window.clear()
        validation = self._validate() if self._should_validate(state.step) else None
        best = validation is not None and validation > state.best
        if validation is not None and best:
            state.best, state.best_step = validation, state.step
        lr = learning_rate(state.step - 1, self.config.optim)
        on_progress(Progress(state.step, steps, means, lr, state.seconds, validation, best))
        return best

    def _build_teacher(self) -> Teacher | None:
        if not self.config.has_teacher:
            return None
        labels = self.batcher.clips.label[self.pools.labelled]  # (L',)
        frequencies = torch.bincount(labels, minlength=self.model.classes) / len(labels)  # (K,)
        return Teacher(self.model, self.config.teacher, self.config.optim.steps, self.precision, frequencies)

    def _step(
        self, step: Callable[[StepInputs], Terms], scalars: StepScalars, chosen: Tensor, state: TrainState
    ) -> Terms:
        """One optimizer step on this rank's shard of the global batch; the loss and its terms.

        Args:
            step: Runs the step; see `psptool.training.step.TrainStep`.
            scalars: Set here for this step.
            chosen: int64 (L + U,), clip numbers of the global batch, labelled clips first.
            state: The training before the step.
        """
        optim, teacher = self.config.optim, state.teacher
        batch = self.batcher.train(chosen, state.generator)
        labelled, pool = chosen[: optim.labelled_batch], chosen[optim.labelled_batch :]  # (L,), (U,)
        labels = to_device(self.batcher.clips.label[labelled], self.batcher.clips.device)
        if self.ranks.size > 1:
            batch, labels = self._shard(batch, labels, state.step)
        weight = 0.0 if teacher is None else teacher.weight(state.step)
        momentum = 0.0 if teacher is None else teacher.momentum(state.step)
        scalars.set(learning_rate(state.step, optim), weight, momentum)
        teacher_batch = None
        if weight:
            teacher_batch = self.batcher.test(
                pool[self.ranks.shard(backwards=True)]
            )  # (U,) -> this rank's clips
        return step(StepInputs(batch, labels, len(pool), scalars, teacher_batch))

    def _shard(self, batch: Batch, labels: Tensor, step: int) -> tuple[Batch, Tensor]:
        """This rank's clips of the global batch, and the labels of the labelled clips among them.

        Every rank samples and gathers the whole batch, so that all random generators stay equal. This takes little
        time compared with the network. Only dropout must differ between ranks.
        """
        if self.config.model.uses_randomness:
            torch.manual_seed(hash((self.seed, self.ranks.rank, step)))
        numbers = torch.arange(len(any_stream(batch).average), device=labels.device)  # (L + U,)
        own = torch.cat(
            (
                numbers[: len(labels)][self.ranks.shard()],
                numbers[len(labels) :][self.ranks.shard(backwards=True)],
            )
        )
        return take(batch, own), labels[self.ranks.shard()]

    def _save_checkpoint(
        self, state: TrainState, names: tuple[str, ...], save: Callable[[bytes], None]
    ) -> None:
        """Save the state, unless a loss term or a weight is not finite."""
        if state.window:
            check_terms(torch.stack(state.window), names, state.step, self.last_checkpoint)
        check_weights(self.model, state.step, self.last_checkpoint)
        if self.ranks.is_main:
            save(state.pack())
        self.last_checkpoint = _checkpoint_sentence(state.step)

    def _save_best(self, save_best: Callable[[], None]) -> None:
        if self.ranks.is_main:
            save_best()

    def _should_log(self, step: int) -> bool:
        return step % LOG_EVERY == 0 or step == self.config.optim.steps or self._should_validate(step)

    def _should_save(self, step: int, saved: float) -> bool:
        every = self.config.checkpoint_every
        return step % every == 0 if every else time.perf_counter() - saved > CHECKPOINT_SECONDS

    def _should_stop(self, requested: Callable[[], bool], step: int) -> bool:
        if self.ranks.size == 1:
            return requested()
        return step % LOG_EVERY == 0 and self.ranks.any(requested())

    def _clip_batches(self, skip: int) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
        """Endless batches of labelled clips, int64 (L,), and of the pool, int64 (U,); U is 0 without a pool.

        The batches of the first ``skip`` steps are skipped. They follow from the seed, so a checkpoint need not
        contain the order of the clips.
        """
        labelled_generator = torch.Generator().manual_seed(self.seed)
        pool_generator = torch.Generator().manual_seed(self.seed + 1)
        size = self.config.optim.pool_batch if len(self.pools.pool) else 0
        return (
            endless_batches(self.pools.labelled, self.config.optim.labelled_batch, labelled_generator, skip),
            endless_batches(self.pools.pool, size, pool_generator, skip),
        )

    def _should_validate(self, step: int) -> bool:
        every = self.config.validate_every or math.ceil(self.config.optim.steps / VALIDATIONS)
        return len(self.pools.validation) > 0 and (step % every == 0 or step == self.config.optim.steps)

    def _validate(self) -> float:
        """Top-1 accuracy of all streams together on the validation clips."""
        by_stream = clip_logits(self.model, self.batcher, self.pools.validation, self.precision)
        logits = add_up(by_stream.values())  # (n, K)
        labels = self.batcher.clips.label[self.pools.validation].to(logits.device)
        return float((logits.argmax(1) == labels).float().mean())


def _checkpoint_sentence(step: int) -> str:
    return f"The last good checkpoint is that of step {step}."
