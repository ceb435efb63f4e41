"""Human bodies with NTU's 25 joints: bone lengths, poses as joint angles over time, and forward kinematics.

Array shapes: T frames, V joints. The body's coordinate system is right-handed, in metres: x to the body's left, y up, z
to the front. A bone is identified by the joint in which it ends. The rest pose is standing upright with hanging arms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from psptool.schemas.builtin_skeletons import builtin_skeleton

Array = NDArray[np.float64]

# The bones that actions rotate, by the 0-based joint in which they end; (left, right) for paired bones.
PELVIS, SPINE, CHEST, NECK, HEAD = 0, 1, 20, 2, 3
UPPER_ARM, FOREARM, HAND = (5, 9), (6, 10), (7, 11)
THIGH, SHIN, FOOT = (13, 17), (14, 18), (15, 19)
ANKLE = SHIN

# Vector from the parent joint to this one, in metres, for a person of about 1.75 m. The right side mirrors the left.
_REST = {
    0: (0.0, 0.0, 0.0), 1: (0.0, 0.30, 0.0), 20: (0.0, 0.24, -0.01),
    2: (0.0, 0.08, 0.0), 3: (0.0, 0.15, 0.02),
    4: (0.17, -0.05, 0.0), 5: (0.0, -0.27, 0.0), 6: (0.0, -0.24, 0.0), 7: (0.0, -0.07, 0.0),
    21: (0.0, -0.09, 0.0), 22: (0.0, -0.03, 0.05),
    12: (0.08, -0.03, 0.0), 13: (0.0, -0.40, 0.0), 14: (0.0, -0.39, 0.0), 15: (0.0, -0.07, 0.12),
}  # fmt: skip
_SEGMENTS = {"trunk": (1, 20, 2, 3), "shoulders": (4, 12), "arms": (5, 6, 7, 21, 22), "legs": (13, 14, 15)}
NTU25 = builtin_skeleton("ntu25").topology
_RIGHT = tuple(b for a, b in enumerate(NTU25.mirror) if a < b)
# Positive flexion is the anatomical one: arms and thighs swing forward, elbows and knees bend, the trunk bends forward,
# toes rise. For these bones it is a rotation about x in the opposite direction to the others.
_TURN_ABOUT_X = (PELVIS, SPINE, CHEST, NECK, HEAD, *SHIN)


def offsets(rng: np.random.Generator) -> Array:
    """Bone vectors of a random person in the rest pose.

    Returns:
        float64 (V, 3), metres, from each joint's parent to the joint.
    """
    rest = np.zeros((NTU25.size, 3))
    for joint, vector in _REST.items():
        rest[joint] = vector
    rest *= rng.uniform(0.86, 1.1)
    for joints in _SEGMENTS.values():
        rest[list(joints)] *= rng.uniform(0.92, 1.08)
    for left, right in enumerate(NTU25.mirror):
        if left < right:
            rest[right] = rest[left] * (-1, 1, 1)
    return rest


@dataclass
class Pose:
    """The movement of one body in scene coordinates, which are the body's if `yaw` and `place` are zero.

    Attributes:
        angles: (T, V, 3), radians, rotation of the bone that ends in each joint relative to its parent bone: flexion,
            abduction (outward; on the midline to the left), and twist (outward; on the midline to the left).
        place: (T, 2), metres, position of the body on the floor: x and z.
        yaw: (T,), radians, rotation about the vertical axis, to the left.
        lift: (T,), metres, height of the lowest foot above the floor.
        stance: (T, 2), weights of the left and the right ankle as the fixed point of the body. Rows sum to 1, or to
            less if the hips move freely.
    """

    angles: Array
    place: Array
    yaw: Array
    lift: Array
    stance: Array

    @classmethod
    def standing(cls, frames: int) -> Pose:
        """A body in the rest pose for ``frames`` frames."""
        return cls(
            angles=np.zeros((frames, NTU25.size, 3)),
            place=np.zeros((frames, 2)),
            yaw=np.zeros(frames),
            lift=np.zeros(frames),
            stance=np.full((frames, 2), 0.5),
        )

    def turn(
        self,
        bone: int,
        flex: Array | float = 0.0,
        out: Array | float = 0.0,
        twist: Array | float = 0.0,
        hold: Array | float = 0.0,
    ) -> None:
        """Add rotations to a bone. Before that, ``hold`` reduces its current angles.

        Args:
            bone: The joint in which the bone ends.
            flex: Degrees, scalar or (T,).
            out: Abduction in degrees, scalar or (T,).
            twist: Degrees, scalar or (T,).
            hold: Fraction of the current angles to remove, scalar or (T,).
        """
        self.angles[:, bone] *= 1 - np.broadcast_to(np.asarray(hold, float), self.yaw.shape)[:, None]
        for axis, value in enumerate((flex, out, twist)):
            self.angles[:, bone, axis] += np.radians(value)

    def mirrored(self) -> Pose:
        """The same movement with left and right exchanged."""
        angles = self.angles[:, list(NTU25.mirror)]
        midline = [joint for joint, partner in enumerate(NTU25.mirror) if joint == partner]
        angles[:, midline, 1:] *= -1
        return Pose(angles, self.place * (-1, 1), -self.yaw, self.lift, self.stance[:, ::-1])


def move(bones: Array, pose: Pose) -> tuple[Array, Array]:
    """Forward kinematics: from angles to joint positions, with the lowest foot at height ``pose.lift``.

    Args:
        bones: (V, 3), metres, bone vectors from `offsets`.
        pose: The movement.

    Returns:
        Positions float64 (T, V, 3), metres, scene coordinates; rotations float64 (T, V, 3, 3) of the bones.
    """
    turns = _rotations(pose.angles)
    heading = np.zeros_like(pose.angles[:, 0])
    heading[:, 2] = pose.yaw
    heading_turn = _euler(heading)
    rotation = np.empty_like(turns)
    position = np.zeros((*turns.shape[:2], 3))
    rotation[:, 0] = heading_turn @ turns[:, 0]
    for parent, child in NTU25.bones:
        rotation[:, child] = rotation[:, parent] @ turns[:, child]
        position[:, child] = position[:, parent] + rotation[:, child] @ bones[child]
    # Vertical: put the lowest foot at its height. Horizontal: undo the drift of the standing ankle.
    position[:, :, 1] += (pose.lift - position[:, FOOT, 1].min(axis=1))[:, None]
    at_rest = np.stack([heading_turn @ bones[hip] for hip in (12, 16)], axis=1)
    drift = np.einsum("ts,tsc->tc", pose.stance, position[:, ANKLE] - at_rest)
    position[:, :, ::2] += (pose.place - drift[:, ::2])[:, None]
    return position, rotation


def _rotations(angles: Array) -> Array:
    """Rotation matrices (T, V, 3, 3) from anatomical angles (T, V, 3); signs differ between the sides of the body."""
    signs = np.ones((NTU25.size, 3))
    signs[:, 0] = -1
    signs[list(_TURN_ABOUT_X), 0] = 1
    signs[list(_RIGHT), 1:] = -1
    return _euler(angles * signs)


def _euler(angles: Array) -> Array:
    """Rotation matrices (..., 3, 3) from angles (..., 3): twist, then abduction, then flexion."""
    matrices: Array = Rotation.from_euler("XZY", angles.reshape(-1, 3)).as_matrix()
    return matrices.reshape(*angles.shape, 3)
