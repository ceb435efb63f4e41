"""PSP Learning's network: encoder, classifier, and the branch of the contrastive loss.

Notation for tensor shapes: N clips, P persons of all clips, C channels, T frames, V joints.
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
from psptool.data.skeletons.topology import Topology
from psptool.model.encoder import ConvBN, Encoder, channels_last, input_projection
from psptool.model.network import Network, Output
from psptool.model.pose import PoseBranch
from psptool.model.precision import full_precision
from psptool.model.pyramid import Pyramid
from psptool.schemas.training import DEFAULT_STREAMS, Level, ModelSettings

ENCODING, POLYMERIZING = "psptool: encoder", "psptool: pyramid"
"""What `psptool train --profile` calls these parts of a step."""


class PSPNet(Network):
    """PSP Learning's network (arXiv 2302.02327).

    `encoders` has one encoder per stream, or that of the first stream alone where all share it. A shared encoder
    has in `input_projections` those of the other streams, where each has its own.

    Args:
        settings: Sizes and switches.
        topology: The joints and their groups.
        classes: Number of classes.
        contrast: Build the branch of the contrastive loss (pyramid and projection); prediction never needs it.
        streams: Names of the streams; the pose branch reads the first.
    """

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
        # Before the branches are made, so that one seed gives the same encoder with and without each.
        self.apply(_initialize)
        self.pose_branch: PoseBranch | None = None
        self.pose_classifier: nn.Linear | None = None
        if settings.pose_width:
            self.pose_branch = PoseBranch(topology.size, settings.pose_width, settings.pose_dropout)
            self.pose_classifier = nn.Linear(2 * settings.pose_width, classes)
            self.pose_branch.apply(_initialize)
            self.pose_classifier.apply(_initialize)
        self.pyramid: Pyramid | None = None
        self.projection: nn.Sequential | None = None
        if contrast:
            self.pyramid = Pyramid(settings, topology)
            self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            self.pyramid.apply(_initialize)
            self.projection.apply(_initialize)

    def encoder(self, stream: str) -> Encoder:
        """The encoder of a stream."""
        shared = stream not in self.encoders
        return cast(Encoder, self.encoders[self.first if shared else stream])

    def without_contrast(self) -> Self:
        """A copy without pyramid and projection."""
        other = copy.deepcopy(self)
        other.pyramid = other.projection = None
        return other

    @record_function(ENCODING)
    def features(self, batch: Batch) -> dict[str, Tensor]:
        """By stream encoder features (P, C, T', V)."""
        if len(self.encoders) > 1:
            return {name: self.encoder(name)(stream.x) for name, stream in batch.items()}
        # One pass over all, so that batch norm sees the streams together, as in the released code.
        encoder = self.encoder(self.first)
        if not self.input_projections:
            together = encoder(torch.cat([stream.x for stream in batch.values()]))
        else:
            mapped = [self._project(name, stream.x) for name, stream in batch.items()]
            together = encoder.forward_blocks(torch.cat(mapped))
        features: dict[str, Tensor] = {}
        for name, stream in batch.items():
            persons = stream.x.shape[0]  # len() would make it a constant of an exported model
            features[name], together = together[:persons], together[persons:]
        return features

    def _project(self, stream: str, x: Tensor) -> Tensor:
        """(P, 3, T, V) through the stream's input projection, to (P, V, T, C)."""
        shared = stream not in self.input_projections
        projection = self.encoder(stream).input_projection if shared else self.input_projections[stream]
        return cast(ConvBN, projection)(channels_last(x))  # type: ignore[no-any-return]

    def logits(self, features: Tensor, average: Tensor) -> Tensor:
        """One stream's logits (N, classes): the linear layer on the mean over persons, frames and joints.

        In full precision, also under autocast.
        """
        with full_precision(features.device):
            means = features.mean((2, 3), dtype=average.dtype)  # (P, C)
            return self.classifier(self.dropout(average @ means))  # type: ignore[no-any-return]

    def pose_logits(self, stream: Stream) -> Tensor | None:
        """The pose branch's logits (N, classes) of the stream, where there is such a branch."""
        if self.pose_branch is None or self.pose_classifier is None:
            return None
        poses, average = self.pose_branch(stream.x), stream.average
        with full_precision(average.device):
            return self.pose_classifier(self.dropout(average @ poses.to(average.dtype)))  # type: ignore[no-any-return]

    @record_function(POLYMERIZING)
    def embeddings(self, features: Tensor, average: Tensor) -> dict[Level, Tensor]:
        """By level the projected vectors (N, C) that the contrast compares; needs ``contrast=True``.

        Mean over persons and projection are in full precision, also under autocast: the contrast's temperature
        (0.07 as released) multiplies their rounding by 14.
        """
        assert self.pyramid is not None
        assert self.projection is not None
        vectors: dict[Level, Tensor] = self.pyramid(features)  # (P, C) each
        with full_precision(features.device):
            return {level: self.projection(average @ x.to(average.dtype)) for level, x in vectors.items()}

    def forward(self, batch: Batch, embed: Collection[str] = (), pool_from: int = 0) -> Output:
        """See `Network.forward`; the auxiliary logits are the pose branch's, of the first stream."""
        features = self.features(batch)
        logits = {name: self.logits(x, batch[name].average) for name, x in features.items()}
        of_pose = self.pose_logits(batch[self.first])
        auxiliary = {} if of_pose is None else {self.first: of_pose}
        embeddings: dict[str, Mapping[Level, Tensor]] = {}
        for name in embed:
            # The pyramid must not see the clips before: they would enter the statistics of its batch norms.
            stream = batch[name]
            person = stream.first_person(pool_from)
            embeddings[name] = self.embeddings(features[name][person:], stream.average[pool_from:, person:])
        return Output(logits, auxiliary, embeddings)


def _initialize(module: nn.Module) -> None:
    """Initial weights as released; a convolution's bias keeps torch's default, uniform within 1 / sqrt(fan in)."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)
