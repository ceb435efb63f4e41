"""Compiled functions of the preparation: assigning detections to tracks, measuring tracks, normalizing a clip.

A clip's arrays are small, so NumPy would spend most of its time on call overhead. All values are computed in float64
in the order written here, so results do not depend on a machine's linear algebra library. Vectors are tuples (x, y, z):
compiling array arithmetic takes seconds, because numba also compiles the text of its error messages.

All functions are in one file, because numba's disk cache detects changes only in the file of the cached function.

Array shapes: B body detections (one body in one frame) or frames of one track, P frames in which the first person is
present, M persons, T frames, V joints.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, call-overload"
# Compiled functions get their types from numba, and numba's own annotations differ between its versions.

from __future__ import annotations

import math

import numpy as np
from numba import njit

MOST_TRACKS = 32
"""Maximum number of tracks in `assign_tracks`. Clips with more use `psptool.preparation.tracks.split_many`."""

# Bones shorter than this (metres) have no direction: float32 cannot resolve it at the sensor's range.
SHORTEST_BONE = 1e-6
# A line across the body whose part orthogonal to the spine is a smaller fraction of it is parallel to the spine.
LEAST_ACROSS = 1e-5

UNIT_FRAMES = 32
"""Maximum number of frames, evenly spaced, over which `find_robust_transform` takes the median size of the body."""

# Bit flags that `find_transform` returns: reference length of zero, undefined z axis, undefined x axis.
NO_LENGTH, NO_SPINE, NO_ACROSS = 1, 2, 4


def _compiled(function):
    """Compile ``function`` with numba, with the disk cache if it is writable.

    The functions keep the interpreter lock: each takes microseconds, less than reacquiring the lock.
    """
    try:
        return njit(cache=True, no_cfunc_wrapper=True)(function)
    except RuntimeError:
        # numba has no writable folder for its cache: compile in every process.
        return njit(no_cfunc_wrapper=True)(function)


# Called only by compiled functions, so without wrappers for Python and C.
_helper = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)


@_compiled
def assign_tracks(frame, body, xyz, owner, ids):
    """Assign detections to tracks, numbered in order of appearance.

    A body id may occur several times in a frame: its k-th detection belongs to the k-th track of that id.

    Args:
        frame: int32 (B,), frame numbers, ascending.
        body: int64 (B,), body ids.
        xyz: float32 (B, V, 3), positions.
        owner: int32 (B,), output: track of each detection; -1 if more than half of its joints are missing.
        ids: int64 (`MOST_TRACKS`,), output: body id of each track.

    Returns:
        Number of tracks (-1 if there are more than `MOST_TRACKS`), number of missing joints (NaN or exactly
        (0, 0, 0)) in the assigned detections, and number of detections without a track.
    """
    tracks = missing = unseen = 0
    last = np.empty(MOST_TRACKS, np.int32)  # the last frame of each track; only the first `tracks` are set
    for b in range(frame.shape[0]):
        lacking = 0
        for v in range(xyz.shape[1]):
            # Negated, so that NaN counts as missing too: comparisons with NaN are false.
            if not abs(xyz[b, v, 0]) + abs(xyz[b, v, 1]) + abs(xyz[b, v, 2]) > 0:
                lacking += 1
        if 2 * lacking > xyz.shape[1]:
            owner[b] = -1
            unseen += 1
            continue
        missing += lacking
        # The first track of this id that has no detection in this frame yet, else a new one.
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
    """The energy of a track in PSP Learning's preparation: the standard deviation of the positions relative to joint
    ``center`` over frames and joints, summed over x, y and z.

    Args:
        xyz: float32 (B, V, 3), metres.
        center: Index of the reference joint.

    Returns:
        Energy in metres.
    """
    count = xyz.shape[0] * xyz.shape[1]
    mean, square = np.zeros(3), np.zeros(3)
    # Two passes, mean then squared deviations, as in numpy.std: one pass would lose precision.
    for b in range(xyz.shape[0]):
        for v in range(xyz.shape[1]):
            for c in range(3):
                mean[c] += np.float64(xyz[b, v, c]) - np.float64(xyz[b, center, c])
    for c in range(3):
        mean[c] /= count
    for b in range(xyz.shape[0]):
        for v in range(xyz.shape[1]):
            for c in range(3):
                square[c] += (np.float64(xyz[b, v, c]) - np.float64(xyz[b, center, c]) - mean[c]) ** 2
    return math.sqrt(square[0] / count) + math.sqrt(square[1] / count) + math.sqrt(square[2] / count)


@_compiled
def spread_and_motion(xyz, ratio):
    """The two measures of a track in CTR-GCN's preparation.

    A frame is spread if the extent of its joints in x exceeds ``ratio`` times the extent in y. Motion is the sum of the
    variances of x, y and z over frames and joints: the smaller of its values over all frames and over the frames that
    are not spread.

    Args:
        xyz: float32 (B, V, 3), metres.
        ratio: Threshold for the ratio of the extents.

    Returns:
        Number of spread frames, and motion in square metres.
    """
    frames, joints = xyz.shape[0], xyz.shape[1]
    # Sums of x, y, z and of their squares, (6,), over all frames and over the frames that are not spread. Positions are
    # relative to the first joint of the first frame: with small squares, the variance keeps its precision.
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


@_helper
def _variance_sum(sums, count):
    """Sum of the variances of x, y and z, from their sums and the sums of their squares; sums is float64 (6,)."""
    mean_square = sums[3] + sums[4] + sums[5]
    square_mean = (sums[0] ** 2 + sums[1] ** 2 + sums[2] ** 2) / count
    return (mean_square - square_mean) / count


@_helper
def _dot(a, b):
    """Dot product of two vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@_helper
def _length(a):
    """Euclidean length of a vector; hypot neither overflows nor underflows."""
    return math.hypot(math.hypot(a[0], a[1]), a[2])


@_helper
def _divided(a, divisor):
    """``a / divisor``."""
    return a[0] / divisor, a[1] / divisor, a[2] / divisor


@_helper
def _orthogonal(a, b):
    """The part of ``a`` that is orthogonal to the unit vector ``b``: a - (a . b) b."""
    along = _dot(a, b)
    return a[0] - along * b[0], a[1] - along * b[1], a[2] - along * b[2]


@_helper
def _cross(a, b):
    """Cross product of two vectors."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@_helper
def _bone(leading, p, low, high):
    """Vector from joint ``low`` to joint ``high`` in frame ``p``."""
    return (
        np.float64(leading[p, high, 0]) - np.float64(leading[p, low, 0]),
        np.float64(leading[p, high, 1]) - np.float64(leading[p, low, 1]),
        np.float64(leading[p, high, 2]) - np.float64(leading[p, low, 2]),
    )


@_helper
def _mean_bone(leading, first, stop, joints):
    """Mean vector from joint ``joints[0]`` to joint ``joints[1]`` over frames ``first`` to ``stop - 1``."""
    x = y = z = 0.0
    for p in range(first, stop):
        bone = _bone(leading, p, joints[0], joints[1])
        x, y, z = x + bone[0], y + bone[1], z + bone[2]
    return _divided((x, y, z), np.float64(stop - first))


@_helper
def _axes(spine, across, rotation):
    """Fill ``rotation`` with the body axes as rows: z along ``spine``, x along the part of ``across`` orthogonal to z.

    The original implementation of PSP Learning rotates the spine onto z and then, about z, the horizontal part of
    ``across`` onto x.
    The composition of its two rotations is this one.

    Returns:
        Bit flags of the axes that are undefined.
    """
    lacking = 0
    length = _length(spine)
    if length < SHORTEST_BONE:
        return NO_SPINE
    z = _divided(spine, length)
    sideways = _orthogonal(across, z)
    if _length(sideways) < max(SHORTEST_BONE, LEAST_ACROSS * _length(across)):
        lacking = NO_ACROSS
        # Use the camera's x axis, or its y axis if the spine is nearly parallel to x.
        sideways = _orthogonal((1.0, 0.0, 0.0) if abs(z[0]) < 0.9 else (0.0, 1.0, 0.0), z)
    x = _divided(sideways, _length(sideways))
    # Gram-Schmidt a second time: the first subtraction may cancel most digits of x.
    x = _orthogonal(x, z)
    x = _divided(x, _length(x))
    # This completes the right-handed system, so the determinant is 1.
    y = _cross(z, x)
    for c in range(3):
        rotation[0, c], rotation[1, c], rotation[2, c] = x[c], y[c], z[c]
    return lacking


@_compiled
def find_transform(leading, center, spine, across, frames, origin, rotation):
    """The normalization of a clip from its first person; see `psptool.preparation.normalize.find_transform`.

    Args:
        leading: float32 (P, V, 3), metres, frames in which the first person is present.
        center: Joint that becomes the origin.
        spine: (from, to) joints of the bone that defines the unit and the z axis.
        across: (from, to) joints of the line that defines the x axis.
        frames: Number of frames over which the axes are averaged; 0 keeps the camera axes.
        origin: float64 (3,), output.
        rotation: float64 (3, 3), output; the identity on input.

    Returns:
        Scale in metres per unit, and the bit flags of what is undefined.
    """
    lacking, scale = NO_LENGTH, 1.0
    for c in range(3):
        origin[c] = leading[0, center, c]
    # The unit is the spine's length in the first frame in which it is not zero.
    for p in range(leading.shape[0]):
        length = _length(_mean_bone(leading, p, p + 1, spine))
        if length >= SHORTEST_BONE:
            lacking, scale = 0, length
            break
    if frames == 0:
        return scale, lacking
    used = min(frames, leading.shape[0])
    up, side = _mean_bone(leading, 0, used, spine), _mean_bone(leading, 0, used, across)
    return scale, lacking | _axes(up, side, rotation)


@_helper
def _median_size(leading, bones):
    """Median of the summed length of all bones over up to `UNIT_FRAMES` evenly spaced frames.

    Frames in which all joints coincide are excluded.

    Returns:
        Metres; 0 if all joints coincide in every frame.
    """
    frames = min(leading.shape[0], UNIT_FRAMES)
    sizes, n = np.empty(UNIT_FRAMES), 0  # sizes[:n] are sorted
    for i in range(frames):
        p, size = i * leading.shape[0] // frames, 0.0
        for b in range(bones.shape[0]):
            bone = _bone(leading, p, bones[b, 0], bones[b, 1])
            size += math.sqrt(_dot(bone, bone))
        if size < SHORTEST_BONE:
            continue
        at = n
        while at > 0 and sizes[at - 1] > size:
            sizes[at] = sizes[at - 1]
            at -= 1
        sizes[at] = size
        n += 1
    return 0.0 if n == 0 else (sizes[(n - 1) // 2] + sizes[n // 2]) / 2


@_helper
def _principal_line(leading, joints, z):
    """Principal direction of the line between two joints, in the plane orthogonal to the unit vector ``z``.

    It is the eigenvector of the larger eigenvalue of the sum over the frames of h h^T, where h is the part of the line
    that is orthogonal to z. Long lines have more weight than short ones, and frames in which the recording swaps left
    and right do not cancel the others. The sign is that of the sum of all h.

    Returns:
        A vector with the root mean square length of h. It is zero if h is negligible beside the line.
    """
    # A basis of the plane, from the camera axis that is not nearly parallel to z.
    e = _orthogonal((1.0, 0.0, 0.0) if abs(z[0]) < 0.9 else (0.0, 1.0, 0.0), z)
    e = _divided(e, _length(e))
    f = _cross(z, e)
    whole = ee = ef = ff = e_sum = f_sum = 0.0
    for p in range(leading.shape[0]):
        line = _bone(leading, p, joints[0], joints[1])
        along_e, along_f = _dot(line, e), _dot(line, f)
        whole += _dot(line, line)
        ee += along_e * along_e
        ef += along_e * along_f
        ff += along_f * along_f
        e_sum += along_e
        f_sum += along_f
    if ee + ff < LEAST_ACROSS * LEAST_ACROSS * whole:
        return 0.0, 0.0, 0.0
    # Eigenvectors of the symmetric matrix [[ee, ef], [ef, ff]]; of the two formulas, the one without cancellation.
    half = (ee - ff) / 2
    radius = math.hypot(half, ef)
    if radius <= LEAST_ACROSS * (ee + ff):
        a, b = e_sum, f_sum  # no principal direction: the mean
    elif half >= 0:
        a, b = half + radius, ef
    else:
        a, b = ef, radius - half
    length = math.hypot(a, b)
    if length == 0:
        return 0.0, 0.0, 0.0
    factor = math.sqrt((ee + ff) / leading.shape[0]) / length
    if a * e_sum + b * f_sum < 0:
        factor = -factor
    return (
        factor * (a * e[0] + b * f[0]),
        factor * (a * e[1] + b * f[1]),
        factor * (a * e[2] + b * f[2]),
    )


@_compiled
def find_robust_transform(leading, center, top, ankles, shoulders, bones, share, origin, rotation):
    """The normalization of a clip from all frames of its first person; see `psptool.preparation.normalize`.

    Args:
        leading: float32 (P, V, 3), metres, frames in which the first person is present.
        center: Joint that becomes the origin.
        top: Joint at the upper end of the spine.
        ankles: Both ankles.
        shoulders: (from, to) joints of the shoulder line.
        bones: int64 (V - 1, 2), the joints of each bone.
        share: The unit, as a fraction of the summed length of all bones.
        origin: float64 (3,), output.
        rotation: float64 (3, 3), output; the identity on input.

    Returns:
        Scale in metres per unit, and the bit flags of what is undefined.
    """
    for c in range(3):
        origin[c] = leading[0, center, c]
    size, lacking = _median_size(leading, bones), 0
    scale = size * share
    if size == 0:
        scale, lacking = 1.0, NO_LENGTH
    one = _mean_bone(leading, 0, leading.shape[0], (ankles[0], top))
    other = _mean_bone(leading, 0, leading.shape[0], (ankles[1], top))
    up = ((one[0] + other[0]) / 2, (one[1] + other[1]) / 2, (one[2] + other[2]) / 2)
    length = _length(up)
    if length < SHORTEST_BONE:
        return scale, lacking | NO_SPINE
    return scale, lacking | _axes(up, _principal_line(leading, shoulders, _divided(up, length)), rotation)


@_compiled
def apply_transform(xyz, present, origin, scale, rotation, joint):
    """Normalize positions: rotation @ (xyz - origin) / scale; zero where the person is absent.

    Args:
        xyz: float32 (M, T, V, 3), metres.
        present: bool (M, T).
        origin: float64 (3,), metres.
        scale: Metres per unit.
        rotation: float64 (3, 3).
        joint: float32 (M, T, V, 3), output.

    Returns:
        The largest absolute coordinate; infinity if a coordinate is not finite.
    """
    # Rotation and scale in one matrix, so that each coordinate is rounded once, when it is stored as float32.
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
                    if not abs(value) <= largest:  # also for NaN, which is larger than nothing
                        largest = abs(value) if abs(value) > largest else np.float32(np.inf)
    return largest


def call_each() -> None:
    """Call each function that every preparation uses once, on a clip of one frame, so that it is loaded or compiled."""
    xyz, origin, rotation = np.zeros((1, 2, 3), np.float32), np.zeros(3), np.eye(3)
    owner, ids = np.empty(1, np.int32), np.empty(MOST_TRACKS, np.int64)
    assign_tracks(np.zeros(1, np.int32), np.zeros(1, np.int64), xyz, owner, ids)
    spread_and_motion(xyz, 1.0)
    find_transform(xyz, 0, (0, 1), (0, 1), 1, origin, rotation)
    find_robust_transform(xyz, 0, 1, (0, 0), (0, 1), np.zeros((1, 2), np.int64), 1.0, origin, rotation)
    persons = xyz[np.newaxis]
    apply_transform(persons, np.ones((1, 1), bool), origin, 1.0, rotation, np.empty_like(persons))
