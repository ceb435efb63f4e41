"""A teacher: the running mean of the network's weights, which labels clips while training goes on.

Mean Teacher (Tarvainen and Valpola 2017), with labels sharpened and balanced as in MixMatch and ReMixMatch
(Berthelot et al. 2019, 2020).

Notation for tensor shapes: N clips of all ranks, n of this one, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psptool.common.distributed import SINGLE, ProcessGroup
from psptool.data.batches.streams import Batch, any_stream
from psptool.model.network import Network
from psptool.model.precision import computing_in
from psptool.schemas.training import TeacherSettings

OLD_LABELS = 0.95
"""Share of the past in the running mean of the labels, which lasts some twenty steps."""
RAREST = 1e-6
"""A class is not taken to be rarer than that, however seldom it was named."""


class Teacher(nn.Module):
    """One training's teacher; its state goes with the checkpoint.

    Args:
        model: The network as it is at the first step; left as it is.
        settings: Of the recipe.
        steps: Of the whole training.
        precision: Of the forward pass.
    """

    mean_label: Tensor

    def __init__(
        self, model: Network, settings: TeacherSettings, steps: int, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.model = model.without_contrast()
        self.requires_grad_(False).eval()
        self.settings, self.steps, self.precision = settings, steps, precision
        like = next(model.parameters())
        self.register_buffer("mean_label", like.new_full((model.classes,), 1 / model.classes))

    def weight(self, step: int) -> float:
        """Of its labels in the loss of step ``step``, counted from 0: none at first, then a straight rise."""
        done = step / self.steps - self.settings.start
        if done < 0:
            return 0.0
        return self.settings.weight * (min(1.0, done / self.settings.ramp) if self.settings.ramp else 1.0)

    @torch.no_grad()
    def predict(self, batch: Batch, ranks: ProcessGroup = SINGLE, clips: int = 0) -> Tensor:
        """Its labels of clips, (n, K); each row sums to 1.

        Args:
            batch: This rank's clips, as evaluation sees them.
            ranks: Among which the clips are dealt.
            clips: N; needed where there are several ranks.
        """
        with computing_in(self.precision, any_stream(batch).x.device):
            logits: Tensor = self.model(batch).fused
        probabilities = logits.to(self.mean_label.dtype).softmax(1)
        total = ranks.sum(probabilities.sum(0))
        mean = total / (clips if ranks.size > 1 else len(probabilities))
        self.mean_label.lerp_(mean, 1 - OLD_LABELS)
        if self.settings.balance:
            probabilities = probabilities / self.mean_label.clamp(min=RAREST)
        # In logarithms, as powers of small numbers vanish.
        return torch.softmax(probabilities.log() / self.settings.temperature, dim=1)

    @torch.no_grad()
    def update(self, model: Network, step: int) -> None:
        """Take in the network's weights after step ``step``, counted from 0; the first steps count for more."""
        momentum = min(self.settings.momentum, (1 + step) / (10 + step))
        theirs = model.state_dict()
        for name, own in self.model.state_dict().items():
            if own.is_floating_point():
                own.lerp_(theirs[name], 1 - momentum)
            else:
                own.copy_(theirs[name])
