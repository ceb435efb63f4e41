"""A clip as the store holds it, between the preparation that makes it and the file that keeps it.

Notation for array shapes: M persons, T frames, V joints; rows R = M * T, person-major.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.data.skeletons.datasets import ClipKey
from psptool.schemas.report import TrackRule


class TrackNote(NamedTuple):
    """What became of a body track that is not a person of its own.

    Attributes:
        body: The sensor's id of the track.
        rule: Why it was joined or dropped.
        text: The figures behind that, for the report.
    """

    body: int
    rule: TrackRule
    text: str


@dataclass(frozen=True)
class PreparedClip:
    """One normalized clip.

    Attributes:
        name: The clip's name.
        key: Label, subject, camera, setup, repetition.
        joint: float32 (M, T, V, 3), normalized positions; zero where the person is absent.
        present: bool (M, T), whether the person was tracked in that frame; no person is absent throughout.
        state: uint8 (M, T, V), joint states; 0 where absent.
        origin: float64 (3,), metres, camera frame.
        scale: Metres of one unit.
        rotation: float64 (3, 3), rows are the body's axes in camera coordinates:
            recorded = joint * scale @ rotation + origin.
        notes: What the report should say of the clip, such as a zero reference bone.
        interpolated: Missing joints whose position was interpolated over time.
        tracks: Body tracks that were joined or dropped.
    """

    name: str
    key: ClipKey
    joint: NDArray[np.float32]
    present: NDArray[np.bool_]
    state: NDArray[np.uint8]
    origin: NDArray[np.float64]
    scale: float
    rotation: NDArray[np.float64]
    notes: tuple[str, ...] = ()
    interpolated: int = 0
    tracks: tuple[TrackNote, ...] = ()

    @property
    def persons(self) -> int:
        """M."""
        return int(self.joint.shape[0])

    @property
    def frames(self) -> int:
        """T."""
        return int(self.joint.shape[1])


def motion(
    joint: NDArray[np.float32], present: NDArray[np.bool_], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Next frame minus this one, zero where either is absent and in the last frame.

    Args:
        joint: float32 (M, T, V, 3).
        present: bool (M, T).
        out: float32 (M, T, V, 3), filled and returned; a new array where None.

    Returns:
        float32 (M, T, V, 3).
    """
    step = np.empty_like(joint) if out is None else out
    np.subtract(joint[:, 1:], joint[:, :-1], out=step[:, :-1])
    step[:, -1:] = 0
    if present.all():
        return step
    both = np.zeros_like(present)
    both[:, :-1] = present[:, 1:] & present[:, :-1]
    step[~both] = 0
    return step
