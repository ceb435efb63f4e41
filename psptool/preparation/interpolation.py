"""Detection and interpolation of missing joints, which recordings contain as NaN or exactly (0, 0, 0).

Array shapes: B frames of one track, V joints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psptool.skeletons.topology import Topology


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
    """Interpolate each missing joint linearly over time between its valid frames; constant before and after them.

    A joint that is missing in every frame gets the position of its nearest neighbour along the bones; among equally
    near ones, the first in joint order. The position (0, 0, 0) of the file is the camera, metres away from the body,
    and would dominate all real movement.

    Args:
        frame: int32 (B,), the track's frame numbers, ascending.
        xyz: float32 (B, V, 3), metres.
        missing: bool (B, V), from `is_missing`. No frame is missing all of its joints.
        topology: Joints and bones.

    Returns:
        A filled copy of ``xyz``, and the indices of the joints that are missing in every frame.
    """
    filled = xyz.copy()
    unseen = np.flatnonzero(missing.all(axis=0)).tolist()
    for joint in np.flatnonzero(missing.any(axis=0)).tolist():
        gaps = missing[:, joint]  # (B,)
        if joint in unseen:
            continue  # no valid frame to interpolate from
        for axis in range(3):
            filled[gaps, joint, axis] = np.interp(frame[gaps], frame[~gaps], xyz[~gaps, joint, axis])
    for joint in unseen:
        filled[:, joint] = filled[:, _nearest_seen(joint, set(unseen), topology)]
    return filled, unseen


def _nearest_seen(joint: int, unseen: set[int], topology: Topology) -> int:
    """The joint nearest to ``joint`` along the bones that is not in ``unseen``."""
    # Breadth-first search over the tree of bones.
    reached, edge = {joint}, [joint]
    while edge:
        edge = sorted({other for bone in topology.bones for other in bone if set(bone) & set(edge)} - reached)
        for other in edge:
            if other not in unseen:
                return other
        reached.update(edge)
    raise ValueError("every joint of the track is missing in every frame")
