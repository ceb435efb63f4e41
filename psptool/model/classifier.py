"""The whole network: encoder, classifier, and the branch that only the contrastive loss looks at.

Notation for tensor shapes: N clips, P persons of all clips, C channels, T frames, V joints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from psptool.data.batches.streams import Streams
from psptool.data.skeletons.topology import Topology
from psptool.model.encoder import ConvBN, Encoder, channels_last, input_projection
from psptool.model.pose import PoseBranch
from psptool.model.precision import full_precision
from psptool.model.pyramid import Pyramid
from psptool.schemas.training import Level, ModelSettings

ENCODING, POLYMERIZING = "psptool: encoder", "psptool: pyramid"
"""What `psptool train --profile` calls these parts of a step."""


class PSPNet(nn.Module):
    """PSP Learning's network (arXiv 2302.02327).

    Args:
        settings: Sizes and switches.
        topology: The joints and their groups.
        classes: Number of classes.
        contrast: Build the branch of the contrastive loss (pyramid and projection); prediction never needs it.
    """

    def __init__(
        self, settings: ModelSettings, topology: Topology, classes: int, contrast: bool = True
    ) -> None:
        super().__init__()
        width = settings.channels[-1]
        self.joint_encoder = Encoder(settings, topology.size)
        self.motion_encoder = None if settings.share_encoder else Encoder(settings, topology.size)
        self.motion_input_projection: ConvBN | None = None
        if settings.share_encoder and settings.separate_input_projection:
            self.motion_input_projection = input_projection(settings, topology.size)
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

    @record_function(ENCODING)
    def features(self, streams: Streams) -> tuple[Tensor, Tensor]:
        """Encoder features (P, C, T', V) of the joint and of the motion stream."""
        joint, motion = streams.joint.x, streams.motion.x
        if self.motion_encoder is not None:
            return self.joint_encoder(joint), self.motion_encoder(motion)
        # One pass over both, so that batch norm sees the two streams together, as in the released code.
        if self.motion_input_projection is None:
            both = self.joint_encoder(torch.cat((joint, motion)))
        else:
            mapped = (
                self.joint_encoder.input_projection(channels_last(joint)),
                self.motion_input_projection(channels_last(motion)),
            )
            both = self.joint_encoder.forward_blocks(torch.cat(mapped))
        persons = joint.shape[0]  # len() would make it a constant of an exported model
        return both[:persons], both[persons:]

    def logits(self, features: Tensor, average: Tensor) -> Tensor:
        """One stream's logits (N, classes): the linear layer on the mean over persons, frames and joints.

        In full precision, also under autocast.
        """
        with full_precision(features.device):
            means = features.mean((2, 3), dtype=average.dtype)  # (P, C)
            return self.classifier(self.dropout(average @ means))  # type: ignore[no-any-return]

    def pose_logits(self, streams: Streams) -> Tensor | None:
        """The pose branch's logits (N, classes) of the joint stream's positions, where there is such a branch."""
        if self.pose_branch is None or self.pose_classifier is None:
            return None
        poses, average = self.pose_branch(streams.joint.x), streams.joint.average
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

    def forward(self, streams: Streams) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) of the joint and of the motion stream; their sum is the prediction.

        The pose branch's are part of the joint stream's.
        """
        joint, motion = self.features(streams)
        of_joint, of_pose = self.logits(joint, streams.joint.average), self.pose_logits(streams)
        of_joint = of_joint if of_pose is None else of_joint + of_pose
        return of_joint, self.logits(motion, streams.motion.average)


def _initialize(module: nn.Module) -> None:
    """Initial weights as released; a convolution's bias keeps torch's default, uniform within 1 / sqrt(fan in)."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)
