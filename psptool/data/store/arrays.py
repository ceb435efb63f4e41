"""A prepared clip, before it is written to the store, and the motion stream computed from it.

Array shapes: M persons, T frames, V joints; rows R = M * T, person-major.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.schemas.report import TrackRule
from psptool.skeletons.keys import ClipKey


class TrackNote(NamedTuple):
    """A body track that was joined to another track or dropped.

    Attributes:
        body: The sensor's body id of the track.
        rule: The rule by which it was joined or dropped.
        text: The measured values behind the decision, for the report.
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
        joint: float32 (M, T, V, 3), normalized positions; zero in frames where the person is absent.
        present: bool (M, T), frames in which the person was tracked. Every person is present in at least one frame.
        state: uint8 (M, T, V), tracking states of the joints; 0 where the person is absent.
        origin: float64 (3,), metres, camera coordinates.
        scale: Metres per unit.
        rotation: float64 (3, 3), the body axes as rows, in camera coordinates:
            recorded = joint * scale @ rotation + origin.
        notes: Notes for the report, such as a reference length of zero.
        interpolated: Number of missing joints whose position was interpolated over time.
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
    """The motion stream: the next frame minus the current one.

    Zero in the last frame, and where the person is absent in either frame.

    Args:
        joint: float32 (M, T, V, 3), normalized positions.
        present: bool (M, T).
        out: float32 (M, T, V, 3), array for the result; a new array if None.

    Returns:
        float32 (M, T, V, 3).
    """
    step = np.empty_like(joint) if out is None else out
    np.subtract(joint[:, 1:], joint[:, :-1], out=step[:, :-1])
    step[:, -1:] = 0  # the last frame has no successor
    if present.all():
        return step
    # (M, T): present in this frame and in the next one. Without it, appearing would look like fast motion.
    both = np.zeros_like(present)
    both[:, :-1] = present[:, 1:] & present[:, :-1]
    step[~both] = 0
    return step
