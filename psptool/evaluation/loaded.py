"""`LoadedModel`: class probabilities of one clip, from a dataset or from an array of positions.

Notation for array shapes: M persons, T frames, V joints, K classes.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from psptool.common.errors import PspError
from psptool.common.paths import shown
from psptool.common.text import counted
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.reading import StoredClip
from psptool.evaluation.models import TrainedModel
from psptool.evaluation.predicting import ragged
from psptool.evaluation.scoring import score_ragged
from psptool.formats.readers.base import STATE_UNKNOWN, RawClip
from psptool.formats.readers.detections import MAX_FRAMES
from psptool.preparation.interpolation import is_missing
from psptool.preparation.worker import prepare_raw
from psptool.skeletons.keys import UNNAMED
from psptool.skeletons.topology import Topology


class LoadedModel:
    """A trained model that predicts single clips.

    Attributes:
        trained: Network, weights and configuration.
        path: The run folder, or the model file.
        class_names: Names of the K classes, indexed by label.
        topology: The skeleton with V joints.
    """

    def __init__(self, trained: TrainedModel) -> None:
        self.trained = trained
        self.path: Path = trained.path
        self.class_names: tuple[str, ...] = trained.config.class_names
        self.topology: Topology = trained.config.topology

    def __repr__(self) -> str:
        config, recipe = self.trained.config, self.trained.config.training
        return (
            f"<LoadedModel {shown(self.path)}: {recipe.method} (preset {recipe.preset}), {config.dataset}, "
            f"{counted(len(self.class_names), 'class', 'classes')}, {self.topology.name}, "
            f"{self.trained.weights} checkpoint, "
            f"{self.trained.device}>"
        )

    def predict(
        self,
        clip: StoredClip | None = None,
        *,
        joints: ArrayLike | None = None,
        frame_rate: float | None = None,
    ) -> dict[str, float]:
        """Class probabilities of one clip: softmax of the mean over the classification heads. They are not calibrated.

        Args:
            clip: A clip of a prepared dataset.
            joints: Instead of ``clip``: recorded positions in camera coordinates, in metres, (T, V, 3) or
                (M, T, V, 3); in 2D also with the last axis 2. A joint that is NaN or exactly (0, 0, 0) is missing. A
                person with fewer than half of the joints is absent in that frame. The positions are prepared like the
                training clips.
            frame_rate: Frames per second of ``joints``; None for that of the training clips. Another rate is resampled
                to it, because motion is the difference between frames. Ignored with ``clip``.

        Returns:
            Probability by class name, the most probable class first. The K probabilities sum to 1.

        Raises:
            PspError: Neither or both of ``clip`` and ``joints`` are given, the skeleton is not the model's, ``clip``
                was prepared with other settings than the training clips, or ``joints`` has no person.

        Example:
            >>> import psptool
            >>> model = psptool.load("runs/first")
            >>> with psptool.open("data/ucla.h5") as dataset:
            ...     clip = dataset.clip("a01_s01_e00_v03")
            >>> probabilities = model.predict(clip)
            >>> sorted(probabilities) == sorted(model.class_names)
            True
            >>> best, second, *others = probabilities  # most probable first
            >>> probabilities[best] >= probabilities[second]
            True
            >>> recorded = clip.recorded()             # (M, T, V, 3), metres, camera coordinates
            >>> next(iter(model.predict(joints=recorded, frame_rate=30))) == best
            True
        """
        if (clip is None) == (joints is None):
            raise PspError(
                "predict: clip and joints",
                "neither" if clip is None else "both",
                "exactly one",
                "Pass a clip of psptool.open(...), or joints=array.",
            )
        prepared = self._from_dataset(clip) if clip is not None else self._from_positions(joints, frame_rate)
        model = self.trained
        logits = score_ragged(
            model.net, model.config, ragged([prepared], model), np.arange(1), [prepared.name]
        )
        probabilities = logits.probabilities[0]
        order = np.argsort(-probabilities, kind="stable")
        return {self.class_names[label]: float(probabilities[label]) for label in order.tolist()}

    def _from_dataset(self, clip: StoredClip) -> PreparedClip:
        """Check that a dataset's clip is prepared like the training clips, and return it."""
        if not isinstance(clip, StoredClip):
            raise PspError(
                "predict: clip",
                type(clip).__name__,
                "a clip of a prepared dataset",
                "Pass positions as joints=array; pass recordings to psptool.predict.",
            )
        self._check_joints(f"clip {clip.name}", clip.joint.shape)
        if clip.settings != self.trained.config.preparation:
            ours, theirs = self.trained.config.preparation.model_dump(), clip.settings.model_dump()
            other = [key for key in ours if ours[key] != theirs[key]]
            raise PspError(
                f"clip {clip.name}: not prepared like the training clips of {shown(self.path)}",
                ", ".join(f"{key}={theirs[key]}" for key in other),
                ", ".join(f"{key}={ours[key]}" for key in other),
                "Pass joints=clip.recorded(), or open the dataset of the training.",
            )
        return clip.prepared()

    def _from_positions(self, joints: ArrayLike | None, frame_rate: float | None) -> PreparedClip:
        """Prepare recorded positions like those of a raw file."""
        try:
            recorded = np.asarray(joints, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise PspError("joints", str(error), "an array (T, V, 3) or (M, T, V, 3) of numbers") from error
        if recorded.ndim in (3, 4) and recorded.shape[-1] == self.topology.dimensions == 2:
            recorded = np.pad(recorded, [(0, 0)] * (recorded.ndim - 1) + [(0, 1)])  # z = 0
        self._check_joints("joints", recorded.shape)
        if not recorded.size:
            raise PspError("joints", f"shape {recorded.shape}", "at least one person and one frame")
        recorded = recorded.reshape(-1, *recorded.shape[-3:])  # (T, V, 3) or (M, T, V, 3) to (M, T, V, 3)
        if np.isinf(recorded).any():
            raise PspError("joints", "infinity", "metres, or NaN for a missing joint")
        dataset = self.trained.config.description
        rate = dataset.frame_rate if frame_rate is None else frame_rate
        clip = replace(raw_clip("joints", resampled(recorded, rate, dataset.frame_rate)), up=dataset.up)
        settings = self.trained.config.preparation
        return prepare_raw(clip, self.topology, settings)

    def _check_joints(self, what: str, shape: tuple[int, ...]) -> None:
        if len(shape) in (3, 4) and shape[-2:] == (self.topology.size, 3):
            return
        raise PspError(
            f"{what}: not the skeleton that the model was trained on",
            f"shape {shape}",
            f"(T, {self.topology.size}, 3) or (M, T, {self.topology.size}, 3), the joints of {self.topology.name}",
            f"Use these joints in this order: {', '.join(self.topology.joints)}.",
        )


def raw_clip(name: str, recorded: NDArray[np.float32]) -> RawClip:
    """Positions (M, T, V, 3) in the form that readers return: a detection for each person and frame with a joint."""
    _, frames, joints, _ = recorded.shape
    seen = ~is_missing(recorded).all(axis=-1)  # (M, T)
    frame, body = np.nonzero(seen.T)  # (B,) each, ordered by frame
    return RawClip(
        name=name,
        key=UNNAMED,
        frames=frames,
        frame=frame.astype(np.int32),
        body=body.astype(np.int64),
        xyz=np.ascontiguousarray(recorded[body, frame]),  # (B, V, 3)
        state=np.full((len(frame), joints), STATE_UNKNOWN, np.uint8),
    )


def resampled(recorded: NDArray[np.float32], frame_rate: float, to: float) -> NDArray[np.float32]:
    """Resample positions to ``to`` frames per second by linear interpolation over time.

    A joint that is missing in one of the two neighbouring frames is missing in the result.

    Args:
        recorded: float32 (M, T, V, 3); NaN or exactly (0, 0, 0) for a missing joint.
        frame_rate: Frames per second of ``recorded``.
        to: Frames per second of the result.

    Returns:
        float32 (M, T', V, 3) of the same duration, NaN for a missing joint; ``recorded`` itself if the rates are equal.

    Raises:
        PspError: ``frame_rate`` is not a positive number, or so small that the result had more than `MAX_FRAMES`.
    """
    if not (isinstance(frame_rate, Real) and np.isfinite(frame_rate) and frame_rate > 0):
        raise PspError("frame_rate", repr(frame_rate), "a positive number of frames per second")
    frames = recorded.shape[1]
    if frame_rate == to or frames < 2:
        return recorded
    if (frames - 1) * to / frame_rate > MAX_FRAMES:
        raise PspError(
            "frame_rate",
            f"{frame_rate!r}, so that {counted(frames, 'frame')} last {(frames - 1) / frame_rate:.3g} s",
            f"at most {MAX_FRAMES:,} frames at {to:g} per second",
        )
    known = np.where(is_missing(recorded)[..., None], np.nan, recorded.astype(np.float64))
    # Rounded, so that 60 to 30 frames per second selects every second frame exactly.
    times = np.round(np.arange(1 + int((frames - 1) * to / frame_rate + 1e-9)) * frame_rate / to, 9)  # (T',)
    before = np.floor(times).astype(np.int64)
    after = np.minimum(before + 1, frames - 1)
    fraction = (times - before)[:, None, None]  # (T', 1, 1)
    earlier, later = known[:, before], known[:, after]  # (M, T', V, 3)
    # At a recorded frame, the next frame is not used: it may be NaN.
    interpolated = np.where(fraction > 0, earlier + fraction * (later - earlier), earlier)
    return interpolated.astype(np.float32)
