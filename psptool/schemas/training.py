"""The training configuration: every value of a recipe is a field here, and nothing else decides a training.

Defaults are the released recipe's (Xu and Shu, arXiv 2302.02327, and its code), so the preset ``paper`` only names
them; the other presets are differences from them, in `psptool.schemas.recipes`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from psptool.schemas.base import Artefact, Strict

Level = Literal["body", "part", "joint"]
StreamName = Literal["joint", "motion", "bone"]
DEFAULT_STREAMS: tuple[StreamName, ...] = ("joint", "motion")
Method = Literal["psp", "supervised"]
Preset = Literal["paper", "paper-short", "small", "lean", "best", "demo"]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, le=1e6)]
Channels = Annotated[int, Field(ge=1, le=4096)]
Stride = Annotated[int, Field(ge=1, le=1000)]
MAX_BLOCKS = 64
MAX_WEIGHTS = 10**9
"""Largest number of weights in the encoder's convolutions. That of preset ``paper`` has a few million."""


class _Settings(Strict):
    """Settings with finite values. Maxima are far beyond use: they keep a typing error from taking all memory."""

    model_config = ConfigDict(allow_inf_nan=False)


class ModelSettings(_Settings):
    """The network. `channels`, `qk_channels` and `strides` have one entry per block of the encoder."""

    network: Literal["psp"] = Field("psp", description="Name in `psptool.model.build.NETWORKS`")
    channels: tuple[Channels, ...] = Field(
        (64, 64, 128, 128, 256, 256, 256, 256), max_length=MAX_BLOCKS, description="Channels a block puts out"
    )
    qk_channels: tuple[Channels, ...] = Field(
        (16, 16, 32, 32, 64, 64, 64, 64), max_length=MAX_BLOCKS, description="Width of a head's q and k"
    )
    strides: tuple[Stride, ...] = Field(
        (1, 1, 2, 1, 2, 1, 1, 1), max_length=MAX_BLOCKS, description="Stride over time"
    )
    heads: int = Field(4, ge=1, le=256, description="S, heads of every attention")
    temporal_kernel: int = Field(
        7, ge=1, le=999, description="Frames that a block's temporal convolution spans; odd"
    )
    share_encoder: bool = Field(True, description="One encoder for all streams (released code), or one each")
    separate_input_projection: bool = Field(
        False,
        description="A shared encoder has one input projection per stream, whose batch norms bring all to one scale",
    )
    input_projection: Literal["per_joint", "whole_body"] = Field(
        "per_joint",
        description="The first layer sees one joint at a time, all by the same weights (released code), or all "
        "joints of a frame at once",
    )
    levels: tuple[Level, ...] = Field(("body", "part", "joint"), description="Levels of the pyramid")
    polymerize: Literal["raw", "chained", "off"] = Field(
        "chained",
        description="What the part level hands on to the joints: its own map, the polymerized one, nothing",
    )
    absent_persons: Literal["skip", "zeros"] = Field(
        "skip",
        description="Leave absent persons out, or compute on two slots a clip as the released code does",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="On the classifier's input")
    pose_width: int = Field(
        0,
        ge=0,
        le=4096,
        description="Channels of the pose branch of the first stream, convolutions over time that see all joints and "
        "their differences at once; 0: none",
    )
    pose_dropout: float = Field(0.3, ge=0, lt=1, description="Within the pose branch")

    @property
    def draws(self) -> bool:
        """Whether a forward pass at training draws at random."""
        return self.dropout > 0 or (self.pose_width > 0 and self.pose_dropout > 0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not len(self.channels) == len(self.qk_channels) == len(self.strides) > 0:
            raise ValueError("channels, qk_channels and strides have one entry a block each")
        if self.temporal_kernel % 2 == 0:
            raise ValueError("temporal_kernel is odd, so that a frame lies in the middle of its window")
        if self.channels[-1] % self.heads:
            raise ValueError("the last channels are a multiple of heads")
        weights = sum(size * size * (self.heads + self.temporal_kernel) for size in self.channels)
        if weights > MAX_WEIGHTS:
            raise ValueError(
                f"the convolutions have about {weights:,} weights, more than {MAX_WEIGHTS:,}: lower channels, heads or "
                "temporal_kernel"
            )
        if len(set(self.levels)) != len(self.levels):
            raise ValueError("levels names a level twice")
        return self


class StreamSettings(_Settings):
    """Which streams the network sees, and how they are made; `psptool.data.batches.streams` defines each."""

    names: tuple[StreamName, ...] = Field(
        DEFAULT_STREAMS,
        min_length=1,
        description="Streams, whose logits are summed: joint (positions), motion (differences over time), bone (joint "
        "minus its parent joint). The pose branch reads the first",
    )
    motion: Literal["recorded", "drawn"] = Field(
        "recorded",
        description="Differences of frames as recorded, taken before the draw (released code), or between the "
        "drawn frames on both sides",
    )
    origin: Literal["clip", "frame"] = Field(
        "clip",
        description="Joints relative to the clip's beginning (released code), or to the center joint of their own "
        "frame, which alone keeps its way through the clip",
    )

    @model_validator(mode="after")
    def _unique(self) -> Self:
        if len(set(self.names)) != len(self.names):
            raise ValueError("streams.names names a stream twice")
        return self


class SamplingSettings(_Settings):
    """Which frames of a clip the network sees."""

    frames: int = Field(50, ge=1, le=100_000, description="T, frames a clip")
    draw: Literal["released", "crop"] = Field(
        "released",
        description="Frames at training: any T of them in order, or T jittered ones spread over a random crop",
    )
    crop: Share = Field(0.6, description="Shortest crop as a share of the clip, for `crop`")
    speed: Share = Field(
        0.0, description="Largest change of pace within a crop, as a share, for `crop`; 0 is an even pace"
    )
    shared: bool = Field(False, description="All streams see the same frames, or each samples its own")


class AugmentSettings(_Settings):
    """Changes to a clip at training; zero switches one off. Each stream is augmented independently unless `shared`."""

    yaw: NonNegative = Field(0.0, description="Largest turn about the vertical, degrees")
    pitch_roll: NonNegative = Field(0.0, description="Largest turn about the two horizontal axes, degrees")
    shear: NonNegative = Field(0.0, description="Largest shear factor")
    scale: float = Field(0.0, ge=0, lt=1, description="Largest change of size, as a share")
    jitter: NonNegative = Field(
        0.0, description="Standard deviation of noise on positions (the joint stream), in units of the spine"
    )
    mask_joints: float = Field(0.0, ge=0, lt=1, description="Share of joints set to zero for the whole clip")
    mask_frames: float = Field(
        0.0, ge=0, lt=1, description="Share of frames set to zero, for all persons of a clip"
    )
    mirror: Share = Field(0.0, description="Chance that left and right are swapped")
    shared: bool = Field(False, description="All streams of a clip get the same augmentation")


class LossSettings(_Settings):
    """L = CE(labelled) + contrast_weight * (L_body + L_part + L_joint)."""

    contrast_weight: NonNegative = Field(0.2, description="0 leaves PPA, the projection and the contrast out")
    contrast_levels: tuple[Level, ...] | None = Field(
        None, description="Levels contrasted; null means all the model has"
    )
    contrast_pairs: tuple[tuple[StreamName, StreamName], ...] = Field(
        (("joint", "motion"),), description="Pairs of streams contrasted; the terms of all pairs are added up"
    )
    temperature: float = Field(0.07, gt=0, le=1e6)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    contrast_labelled: bool = Field(True, description="Labelled clips stand in the pool too")


class TeacherSettings(_Settings):
    """A teacher, whose weights are the running mean of the network's, labels the pool's clips as training goes on.

    Mean Teacher (Tarvainen and Valpola 2017), with labels sharpened as in MixMatch (Berthelot et al. 2019) and balanced
    as in ReMixMatch (Berthelot et al. 2020). It sees a clip as evaluation does, the network an augmented draw of it.
    """

    weight: NonNegative = Field(0.0, description="Of the cross-entropy with its labels; 0: no teacher")
    momentum: float = Field(0.99, ge=0, lt=1, description="Share of the old weights in the mean at each step")
    temperature: float = Field(
        0.5, gt=0, le=1e6, description="Sharpens its labels; 1 leaves them as they are"
    )
    balance: bool = Field(
        True, description="Divide by the mean label, for classes that are about equally frequent"
    )
    start: Share = Field(0.2, description="Share of the steps before the first label")
    ramp: Share = Field(0.2, description="Share of the steps in which the weight then rises")


class OptimSettings(_Settings):
    """The optimizer and its schedule."""

    steps: int = Field(60_000, ge=1, le=10**9, description="Steps of the whole training")
    labelled_batch: int = Field(9, ge=1, le=10**6, description="Labelled clips per step")
    pool_batch: int = Field(
        90,
        ge=0,
        le=10**6,
        description="Clips of the pool a step, seen without labels by contrast and teacher; unused by `supervised`",
    )
    schedule: Literal["released", "cosine"] = Field(
        "released",
        description="The released step function over 120 equal epochs, or a warm-up and a cosine to zero",
    )
    kind: Literal["sgd", "adamw"] = Field("sgd", description="SGD (released recipe), or AdamW")
    lr: float = Field(0.01, gt=0, le=1e6, description="Largest learning rate")
    warmup: Share = Field(0.1, description="Share of the steps that warm up, for `cosine`")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD")
    nesterov: bool = Field(True, description="Of SGD")
    weight_decay: NonNegative = 4e-4
    clip_norm: NonNegative = Field(0.0, description="Largest norm of the gradient; 0 leaves it as it is")


class TrainingConfig(Artefact):
    """One recipe."""

    method: Method = Field("psp", description="psp, or supervised: labels only with the same encoder")
    preset: Preset = Field("paper", description="The preset that the values started from")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Of weights and draws; null means the split's")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="Of the forward pass; auto means bfloat16 where the hardware computes in it"
    )
    storage: Literal["float32", "float16"] = Field(
        "float32",
        description="Of the positions on the device; float16 takes half the memory and rounds them to 0.1 %",
    )
    validate_every: int = Field(
        0, ge=0, le=10**9, description="Steps between looks at the validation clips; 0: about 20 looks"
    )
    checkpoint_every: int = Field(
        0, ge=0, le=10**9, description="Steps between checkpoints to resume from; 0: one a minute"
    )
    model: ModelSettings = ModelSettings()
    sampling: SamplingSettings = SamplingSettings()
    streams: StreamSettings = StreamSettings()
    augment: AugmentSettings = AugmentSettings()
    loss: LossSettings = LossSettings()
    teacher: TeacherSettings = TeacherSettings()
    optim: OptimSettings = OptimSettings()

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        missing = [level for level in self.loss.contrast_levels or () if level not in self.model.levels]
        if missing:
            raise ValueError(
                f"loss.contrast_levels names {', '.join(missing)}, which model.levels leaves out"
            )
        return self

    @model_validator(mode="after")
    def _pairs_exist(self) -> Self:
        if not self.contrast_levels:
            return self
        for pair in self.loss.contrast_pairs:
            missing = [name for name in pair if name not in self.streams.names]
            if missing:
                raise ValueError(
                    f"loss.contrast_pairs names {', '.join(missing)}, which streams.names leaves out"
                )
            if pair[0] == pair[1]:
                raise ValueError(f"loss.contrast_pairs pairs {pair[0]} with itself")
        return self

    @property
    def contrast_levels(self) -> tuple[Level, ...]:
        """Levels that the loss contrasts; empty for `supervised`, and with a weight of 0 or no pair of streams."""
        if self.method == "supervised" or self.loss.contrast_weight == 0 or not self.loss.contrast_pairs:
            return ()
        return self.model.levels if self.loss.contrast_levels is None else self.loss.contrast_levels

    @property
    def contrast_streams(self) -> tuple[StreamName, ...]:
        """Streams that the loss contrasts, each once; empty where `contrast_levels` is."""
        if not self.contrast_levels:
            return ()
        return tuple(dict.fromkeys(name for pair in self.loss.contrast_pairs for name in pair))

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher labels the pool's clips; never for `supervised`."""
        return self.method != "supervised" and self.teacher.weight > 0

    @property
    def needs_pool(self) -> bool:
        """Whether clips are drawn without their labels, for the contrast or the teacher."""
        return bool(self.contrast_levels) or self.has_teacher
