"""The training configuration: each value that affects a training is a field here.

The defaults are those of the original implementation of PSP Learning (Xu and Shu, arXiv 2302.02327), which the preset
``paper`` uses. The presets are in `psptool.schemas.recipes`, as differences from the defaults.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import Self

from psptool.schemas.base import Artefact, Strict

Level = Literal["body", "part", "joint"]
StreamName = Literal["joint", "motion", "bone"]
DEFAULT_STREAMS: tuple[StreamName, ...] = ("joint", "motion")
Method = Literal["psp", "supervised"]
Preset = Literal["paper", "best", "fast", "demo"]
OldPreset = Literal["paper-short", "small", "lean"]
"""Presets of earlier versions, which the files of their runs name."""
Precision = Literal["auto", "float32", "bfloat16"]
"""Precisions to choose from; ``auto`` is resolved when a training starts."""
Balance = Literal["mean", "labelled", "off"]
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
    """The network. `channels`, `qk_channels` and `strides` have one entry per encoder block."""

    network: Literal["psp"] = Field(
        "psp", description="Architecture; a name in `psptool.model.build.NETWORKS`"
    )
    channels: tuple[Channels, ...] = Field(
        (64, 64, 128, 128, 256, 256, 256, 256),
        max_length=MAX_BLOCKS,
        description="Output channels of each block",
    )
    qk_channels: tuple[Channels, ...] = Field(
        (16, 16, 32, 32, 64, 64, 64, 64),
        max_length=MAX_BLOCKS,
        description="Attention head dimension (queries and keys) of each block",
    )
    strides: tuple[Stride, ...] = Field(
        (1, 1, 2, 1, 2, 1, 1, 1), max_length=MAX_BLOCKS, description="Temporal stride of each block"
    )
    heads: int = Field(4, ge=1, le=256, description="Attention heads of each block and pyramid level")
    temporal_kernel: int = Field(
        7, ge=1, le=999, description="Kernel size of the temporal convolutions, in frames; odd"
    )
    share_encoder: bool = Field(
        True,
        description="true: all streams share one encoder (original implementation); false: one encoder per stream",
    )
    separate_input_projection: bool = Field(
        False,
        description="Give each stream its own input embedding layer in a shared encoder, so that batch norm "
        "scales each stream by itself",
    )
    input_projection: Literal["per_joint", "whole_body"] = Field(
        "per_joint",
        description="Input embedding layer: `per_joint` embeds each joint with the same weights (original "
        "implementation), `whole_body` sees all joints of a frame",
    )
    levels: tuple[Level, ...] = Field(("body", "part", "joint"), description="Levels of the pyramid")
    polymerize: Literal["raw", "chained", "off"] = Field(
        "chained",
        description="Map that the part level adds to the joint level: `raw`, its own (original implementation); "
        "`chained`, its polymerized one (text of the paper); `off`, none",
    )
    absent_persons: Literal["skip", "zeros"] = Field(
        "skip",
        description="`skip` leaves absent persons out; `zeros` computes two persons per clip, absent ones as "
        "zeros (original implementation)",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate before the classifier")
    pose_width: int = Field(
        0,
        ge=0,
        le=4096,
        description="Channels of the pose branch, temporal convolutions over all joints of the first stream; 0: "
        "no pose branch",
    )
    pose_dropout: float = Field(0.3, ge=0, lt=1, description="Dropout rate in the pose branch")

    @property
    def uses_randomness(self) -> bool:
        """Whether the forward pass in training uses random numbers, for dropout."""
        return self.dropout > 0 or (self.pose_width > 0 and self.pose_dropout > 0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not len(self.channels) == len(self.qk_channels) == len(self.strides) > 0:
            raise ValueError(
                "channels, qk_channels and strides must have the same number of entries, one per block"
            )
        if self.temporal_kernel % 2 == 0:
            raise ValueError("temporal_kernel must be odd")
        if self.channels[-1] % self.heads:
            raise ValueError("the last value of channels must be a multiple of heads")
        weights = sum(size * size * (self.heads + self.temporal_kernel) for size in self.channels)
        if weights > MAX_WEIGHTS:
            raise ValueError(
                f"the convolutions have about {weights:,} weights, more than {MAX_WEIGHTS:,}: lower channels, heads or "
                "temporal_kernel"
            )
        if len(set(self.levels)) != len(self.levels):
            raise ValueError("levels must not contain a level twice")
        return self


class StreamSettings(_Settings):
    """Input streams of the network; `psptool.data.batches.streams` defines each of them."""

    names: tuple[StreamName, ...] = Field(
        DEFAULT_STREAMS,
        min_length=1,
        description="Streams; their logits are summed. joint: positions; motion: differences over time; bone: "
        "joint minus parent joint. The pose branch uses the first one",
    )
    motion: Literal["recorded", "drawn"] = Field(
        "recorded",
        description="Motion stream: `recorded`, difference to the next recorded frame (original implementation); "
        "`drawn`, next sampled frame minus previous sampled frame",
    )
    origin: Literal["clip", "frame"] = Field(
        "clip",
        description="Origin of the coordinates: `clip`, center joint of the first frame (original "
        "implementation); `frame`, center joint of the same frame. The center joint itself keeps its "
        "trajectory",
    )

    @model_validator(mode="after")
    def _unique(self) -> Self:
        if len(set(self.names)) != len(self.names):
            raise ValueError("streams.names must not contain a stream twice")
        return self


class SamplingSettings(_Settings):
    """Sampling of frames from a clip."""

    frames: int = Field(50, ge=1, le=100_000, description="Frames per clip, T")
    draw: Literal["released", "crop"] = Field(
        "released",
        description="In training: `released`, T random frames in order (original implementation); `crop`, one "
        "random frame from each of T equal segments of a random crop. In test: T evenly spaced frames",
    )
    crop: Share = Field(0.6, description="`crop`: minimum length, as a fraction of the clip")
    shared: bool = Field(
        False, description="true: all streams use the same frames; false: each stream samples its own"
    )


class AugmentSettings(_Settings):
    """Augmentation of training clips; 0 turns one off. Each stream is augmented independently unless `shared`."""

    yaw: NonNegative = Field(0.0, description="Maximum random rotation about the vertical axis, in degrees")
    pitch_roll: NonNegative = Field(
        0.0, description="Maximum random rotation about each horizontal axis, in degrees"
    )
    shear: NonNegative = Field(0.0, description="Maximum shear factor")
    scale: float = Field(0.0, ge=0, lt=1, description="Maximum change of size, as a fraction")
    jitter: NonNegative = Field(
        0.0,
        description="Standard deviation of Gaussian noise on the joint stream; 1 is the length of the spine",
    )
    mask_joints: float = Field(
        0.0, ge=0, lt=1, description="Probability that a joint is set to zero in all frames"
    )
    mirror: Share = Field(0.0, description="Probability that left and right are swapped")
    shared: bool = Field(False, description="Augment all streams of a clip equally")


class LossSettings(_Settings):
    """Loss: CE(labelled) + contrast_weight * (L_body + L_part + L_joint)."""

    contrast_weight: NonNegative = Field(
        0.2, description="Weight of the contrastive loss (CCL); 0: no CCL and no PPA"
    )
    contrast_levels: tuple[Level, ...] | None = Field(
        None, description="Levels of the contrastive loss; null: all of model.levels"
    )
    contrast_pairs: tuple[tuple[StreamName, StreamName], ...] = Field(
        (("joint", "motion"),),
        description="Pairs of streams in the contrastive loss; the losses of all pairs are summed",
    )
    temperature: float = Field(0.07, gt=0, le=1e6, description="Temperature of the contrastive loss")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of the cross-entropy")
    contrast_labelled: bool = Field(
        True, description="Include the labelled clips, without labels, in the pool"
    )

    @model_validator(mode="after")
    def _unique(self) -> Self:
        levels = self.contrast_levels or ()
        if len(set(levels)) != len(levels):
            raise ValueError("contrast_levels must not contain a level twice")
        if len(set(map(frozenset, self.contrast_pairs))) != len(self.contrast_pairs):
            raise ValueError("contrast_pairs must not contain a pair twice, in either order")
        return self


def _earlier_balance(value: object) -> object:
    """Earlier versions had true and false."""
    return {True: "mean", False: "off"}[value] if isinstance(value, bool) else value


class TeacherSettings(_Settings):
    """Mean teacher: its weights are the moving average of the network's; it predicts labels for the pool.

    Mean Teacher (Tarvainen and Valpola 2017), with labels sharpened as in MixMatch (Berthelot et al. 2019) and balanced
    as in ReMixMatch (Berthelot et al. 2020) or by Sinkhorn-Knopp iterations (Asano et al. 2020). Its input is sampled
    as in evaluation; the network's is augmented.
    """

    weight: NonNegative = Field(0.0, description="Weight of the teacher loss; 0: no teacher")
    momentum: float = Field(0.99, ge=0, lt=1, description="Decay of the moving average per step")
    temperature: float = Field(
        0.5, gt=0, le=1e6, description="Sharpening temperature of the predicted labels; 1: no sharpening"
    )
    balance: Annotated[Balance, BeforeValidator(_earlier_balance)] = Field(
        "mean",
        description="Correction of classes that are predicted too often: `mean`, divide labels by their mean, for "
        "classes of about equal frequency; `labelled`, move it towards the class frequencies of the labelled clips; "
        "`off`, none",
    )
    start: Share = Field(0.2, description="Fraction of the steps before the teacher starts")
    ramp: Share = Field(0.2, description="Fraction of the steps in which its weight then rises linearly")


class OptimSettings(_Settings):
    """The optimizer and its schedule."""

    steps: int = Field(60_000, ge=1, le=10**9, description="Optimizer steps")
    labelled_batch: int = Field(9, ge=1, le=10**6, description="Labelled clips per step")
    pool_batch: int = Field(
        90,
        ge=0,
        le=10**6,
        description="Clips of the pool per step, for contrastive loss and teacher; unused by `supervised`",
    )
    schedule: Literal["released", "cosine"] = Field(
        "released",
        description="`released`: step decay over 120 equal epochs (original implementation); `cosine`: warm-up, "
        "then cosine decay to zero",
    )
    kind: Literal["sgd", "adamw"] = Field("sgd", description="`sgd` (original implementation) or `adamw`")
    lr: float = Field(0.01, gt=0, le=1e6, description="Peak learning rate")
    warmup: Share = Field(0.1, description="`cosine`: fraction of the steps for warm-up")
    momentum: float = Field(0.9, ge=0, lt=1, description="`sgd`: momentum")
    nesterov: bool = Field(True, description="`sgd`: use Nesterov momentum")
    weight_decay: NonNegative = Field(4e-4, description="Weight decay")
    clip_norm: NonNegative = Field(0.0, description="Maximum gradient norm; 0: no clipping")


class TrainingConfig(Artefact):
    """A training configuration."""

    method: Method = Field(
        "psp",
        description="`psp`, or `supervised`: cross-entropy of the labelled clips only, with the same encoder",
    )
    preset: Literal[Preset, OldPreset] = Field(
        "paper",
        description="Preset that the values are based on; `paper-short`, `small` and `lean` are of earlier versions",
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Random seed (initialization, sampling); null: the seed of the split",
    )
    precision: Precision = Field(
        "float32",
        description="Precision of the forward pass; `auto`: bfloat16 if the hardware supports it, else float32",
    )
    storage: Literal["float32", "float16"] = Field(
        "float32",
        description="Data type of the positions on the device; `float16` halves the memory and rounds to 0.1 %",
    )
    validate_every: int = Field(
        0, ge=0, le=10**9, description="Validation interval in steps; 0: about 20 validations in total"
    )
    checkpoint_every: int = Field(
        0, ge=0, le=10**9, description="Checkpoint interval in steps; 0: once a minute"
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
            raise ValueError(f"loss.contrast_levels contains {', '.join(missing)}, but model.levels does not")
        return self

    @model_validator(mode="after")
    def _pairs_exist(self) -> Self:
        if not self.contrast_levels:
            return self
        for pair in self.loss.contrast_pairs:
            missing = [name for name in pair if name not in self.streams.names]
            if missing:
                raise ValueError(
                    f"loss.contrast_pairs contains {', '.join(missing)}, but streams.names does not"
                )
            if pair[0] == pair[1]:
                raise ValueError(f"loss.contrast_pairs pairs {pair[0]} with itself")
        return self

    @property
    def contrast_levels(self) -> tuple[Level, ...]:
        """Levels of the contrastive loss; empty for `supervised`, with weight 0, and without a pair of streams."""
        if self.method == "supervised" or self.loss.contrast_weight == 0 or not self.loss.contrast_pairs:
            return ()
        return self.model.levels if self.loss.contrast_levels is None else self.loss.contrast_levels

    @property
    def contrast_streams(self) -> tuple[StreamName, ...]:
        """Streams of the contrastive loss, each once; empty if `contrast_levels` is."""
        if not self.contrast_levels:
            return ()
        return tuple(dict.fromkeys(name for pair in self.loss.contrast_pairs for name in pair))

    @property
    def has_teacher(self) -> bool:
        """Whether a mean teacher is used; never for `supervised`."""
        return self.method != "supervised" and self.teacher.weight > 0

    @property
    def needs_pool(self) -> bool:
        """Whether clips of the pool are used, by the contrastive loss or the teacher."""
        return bool(self.contrast_levels) or self.has_teacher
