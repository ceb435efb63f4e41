"""Joints that a recording lacks, given there as NaN or exactly (0, 0, 0), and positions for them.

Notation for array shapes: B frames of one track, V joints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psptool.data.skeletons.topology import Topology


def is_missing(xyz: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which joints are missing: NaN in any coordinate, or exactly (0, 0, 0).

    Args:
        xyz: float32 (..., V, 3).

    Returns:
        bool (..., V).
    """
    return np.asarray(np.isnan(xyz).any(axis=-1) | ~xyz.any(axis=-1))


def fill_missing(
    frame: NDArray[np.int32], xyz: NDArray[np.float32], missing: NDArray[np.bool_], topology: Topology
) -> tuple[NDArray[np.float32], list[int]]:
    """Interpolate each missing joint over time from its own valid frames; the nearest one at the ends.

    A joint that is missing in every frame of the track is put where its nearest neighbour along the bones is
    (the first in joint order among equally near ones): a bone without length stays inside the body, while
    the (0, 0, 0) of the file lies in the camera, metres away, and would outweigh every real movement.

    Args:
        frame: int32 (B,), the track's frame numbers, ascending.
        xyz: float32 (B, V, 3), metres.
        missing: bool (B, V), as `is_missing` has it; no frame is missing all of its joints.
        topology: The joints and their bones.

    Returns:
        The filled copy of ``xyz``, and the joints that were missing in every frame.
    """
    filled = xyz.copy()
    unseen = np.flatnonzero(missing.all(axis=0)).tolist()
    for joint in np.flatnonzero(missing.any(axis=0)).tolist():
        gaps = missing[:, joint]
        if joint in unseen:
            continue
        for axis in range(3):
            filled[gaps, joint, axis] = np.interp(frame[gaps], frame[~gaps], xyz[~gaps, joint, axis])
    for joint in unseen:
        filled[:, joint] = filled[:, _nearest_seen(joint, set(unseen), topology)]
    return filled, unseen


def _nearest_seen(joint: int, unseen: set[int], topology: Topology) -> int:
    reached, edge = {joint}, [joint]
    while edge:
        edge = sorted({other for bone in topology.bones for other in bone if set(bone) & set(edge)} - reached)
        for other in edge:
            if other not in unseen:
                return other
        reached.update(edge)
    raise ValueError("every joint of the track is missing in every frame")
