"""Mean teacher: a moving average of the network that predicts labels for the pool during training.

Mean Teacher (Tarvainen and Valpola 2017). Labels are sharpened as in MixMatch (Berthelot et al. 2019). They are
balanced by distribution alignment as in ReMixMatch (Berthelot et al. 2020), or by Sinkhorn-Knopp iterations as in
self-labelling (Asano et al. 2020), one iteration per step.

Notation for tensor shapes: n clips of this rank, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psptool.common.distributed import SINGLE, ProcessGroup
from psptool.data.batches.streams import Batch, any_stream
from psptool.model.network import Network
from psptool.model.precision import run_in
from psptool.schemas.training import TeacherSettings

LABEL_MOMENTUM = 0.95
"""Momentum of the moving average of predicted labels, which covers about 20 steps."""
MIN_FREQUENCY = 1e-6
"""Lower bound of a class frequency in the balancing of labels."""
BALANCE_RATE = 0.1
"""Under ``balance: labelled``, each step multiplies a class's divisor by (predicted / wanted frequency) ** this.

The predicted frequency is the mean of the batch's labels after the division and before sharpening.
"""
BALANCE_POWER = 3.0
"""At equilibrium, these divisors are proportional to (predicted / wanted frequency) ** this.

The correction is therefore partial: the frequencies of the pool may differ from those of the labelled clips.
"""
MIN_DIVISOR = 1e-4
"""Lower bound of these divisors and of the wanted frequency."""
MAX_RATIO = 20.0
"""Largest predicted / wanted frequency in that product; the smallest is its inverse."""


class Teacher(nn.Module):
    """Mean teacher of one training. Its state is part of the checkpoint.

    Args:
        model: The network at the first step; copied.
        settings: The teacher settings of the training configuration.
        steps: Number of steps of the training.
        precision: Precision of the forward pass.
        frequencies: (K,), class frequencies of the labelled clips, with the sum 1; equal ones by default.

    Attributes:
        mean_label: (K,), what labels are divided by; uniform at first. The moving average of the predicted labels, or,
            under ``balance: labelled``, the divisors that bring the frequencies of balanced labels close to those of
            the labelled clips.
    """

    mean_label: Tensor
    frequencies: Tensor

    def __init__(
        self,
        model: Network,
        settings: TeacherSettings,
        steps: int,
        precision: torch.dtype = torch.float32,
        frequencies: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model.without_contrast()
        self.requires_grad_(False).eval()
        self.settings, self.steps, self.precision = settings, steps, precision
        like = next(model.parameters())
        equal = like.new_full((model.classes,), 1 / model.classes)
        self.register_buffer("mean_label", equal)
        # Not in the checkpoint: it follows from the split.
        self.register_buffer(
            "frequencies", equal.clone() if frequencies is None else frequencies.to(equal), persistent=False
        )

    def weight(self, step: int) -> float:
        """Weight of the teacher loss at the 0-based ``step``: zero before ``start``, then a linear ramp."""
        elapsed = step / self.steps - self.settings.start  # as a fraction of the training
        if elapsed < 0:
            return 0.0
        return self.settings.weight * (min(1.0, elapsed / self.settings.ramp) if self.settings.ramp else 1.0)

    @torch.no_grad()
    def predict(self, batch: Batch, ranks: ProcessGroup = SINGLE, clips: int = 0) -> Tensor:
        """Predicted label distributions of the clips, (n, K); each row sums to 1. Updates `mean_label`.

        Args:
            batch: Test batch of this rank's clips: evenly spaced frames, no augmentation.
            ranks: The processes that share the pool.
            clips: Number of clips of the pool on all ranks; required with several ranks.
        """
        logits: Tensor = run_in(self.precision, any_stream(batch).x.device, self.model, batch).fused
        probabilities = logits.to(self.mean_label.dtype).softmax(1)  # (n, K)
        self._update_mean_label(probabilities, ranks, clips if ranks.size > 1 else len(probabilities))
        if self.settings.balance != "off":
            # Divide by the class frequencies, (n, K) / (K,): frequent predictions become less likely.
            probabilities = probabilities / self.mean_label.clamp(min=MIN_FREQUENCY)
        # Sharpen: p ** (1 / temperature), normalized. In logarithms, because powers of small numbers underflow.
        return torch.softmax(probabilities.log() / self.settings.temperature, dim=1)

    def _update_mean_label(self, probabilities: Tensor, ranks: ProcessGroup, clips: int) -> None:
        """Update `mean_label` with the predictions (n, K) of this rank, of ``clips`` on all ranks."""
        as_labelled = self.settings.balance == "labelled"
        if as_labelled:
            balanced = probabilities / self.mean_label
            probabilities = balanced / balanced.sum(1, keepdim=True)
        # Mean over the clips of all ranks, (n, K) -> (K,), so that mean_label is the same on every rank.
        mean = ranks.sum(probabilities.sum(0)) / clips
        if as_labelled:
            # A class that is still too frequent after the division gets a larger divisor. The exponent below 1 draws
            # all divisors towards equal ones; without it, they would change until every frequency is the wanted one.
            # Equilibrium: d = c d ** (1 - rate / power) ratio ** rate, so that d is proportional to ratio ** power.
            ratio = (mean / self.frequencies.clamp(min=MIN_DIVISOR)).clamp(1 / MAX_RATIO, MAX_RATIO)
            self.mean_label.pow_(1 - BALANCE_RATE / BALANCE_POWER).mul_(ratio**BALANCE_RATE)
            self.mean_label.div_(self.mean_label.sum()).clamp_(min=MIN_DIVISOR)
        else:
            self.mean_label.lerp_(mean, 1 - LABEL_MOMENTUM)

    def momentum(self, step: int) -> float:
        """Momentum of the moving average at the 0-based ``step``.

        It is smaller in the first steps: the initial weights should not dominate the average.
        """
        return min(self.settings.momentum, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: Network, momentum: Tensor) -> None:
        """Update the moving average with the weights of ``model``.

        Args:
            model: The trained network.
            momentum: A scalar on the device of the weights; see `momentum`.
        """
        weights = model.state_dict()
        pairs = [(own, weights[name]) for name, own in self.model.state_dict().items()]
        means = [(own, new) for own, new in pairs if own.is_floating_point()]
        counters = [(own, new) for own, new in pairs if not own.is_floating_point()]  # of batch norm
        # own + (1 - momentum) * (new - own), by three operations on all tensors instead of one on each
        own = [pair[0] for pair in means]
        change = torch._foreach_sub([pair[1] for pair in means], own)
        torch._foreach_mul_(change, 1 - momentum)
        torch._foreach_add_(own, change)
        if counters:
            torch._foreach_copy_([pair[0] for pair in counters], [pair[1] for pair in counters])
