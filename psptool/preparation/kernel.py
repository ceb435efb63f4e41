"""The compiled part of the preparation: whose a detection is, measures of tracks, and the normalization of a clip.

A clip's arrays are so small that NumPy, called for each step of the formulas, would spend most of its time on
the calls. Everything is computed in float64 in the order written here, so that the result does not depend on a
machine's linear algebra.

All of it stands in this one file because numba's cache on disk only notices changes in the file of the
function it keeps. Notation for array shapes: B body detections (one body in one frame) or frames of one
track, P frames in which the leading person is present, M persons, T frames, V joints.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"
# Compiled functions get their types from numba, and numba's own annotations differ between its versions.

from __future__ import annotations

import math

import numpy as np
from numba import njit

MOST_TRACKS = 32
"""Tracks that `assign_tracks` tells apart; a clip with more is left to a slower way."""

# Under float32's resolution at the sensor's range (a bone) and under what rounding leaves of parallel lines
# (a share).
SHORTEST_BONE = 1e-6
LEAST_ACROSS = 1e-5

# What `find_transform` found lacking; they add up.
NO_LENGTH, NO_SPINE, NO_ACROSS = 1, 2, 4


def _compiled(function):
    """`function` compiled, and kept on disk where that can be.

    It keeps the interpreter lock: all take microseconds, and getting the lock back from another thread more.
    """
    try:
        return njit(cache=True)(function)
    except RuntimeError:
        # numba finds no folder that it may write its cache to: compile anew in every process.
        return njit(function)


@_compiled
def assign_tracks(frame, body, xyz, owner, ids):
    """Number the tracks in order of appearance: the k-th detection of an id in a frame is its k-th track's.

    Args:
        frame: int32 (B,), ascending.
        body: int64 (B,).
        xyz: float32 (B, V, 3).
        owner: int32 (B,), gets each detection's track; -1 where fewer than half of its joints are there.
        ids: int64 (`MOST_TRACKS`,), gets the tracks' body ids.

    Returns:
        The number of tracks, -1 where there are too many; missing joints, NaN or exactly (0, 0, 0), in
        bodies that are seen; and detections that are not seen.
    """
    tracks = missing = unseen = 0
    last = np.full(MOST_TRACKS, -1, np.int32)
    for b in range(frame.shape[0]):
        lacking = 0
        for v in range(xyz.shape[1]):
            # With a NaN no comparison is true.
            if not abs(xyz[b, v, 0]) + abs(xyz[b, v, 1]) + abs(xyz[b, v, 2]) > 0:
                lacking += 1
        if 2 * lacking > xyz.shape[1]:
            owner[b] = -1
            unseen += 1
            continue
        missing += lacking
        track = 0
        while track < tracks and not (ids[track] == body[b] and last[track] != frame[b]):
            track += 1
        if track == MOST_TRACKS:
            return -1, 0, 0
        if track == tracks:
            ids[track] = body[b]
            tracks += 1
        last[track] = frame[b]
        owner[b] = track
    return tracks, missing, unseen


@_compiled
def energy(xyz, center):
    """Sum over x, y, z of the standard deviation, over frames and joints, relative to joint ``center``.

    Args:
        xyz: float32 (B, V, 3).
        center: The joint that positions are taken relative to.
    """
    count = xyz.shape[0] * xyz.shape[1]
    mean, square = np.zeros(3), np.zeros(3)
    for b in range(xyz.shape[0]):
        for v in range(xyz.shape[1]):
            for c in range(3):
                mean[c] += np.float64(xyz[b, v, c]) - np.float64(xyz[b, center, c])
    mean /= count
    for b in range(xyz.shape[0]):
        for v in range(xyz.shape[1]):
            for c in range(3):
                square[c] += (np.float64(xyz[b, v, c]) - np.float64(xyz[b, center, c]) - mean[c]) ** 2
    return math.sqrt(square[0] / count) + math.sqrt(square[1] / count) + math.sqrt(square[2] / count)


@_compiled
def spread_and_motion(xyz, ratio):
    """Two measures of a track in CTR-GCN's preparation.

    A frame is spread when the extent of its joints in x exceeds ``ratio`` times the extent in y. Motion is the sum of
    the variances of x, y and z over all frames and joints, or over the frames that are not spread where that is less.

    Args:
        xyz: float32 (B, V, 3), metres.
        ratio: Of the extents.

    Returns:
        The number of spread frames, and the motion in square metres.
    """
    frames, joints = xyz.shape[0], xyz.shape[1]
    # Sums of positions and of their squares, over all frames and over those that are not spread. Positions are taken
    # from the track's first joint, so that the squares are no larger than the movement itself.
    total, kept, spread = np.zeros(6), np.zeros(6), 0
    from_x, from_y, from_z = np.float64(xyz[0, 0, 0]), np.float64(xyz[0, 0, 1]), np.float64(xyz[0, 0, 2])
    for b in range(frames):
        low_x = high_x = xyz[b, 0, 0]
        low_y = high_y = xyz[b, 0, 1]
        sum_x = sum_y = sum_z = square_x = square_y = square_z = 0.0
        for v in range(joints):
            low_x, high_x = min(low_x, xyz[b, v, 0]), max(high_x, xyz[b, v, 0])
            low_y, high_y = min(low_y, xyz[b, v, 1]), max(high_y, xyz[b, v, 1])
            x, y, z = xyz[b, v, 0] - from_x, xyz[b, v, 1] - from_y, xyz[b, v, 2] - from_z
            sum_x, sum_y, sum_z = sum_x + x, sum_y + y, sum_z + z
            square_x, square_y, square_z = square_x + x * x, square_y + y * y, square_z + z * z
        sums = (sum_x, sum_y, sum_z, square_x, square_y, square_z)
        wide, tall = np.float64(high_x) - np.float64(low_x), np.float64(high_y) - np.float64(low_y)
        is_spread = wide > ratio * tall
        spread += is_spread
        for n in range(6):
            total[n] += sums[n]
            if not is_spread:
                kept[n] += sums[n]
    motion = _variance_sum(total, frames * joints)
    if 0 < spread < frames:
        motion = min(motion, _variance_sum(kept, (frames - spread) * joints))
    return spread, motion


@njit
def _variance_sum(sums, count):
    """Sum of the variances of x, y, z, from the sums of three and of their squares."""
    mean_square = sums[3] + sums[4] + sums[5]
    square_mean = (sums[0] ** 2 + sums[1] ** 2 + sums[2] ** 2) / count
    return (mean_square - square_mean) / count


@njit
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit
def _length(a):
    return math.hypot(math.hypot(a[0], a[1]), a[2])


@njit
def _bone_vector(leading, p, low, high):
    """The vector from joint `low` to joint `high` in frame p."""
    return leading[p, high].astype(np.float64) - leading[p, low].astype(np.float64)


@njit
def _axes(spine, across, rotation):
    """The rows x, y, z: z along `spine`, x along the part of `across` orthogonal to it; what was lacking.

    Turning the spine onto z and then, about z, the horizontal part of `across` onto x is this rotation and no
    other, so that the released code's two turns need no form of their own.
    """
    lacking = 0
    length = _length(spine)
    if length < SHORTEST_BONE:
        return NO_SPINE
    z = spine / length
    sideways = across - _dot(across, z) * z
    if _length(sideways) < max(SHORTEST_BONE, LEAST_ACROSS * _length(across)):
        lacking = NO_ACROSS
        # The camera's x, or its y where the spine lies nearly along x.
        stand_in = np.zeros(3)
        stand_in[0 if abs(z[0]) < 0.9 else 1] = 1
        sideways = stand_in - _dot(stand_in, z) * z
    x = sideways / _length(sideways)
    # Rounding grows with the share that the first subtraction left; a second one makes x orthogonal to full
    # precision.
    x = x - _dot(x, z) * z
    x = x / _length(x)
    rotation[0] = x
    rotation[1] = (z[1] * x[2] - z[2] * x[1], z[2] * x[0] - z[0] * x[2], z[0] * x[1] - z[1] * x[0])
    rotation[2] = z
    return lacking


@_compiled
def find_transform(leading, center, spine, across, frames, origin, rotation):
    """The normalization of a clip from its leading person; see `psptool.preparation.normalize.find_transform`.

    Args:
        leading: float32 (P, V, 3), the leading person's present frames.
        center: The joint that becomes the origin.
        spine: Two joints: the unit's and the z axis's ends.
        across: Two joints: the x axis's ends.
        frames: How many frames the axes are averaged over; 0 keeps the camera's.
        origin: float64 (3,), filled.
        rotation: float64 (3, 3), the identity; filled.

    Returns:
        The scale, and what was lacking.
    """
    lacking, scale = NO_LENGTH, 1.0
    for c in range(3):
        origin[c] = leading[0, center, c]
    for p in range(leading.shape[0]):
        length = _length(_bone_vector(leading, p, spine[0], spine[1]))
        if length >= SHORTEST_BONE:
            lacking, scale = 0, length
            break
    if frames == 0:
        return scale, lacking
    up, side = np.zeros(3), np.zeros(3)
    used = min(frames, leading.shape[0])
    for p in range(used):
        up += _bone_vector(leading, p, spine[0], spine[1])
        side += _bone_vector(leading, p, across[0], across[1])
    return scale, lacking | _axes(up / used, side / used, rotation)


@_compiled
def apply_transform(xyz, present, origin, scale, rotation, joint):
    """Recorded positions as normalized ones; zero where nobody is.

    Args:
        xyz: float32 (M, T, V, 3), metres.
        present: bool (M, T).
        origin: float64 (3,).
        scale: Metres of one unit.
        rotation: float64 (3, 3).
        joint: float32 (M, T, V, 3), filled.

    Returns:
        The largest absolute position.
    """
    matrix, largest = rotation / scale, np.float32(0)
    for m in range(xyz.shape[0]):
        for t in range(xyz.shape[1]):
            if not present[m, t]:
                joint[m, t] = 0
                continue
            for v in range(xyz.shape[2]):
                x, y, z = (
                    xyz[m, t, v, 0] - origin[0],
                    xyz[m, t, v, 1] - origin[1],
                    xyz[m, t, v, 2] - origin[2],
                )
                for c in range(3):
                    value = np.float32(matrix[c, 0] * x + matrix[c, 1] * y + matrix[c, 2] * z)
                    joint[m, t, v, c] = value
                    largest = max(largest, abs(value))
    return largest
