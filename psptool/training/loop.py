"""The training loop: steps, looks at the validation clips, and what is said of both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from psptool.common.distributed import SINGLE, ProcessGroup
from psptool.data.batches.ragged import Batcher
from psptool.data.batches.streams import Batch, any_stream, take
from psptool.losses.total import total_loss
from psptool.model.logits import clip_logits
from psptool.model.network import Network, add_up
from psptool.schemas.training import TrainingConfig
from psptool.training.draws import endless
from psptool.training.guards import check_terms, check_weights
from psptool.training.optimization import build_optimizer, learning_rate
from psptool.training.state import TrainState
from psptool.training.teacher import Teacher

LOG_EVERY = 10
VALIDATIONS = 20
CHECKPOINT_SECONDS = 60


@dataclass(frozen=True)
class Progress:
    """What the loop says of itself every few steps.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        terms: The loss and its terms, means since the last word.
        lr: Learning rate of the last step.
        seconds: Since the first step.
        validation: Top-1 on the validation clips, where this step looked at them.
        best: Whether that is the best so far.
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
    """Clip numbers, int64, by what training may do with them; the test clips are not among them.

    Attributes:
        labelled: Whose labels are used.
        pool: Seen without their labels, by the contrast and the teacher; empty for labels only.
        validation: Looked at now and then to keep the best weights; may be empty.
    """

    labelled: Tensor
    pool: Tensor
    validation: Tensor


@dataclass
class Loop:
    """One training.

    Attributes:
        model: On the device, changed in place.
        batcher: The dataset on the device.
        pools: Which clips are which.
        config: The recipe.
        seed: Of every draw.
        precision: Of the forward pass.
        ranks: The processes that train together; all have the same pools and seed.
        kept: What there is to go back to, for the words of an error.
    """

    model: Network
    batcher: Batcher
    pools: Pools
    config: TrainingConfig
    seed: int
    precision: torch.dtype
    ranks: ProcessGroup = SINGLE
    kept: str = field(default="There is no checkpoint yet.", init=False)

    def run(
        self,
        on_progress: Callable[[Progress], None],
        *,
        begin: Callable[[int], None] = lambda step: None,
        on_step: Callable[[int], None] = lambda step: None,
        save: Callable[[bytes], None] = lambda state: None,
        asked_to_stop: Callable[[], bool] = lambda: False,
        keep_best: Callable[[], None] = lambda: None,
        state: Mapping[str, Any] | None = None,
        source: str = "resume.pt",
    ) -> int:
        """Train to the last step, or until asked to stop; the steps done.

        Args:
            begin: Called with the steps done before, once the state is read.
            on_step: Called with the steps done, after each step.
            on_progress: Called every `LOG_EVERY` steps, at every look at the validation clips, and at the end.
            save: Gets the state to go on from now and then; called on the first rank alone.
            asked_to_stop: Whether to keep the state and leave after this step; several ranks agree on it every
                `LOG_EVERY` steps, since asking each other makes them wait.
            keep_best: Called where the weights are the best so far, after their state was kept: whenever this process
                is killed, the best weights are not of a later step than the state.
            state: Where to go on from; None for the first step.
            source: The state's file, for an error.

        Raises:
            PspError: The loss or a weight is not finite; says at which step and which term.
        """
        optim = self.config.optim
        optimizer = build_optimizer(self.model, optim)
        generator = torch.Generator().manual_seed(self.seed)
        now = TrainState(self.model, optimizer, generator, teacher=self._teacher())
        if state is not None:
            now.unpack(state, source)
            self.kept = _kept(now.step)
        begin(now.step)
        if 0 < now.step == now.best_step:
            # Killed between the state and its best weights: theirs may be missing.
            self._keep_best(keep_best)
        labelled, unlabelled = self._draws(now.step)
        begun = time.perf_counter() - now.seconds
        saved = time.perf_counter()
        self.model.train()
        while now.step < optim.steps:
            terms = self._step(optimizer, torch.cat((next(labelled), next(unlabelled))), now)
            now.window.append(torch.stack([value.detach() for value in terms.values()]))
            now.step += 1
            names, last = tuple(terms), now.step == optim.steps
            now.seconds = time.perf_counter() - begun
            look = self._should_validate(now.step)
            best = (
                self._log(now, names, look, on_progress)
                if look or last or now.step % LOG_EVERY == 0
                else False
            )
            on_step(now.step)
            stop = self._should_stop(asked_to_stop, now.step) and not last
            # Best weights and the state that knows of them belong together, at the last step too.
            if stop or best or (not last and self._should_save(now.step, saved)):
                self._save_checkpoint(now, names, save)
                saved = time.perf_counter()
            if best:
                self._keep_best(keep_best)
            if stop:
                break
        check_weights(self.model, now.step, self.kept)
        return now.step

    def _log(
        self, now: TrainState, names: tuple[str, ...], look: bool, on_progress: Callable[[Progress], None]
    ) -> bool:
        """Tell the means since the last word, and the accuracy where it is a step to look; whether it is the best."""
        steps = self.config.optim.steps
        means = check_terms(torch.stack(now.window), names, now.step, self.kept)
        now.window.clear()
        validation = self._validate() if look else None
        best = validation is not None and validation > now.best
        if validation is not None and best:
            now.best, now.best_step = validation, now.step
        lr = learning_rate(now.step - 1, self.config.optim)
        on_progress(Progress(now.step, steps, means, lr, now.seconds, validation, best))
        return best

    def _teacher(self) -> Teacher | None:
        if not self.config.has_teacher:
            return None
        return Teacher(self.model, self.config.teacher, self.config.optim.steps, self.precision)

    def _step(self, optimizer: torch.optim.Optimizer, chosen: Tensor, now: TrainState) -> dict[str, Tensor]:
        """One step on this rank's share of the global batch ``chosen``; the loss and its terms."""
        config, optim = self.config, self.config.optim
        lr = learning_rate(now.step, optim)
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = self.batcher.train(chosen, now.generator)
        labels, pool = (
            self.batcher.clips.label[chosen[: optim.labelled_batch]],
            len(chosen) - optim.labelled_batch,
        )
        labels = labels.to(self.batcher.clips.device, non_blocking=True)
        if self.ranks.size > 1:
            batch, labels = self._share(batch, labels, now.step)
        teacher_weight, teacher_labels = self._teacher_targets(now, chosen[optim.labelled_batch :])
        terms = total_loss(
            self.model,
            batch,
            labels,
            config,
            self.precision,
            self.ranks,
            pool,
            teacher_labels,
            teacher_weight,
        )
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        self.ranks.all_reduce_gradients(self.model.parameters())
        if optim.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip_norm)
        optimizer.step()
        if now.teacher is not None:
            now.teacher.update(self.model, now.step)
        return terms

    def _teacher_targets(self, now: TrainState, pool: Tensor) -> tuple[float, Tensor | None]:
        """The weight of the teacher's labels in this step, and its labels of this rank's share of the pool."""
        weight = now.teacher.weight(now.step) if now.teacher is not None else 0.0
        if now.teacher is None or weight == 0:
            return 0.0, None
        own = pool[self.ranks.shard(backwards=True)]
        return weight, now.teacher.predict(self.batcher.test(own), self.ranks, len(pool))

    def _share(self, batch: Batch, labels: Tensor, step: int) -> tuple[Batch, Tensor]:
        """This rank's clips of a global batch, and the labels of the labelled ones among them.

        The whole batch is drawn and gathered on every rank, so that all draw alike: that is little work beside the
        network's. Dropout alone must differ from rank to rank.
        """
        if self.config.model.draws:
            torch.manual_seed(hash((self.seed, self.ranks.rank, step)))
        numbers = torch.arange(len(any_stream(batch).average), device=labels.device)
        own = torch.cat(
            (
                numbers[: len(labels)][self.ranks.shard()],
                numbers[len(labels) :][self.ranks.shard(backwards=True)],
            )
        )
        return take(batch, own), labels[self.ranks.shard()]

    def _save_checkpoint(
        self, now: TrainState, names: tuple[str, ...], save: Callable[[bytes], None]
    ) -> None:
        """Hand out the state, unless something in it is not finite."""
        if now.window:
            check_terms(torch.stack(now.window), names, now.step, self.kept)
        check_weights(self.model, now.step, self.kept)
        if self.ranks.is_main:
            save(now.pack())
        self.kept = _kept(now.step)

    def _keep_best(self, keep_best: Callable[[], None]) -> None:
        if self.ranks.is_main:
            keep_best()

    def _should_save(self, done: int, saved: float) -> bool:
        every = self.config.checkpoint_every
        return done % every == 0 if every else time.perf_counter() - saved > CHECKPOINT_SECONDS

    def _should_stop(self, asked: Callable[[], bool], done: int) -> bool:
        if self.ranks.size == 1:
            return asked()
        return done % LOG_EVERY == 0 and self.ranks.any(asked())

    def _draws(self, done: int) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
        """Endless batches of labelled clips and of the pool; the latter are empty where there is none.

        Those of the ``done`` steps before are skipped: a stream's place in its pass needs no saving.
        """
        of_labelled = torch.Generator().manual_seed(self.seed)
        of_pool = torch.Generator().manual_seed(self.seed + 1)
        size = self.config.optim.pool_batch if len(self.pools.pool) else 0
        return (
            endless(self.pools.labelled, self.config.optim.labelled_batch, of_labelled, done),
            endless(self.pools.pool, size, of_pool, done),
        )

    def _should_validate(self, done: int) -> bool:
        every = self.config.validate_every or math.ceil(self.config.optim.steps / VALIDATIONS)
        return len(self.pools.validation) > 0 and (done % every == 0 or done == self.config.optim.steps)

    def _validate(self) -> float:
        """Top-1 of all streams together on the validation clips."""
        by_stream = clip_logits(self.model, self.batcher, self.pools.validation, self.precision)
        logits = add_up(by_stream.values())
        labels = self.batcher.clips.label[self.pools.validation].to(logits.device)
        return float((logits.argmax(1) == labels).float().mean())


def _kept(step: int) -> str:
    return f"The last good checkpoint is that of step {step}."
