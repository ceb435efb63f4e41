"""Normalization of 2D skeletons: a translation and a scale in the image plane, without rotation.

Image coordinates have no depth, so the body cannot be turned to face the camera. In the plane, a rotation would make a
lying body like a standing one. The axes of the image are kept.

Array shapes: P frames in which the first person is present, V joints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psptool.skeletons.topology import Topology

SHORTEST_TORSO = 1e-6
"""A shorter torso has no length, in the unit of the coordinates."""


def find_planar_transform(
    leading: NDArray[np.float32], topology: Topology
) -> tuple[NDArray[np.float64], float | None]:
    """The origin and the unit of a clip in 2D.

    The origin is the root in the first frame: the center joint, or the middle of the center joint and its counterpart
    on the other side, such as both hips. The unit is the median length of the torso over the frames in which it has
    one: the first frame may show the torso from above. The torso goes from the lower to the upper end of the spine,
    each of them also the middle of both sides.

    Args:
        leading: float32 (P, V, 3), with z = 0, frames in which the first person is present.
        topology: The joints that define root and torso.

    Returns:
        Origin, float64 (3,), and unit; None if the torso has no length in any frame.
    """
    lower, upper = topology.spine
    torso = _middle(leading, topology, upper) - _middle(leading, topology, lower)  # (P, 3)
    length = np.hypot(torso[:, 0], torso[:, 1])  # (P,)
    seen = length[length >= SHORTEST_TORSO]
    unit = float(np.median(seen)) if len(seen) else None
    return _middle(leading[:1], topology, topology.center)[0], unit


def _middle(leading: NDArray[np.float32], topology: Topology, joint: int) -> NDArray[np.float64]:
    """The middle of a joint and its counterpart on the other side, float64 (P, 3); on the midline, the joint."""
    both = leading[:, (joint, topology.mirror[joint])].astype(np.float64)  # (P, 2, 3)
    return np.asarray(both.mean(axis=1))
