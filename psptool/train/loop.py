"""The training loop: steps, looks at the validation clips, and what is said of both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from psptool.batches.ragged import Batcher
from psptool.errors import PspError
from psptool.model.classifier import PSPNet
from psptool.model.logits import clip_logits
from psptool.schemas.training import TrainingConfig
from psptool.train.draws import endless
from psptool.train.objective import objective
from psptool.train.optimization import build_optimizer, learning_rate

LOG_EVERY = 10
VALIDATION_LOOKS = 20


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
        contrast: What the contrast draws from; empty for labels only.
        validation: Looked at now and then to keep the best weights; may be empty.
    """

    labelled: Tensor
    contrast: Tensor
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
    """

    model: PSPNet
    batcher: Batcher
    pools: Pools
    config: TrainingConfig
    seed: int
    precision: torch.dtype
    _best: float = field(default=-1.0, init=False)

    def run(self, tell: Callable[[Progress], None]) -> None:
        """Train to the last step.

        Args:
            tell: Called every `LOG_EVERY` steps, at every look at the validation clips, and at the end.

        Raises:
            PspError: The loss is not finite; says at which step and which term.
        """
        config, optim, device = self.config, self.config.optim, self.batcher.clips.device
        optimizer = build_optimizer(self.model, optim)
        generator = torch.Generator(device).manual_seed(self.seed)
        labelled, contrast = self._draws()
        sums: dict[str, Tensor] = {}
        counted, begun = 0, time.perf_counter()
        self.model.train()
        for step in range(optim.steps):
            lr = learning_rate(step, optim)
            for group in optimizer.param_groups:
                group["lr"] = lr
            chosen = torch.cat((next(labelled), next(contrast))).to(device)
            labels = self.batcher.clips.label[chosen[: optim.labelled]]
            terms = objective(
                self.model, self.batcher.train(chosen, generator), labels, config, self.precision
            )
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()  # type: ignore[no-untyped-call]
            if optim.clip_norm:
                nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip_norm)
            optimizer.step()
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach()
            counted += 1
            done = step + 1
            look = self._looks_at(done)
            if look or done % LOG_EVERY == 0 or done == optim.steps:
                means = {name: float(value) / counted for name, value in sums.items()}
                _check_finite(means, done, counted)
                validation = self._validate() if look else None
                best = validation is not None and validation > self._best
                self._best = validation if validation is not None and best else self._best
                tell(Progress(done, optim.steps, means, lr, time.perf_counter() - begun, validation, best))
                sums, counted = {}, 0

    def _draws(self) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
        """Endless batches of labelled clips and of the contrast's pool; the latter are empty where there is none."""
        of_labelled = torch.Generator().manual_seed(self.seed)
        of_contrast = torch.Generator().manual_seed(self.seed + 1)
        size = self.config.optim.unlabelled if len(self.pools.contrast) else 0
        return (
            endless(self.pools.labelled, self.config.optim.labelled, of_labelled),
            endless(self.pools.contrast, size, of_contrast),
        )

    def _looks_at(self, done: int) -> bool:
        every = self.config.validate_every or math.ceil(self.config.optim.steps / VALIDATION_LOOKS)
        return len(self.pools.validation) > 0 and (done % every == 0 or done == self.config.optim.steps)

    def _validate(self) -> float:
        """Top-1 of both streams on the validation clips."""
        joint, motion = clip_logits(self.model, self.batcher, self.pools.validation, self.precision)
        labels = self.batcher.clips.label[self.pools.validation.to(joint.device)]
        return float(((joint + motion).argmax(1) == labels).float().mean())


def _check_finite(means: dict[str, float], done: int, counted: int) -> None:
    """Refuse means over the last ``counted`` of ``done`` steps that are not finite; the sum is no cause of its own."""
    odd = {name: value for name, value in means.items() if not math.isfinite(value)}
    if odd:
        causes = [name for name in odd if name != "loss"] or ["loss"]
        raise PspError(
            f"training stopped: the loss's term {', '.join(causes)} is not finite"
            f" (step {done}, or one of the {counted - 1} before)",
            found=", ".join(str(odd[name]) for name in causes),
            way_out="Lower optim.lr, or set optim.clip_norm=5.",
        )
