"""What training and evaluation need of a network. Another network is one file and one entry in `psptool.model.build`.

Notation for tensor shapes: N clips, P persons of all clips, K classes, C channels, T frames, V joints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import Self

from psptool.data.batches.streams import Batch
from psptool.schemas.training import Level


@dataclass(frozen=True)
class Output:
    """A network's answer for a batch of N clips.

    Attributes:
        logits: By stream (N, K).
        auxiliary: By stream (N, K) of a second branch that reads this stream, where there is one. It has its own
            cross-entropy in the loss, and is added to the stream's logits for prediction.
        embeddings: By stream and level (n, C), for the contrastive loss; empty unless asked for.
    """

    logits: Mapping[str, Tensor]
    auxiliary: Mapping[str, Tensor] = field(default_factory=dict)
    embeddings: Mapping[str, Mapping[Level, Tensor]] = field(default_factory=dict)

    @property
    def by_stream(self) -> dict[str, Tensor]:
        """Each stream's logits (N, K) with those of its auxiliary branch."""
        return {
            name: logits + self.auxiliary[name] if name in self.auxiliary else logits
            for name, logits in self.logits.items()
        }

    @property
    def fused(self) -> Tensor:
        """The prediction's logits (N, K): the sum over streams, with auxiliary branches."""
        return add_up(self.by_stream.values())


def add_up(terms: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor, from left to right."""
    return reduce(add, terms)


class Network(nn.Module, ABC):
    """A network that psptool can train and evaluate.

    Attributes:
        classes: K.
        contrast_branch: Prefixes of the state-dict keys that only the contrastive loss needs.
    """

    classes: int
    contrast_branch: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, batch: Batch, embed: Collection[str] = (), pool_from: int = 0) -> Output:
        """Logits of every stream, and embeddings where asked for.

        Args:
            batch: The streams that the network was built for.
            embed: Names of the streams whose embeddings are computed.
            pool_from: Number of the first clip that has embeddings.
        """

    @abstractmethod
    def features(self, batch: Batch) -> Mapping[str, Tensor]:
        """By stream the encoder's features (P, C, T', V)."""

    @abstractmethod
    def without_contrast(self) -> Self:
        """A copy without the branch of the contrastive loss."""
