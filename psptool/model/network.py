"""Interface between a network and training and evaluation.

To add a network, add a file with a subclass of `Network`, and an entry in `psptool.model.build`.

Notation for tensor shapes: N clips, n clips that have embeddings, P persons of all clips, K classes, C channels,
T' frames after the encoder's strides, V joints.
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
    """Output of a network for a batch of N clips.

    Attributes:
        logits: (N, K) by stream.
        auxiliary: (N, K) by stream, logits of a second branch on the same stream, if there is one. The loss has a
            separate cross-entropy for them. Prediction adds them to the logits of the stream.
        embeddings: (n, C) by stream and level, for the contrastive loss; empty unless requested.
    """

    logits: Mapping[str, Tensor]
    auxiliary: Mapping[str, Tensor] = field(default_factory=dict)
    embeddings: Mapping[str, Mapping[Level, Tensor]] = field(default_factory=dict)

    @property
    def by_stream(self) -> dict[str, Tensor]:
        """Logits of each stream plus those of its auxiliary branch, (N, K) each."""
        return {
            name: logits + self.auxiliary[name] if name in self.auxiliary else logits
            for name, logits in self.logits.items()
        }

    @property
    def fused(self) -> Tensor:
        """Logits of the prediction, (N, K): the sum over streams and auxiliary branches."""
        return add_up(self.by_stream.values())


def add_up(terms: Iterable[Tensor]) -> Tensor:
    """Sum of one or more tensors of the same shape, added from left to right."""
    return reduce(add, terms)


class Network(nn.Module, ABC):
    """A network that psptool can train and evaluate.

    Attributes:
        classes: K, number of classes.
        has_embeddings: Whether `forward` returns embeddings for the contrastive loss, which method psp needs.
        contrast_branch: Prefixes of the state-dict keys that only the contrastive loss needs.
        classification_heads: Number of classification heads: one for the sum of all streams, and the auxiliary ones.
            The loss has a cross-entropy for each of them, and the prediction is their sum.
    """

    classes: int
    classification_heads: int = 1
    has_embeddings: ClassVar[bool] = False
    contrast_branch: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward(self, batch: Batch, embed: Collection[str] = (), pool_from: int = 0) -> Output:
        """Logits of every stream, and embeddings if requested.

        Args:
            batch: The streams that the network was built for.
            embed: Names of the streams to compute embeddings of.
            pool_from: Index of the first clip that has embeddings.
        """

    @abstractmethod
    def features(self, batch: Batch) -> Mapping[str, Tensor]:
        """Encoder features by stream, (P, C, T', V) each."""

    @abstractmethod
    def without_contrast(self) -> Self:
        """A copy without the branch of the contrastive loss."""
