"""PSP Learning's network: encoder, classifier, and the branch of the contrastive loss.

Notation for tensor shapes: N clips, P persons of all clips, K classes, C channels, T frames (T' after the encoder's
strides), V joints.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from typing_extensions import Self

from psptool.data.batches.streams import Batch, Stream
from psptool.model.encoder import (
    ConvBN,
    Encoder,
    as_features,
    as_rows,
    concatenate,
    input_projection,
    project,
)
from psptool.model.network import Network, Output
from psptool.model.pose import PoseBranch
from psptool.model.precision import full_precision
from psptool.model.pyramid import Pyramid
from psptool.schemas.training import DEFAULT_STREAMS, Level, ModelSettings
from psptool.skeletons.topology import Topology

ENCODING, POLYMERIZING = "psptool: encoder", "psptool: pyramid"
"""Labels of these parts of a step in the profiler, for `psptool train --profile`."""


class PSPNet(Network):
    """PSP Learning's network (arXiv 2302.02327).

    Args:
        settings: Layer sizes and options.
        topology: Joints and joint groups of the skeleton.
        classes: Number of classes.
        contrast: Build the branch of the contrastive loss (pyramid and projection). Prediction does not need it.
        streams: Names of the streams. The pose branch uses the first.

    Attributes:
        encoders: One encoder per stream, or only that of the first stream if all streams share it.
        input_projections: Input projections of the other streams, if the encoder is shared and
            `ModelSettings.separate_input_projection` is on; else empty.
    """

    has_embeddings: ClassVar[bool] = True
    contrast_branch: ClassVar[tuple[str, ...]] = ("pyramid.", "projection.")

    def __init__(
        self,
        settings: ModelSettings,
        topology: Topology,
        classes: int,
        contrast: bool = True,
        streams: Sequence[str] = DEFAULT_STREAMS,
    ) -> None:
        super().__init__()
        width = settings.channels[-1]
        self.classes = classes
        self.first, *others = streams
        own_encoder = streams if not settings.share_encoder else streams[:1]
        own_projection = others if settings.share_encoder and settings.separate_input_projection else ()
        self.encoders = nn.ModuleDict({name: Encoder(settings, topology.size) for name in own_encoder})
        self.input_projections = nn.ModuleDict(
            {name: input_projection(settings, topology.size) for name in own_projection}
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(width, classes)
        # Initialized before the branches are built: with the same seed, the encoder does not depend on the branches.
        self.apply(_initialize)
        self.pose_branch: PoseBranch | None = None
        self.pose_classifier: nn.Linear | None = None
        if settings.pose_width:
            self.pose_branch = PoseBranch(topology.size, settings.pose_width, settings.pose_dropout)
            self.pose_classifier = nn.Linear(2 * settings.pose_width, classes)
            self.pose_branch.apply(_initialize)
            self.pose_classifier.apply(_initialize)
            self.classification_heads = 2
        self.pyramid: Pyramid | None = None
        self.projection: nn.Sequential | None = None
        if contrast:
            self.pyramid = Pyramid(settings, topology)
            self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            self.pyramid.apply(_initialize)
            self.projection.apply(_initialize)

    def encoder(self, stream: str) -> Encoder:
        """The encoder of ``stream``."""
        shared = stream not in self.encoders
        return cast(Encoder, self.encoders[self.first if shared else stream])

    def without_contrast(self) -> Self:
        """A copy without pyramid and projection."""
        other = copy.deepcopy(self)
        other.pyramid = other.projection = None
        return other

    @record_function(ENCODING)
    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Encoder features by stream, (P, C, T', V) each."""
        if len(self.encoders) > 1:
            return {name: self.encoder(name)(stream.x) for name, stream in batch.items()}
        # One forward pass, so that batch norm statistics are over all streams, as in the original implementation.
        # Each stream is (P, 3, T, V) with its own P: they are concatenated along the persons.
        encoder = self.encoder(self.first)
        if not self.input_projections:
            together = encoder(torch.cat([stream.x for stream in batch.values()]))
        else:
            projected = [self._project(name, stream.x) for name, stream in batch.items()]
            together = encoder.forward_blocks(concatenate(projected))
        # shape[0], not len(), which would be a constant of an exported model
        sizes = [stream.x.shape[0] for stream in batch.values()]
        parts = torch.split(as_rows(together), sizes)
        return {name: as_features(part) for name, part in zip(batch, parts, strict=True)}

    def _project(self, stream: str, x: Tensor) -> Tensor:
        """Input of the blocks for ``stream``, (P, 3, T, V) -> (P, C, V, T)."""
        shared = stream not in self.input_projections
        projection = self.encoder(stream).input_projection if shared else self.input_projections[stream]
        return project(cast(ConvBN, projection), x)

    def logits(self, features: Tensor, average: Tensor) -> Tensor:
        """Logits of one stream, (N, K): linear layer on the mean over persons, frames and joints.

        Computed in full precision, also under autocast.

        Args:
            features: (P, C, T', V).
            average: (N, P), as in `Stream.average`.
        """
        with full_precision(features.device):
            means = as_rows(features).mean((1, 2), dtype=average.dtype)  # (P, V, T', C) -> (P, C)
            # (N, P) @ (P, C) -> (N, C): the mean over the persons of each clip
            return self.classifier(self.dropout(average @ means))  # type: ignore[no-any-return]

    def pose_logits(self, stream: Stream) -> Tensor | None:
        """Logits of the pose branch for ``stream``, (N, K); None if the network has no pose branch."""
        if self.pose_branch is None or self.pose_classifier is None:
            return None
        poses, average = self.pose_branch(stream.x), stream.average  # (P, 2 * pose_width), (N, P)
        with full_precision(average.device):
            return self.pose_classifier(self.dropout(average @ poses.to(average.dtype)))  # type: ignore[no-any-return]

    @record_function(POLYMERIZING)
    def embeddings(self, features: Tensor, average: Tensor) -> dict[Level, Tensor]:
        """Projected embeddings by level for the contrastive loss, (N, C) each; requires ``contrast=True``.

        The mean over persons and the projection are in full precision, also under autocast: the temperature of the
        contrastive loss (0.07 in the original implementation) multiplies rounding errors by 14.

        Args:
            features: (P, C, T', V).
            average: (N, P), as in `Stream.average`.
        """
        assert self.pyramid is not None
        assert self.projection is not None
        vectors: dict[Level, Tensor] = self.pyramid(features)  # (P, C) per level
        with full_precision(features.device):
            together = torch.stack(list(vectors.values())).to(average.dtype)  # (levels, P, C)
            # (N, P) @ (levels, P, C) -> (levels, N, C)
            projected = self.projection(average @ together)
        return dict(zip(vectors, projected.unbind(), strict=True))

    def forward(self, batch: Batch, embed: Collection[str] = (), pool_from: int = 0) -> Output:
        """See `Network.forward`. The auxiliary logits are those of the pose branch, for the first stream."""
        features = self.features(batch)
        logits = {name: self.logits(x, batch[name].average) for name, x in features.items()}
        pose_logits = self.pose_logits(batch[self.first])
        auxiliary = {} if pose_logits is None else {self.first: pose_logits}
        embeddings: dict[str, Mapping[Level, Tensor]] = {}
        for name in embed:
            # Clips before pool_from are cut off: they would enter the batch norm statistics of the pyramid.
            stream = batch[name]
            person = stream.first_person(pool_from)
            of_pool = as_features(as_rows(features[name])[person:])
            embeddings[name] = self.embeddings(of_pool, stream.average[pool_from:, person:])
        return Output(logits, auxiliary, embeddings)


def _initialize(module: nn.Module) -> None:
    """Initialize as the original implementation does.

    The bias of a convolution keeps PyTorch's default: uniform within 1 / sqrt(fan in).
    """
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)
