"""How much do two cameras that record the same performance differ after alignment? NW-UCLA, without labels.

    python workflows/benchmarks/alignment.py RAW [--views 1 2]

RAW is the folder of JSON files. Clips with the same action, subject and episode in both views are a pair. Clips whose
coordinates occur under several names are left out. For each estimator of the body's axes, the residual rotation from
the aligned clip of one view to that of the other is printed, in degrees (median, 75th and 90th percentile), with its
yaw (rotation about the vertical axis) and tilt (angle between the vertical axes). It is measured in two ways:

- *fitted*: the rotation that best maps one aligned clip onto the other (Kabsch 1976), joints relative to the center
  joint, both clips resampled to the same number of frames. Noise of the pose is in it, and an error that the sensor
  makes in all joints is not.
- *camera*: the rotation that remains if the rotation between the two cameras is known. It is the robust mean of the
  fitted rotations over the clips of one subject, because the cameras did not move during a session.

In many pairs, the two clips are not the same performance: episodes or their limits differ. A pair is matched if the net
displacement of the center joint, mapped by the camera rotation, and the length agree. View 3 is the usual test camera:
do not choose an alignment by it.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psptool.formats.readers.sources import find_clips, read_clip
from psptool.formats.readers.ucla import UclaJsonReader
from psptool.preparation.normalize import find_transform
from psptool.preparation.selection import find_persons
from psptool.schemas.builtin import builtin_dataset
from psptool.schemas.dataset import PreparationSettings, prepared_up

UCLA = builtin_dataset("ucla")
UCLA20 = UCLA.topology
Array = NDArray[np.float64]
Estimator = Callable[[NDArray[np.float32]], tuple[Array, float]]
"""Maps positions (T, V, 3) to the rotation (3, 3), whose rows are the body's axes, and the scale."""

FRAMES = 64
MATCHED_METRES, MATCHED_LENGTHS = 0.6, 2.5
FLIPPED = 120
HIPS, KNEES = (16, 12), (13, 17)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path, help="folder of the NW-UCLA JSON files")
    parser.add_argument("--views", type=int, nargs=2, default=(1, 2), help="the two cameras")
    arguments = parser.parse_args()
    pairs = read_pairs(arguments.raw, *arguments.views)
    fitted = np.array([fit(resampled(one), resampled(other)) for one, other in pairs.values()])
    camera = camera_rotations(fitted, [name[4:7] for name in pairs])
    matched = np.array(
        [same_path(*pair, rotation) for pair, rotation in zip(pairs.values(), camera, strict=True)]
    )
    print(
        f"{len(pairs)} pairs of views {arguments.views[0]} and {arguments.views[1]}, {matched.sum()} matched"
    )
    print(
        f"Columns: 50, 75, 90 % in degrees; flips: yaw above {FLIPPED}; unit: sd of the log ratio of the scales"
    )
    heads = ("all: rotation", "matched: rotation", "yaw", "tilt", "by camera: yaw", "tilt")
    print(f"{'axes':34}" + "".join(f"{head:>20}" for head in heads) + f"{'flips':>7}{'unit':>7}")
    for name, estimator in estimators().items():
        ones, others = ([estimator(pair[view]) for pair in pairs.values()] for view in (0, 1))
        before, after = (np.array([rotation for rotation, _ in found]) for found in (ones, others))
        ratio = np.log([one / other for (_, one), (_, other) in zip(ones, others, strict=True)])
        left = (
            after @ fitted @ before.transpose(0, 2, 1)
        )  # (N, 3, 3): aligned clip of one view to that of the other
        by_camera = (after @ camera @ before.transpose(0, 2, 1))[matched]
        columns = (
            angle(left),
            *(measure(left[matched]) for measure in (angle, yaw, tilt)),
            *(measure(by_camera) for measure in (yaw, tilt)),
        )
        flips = int((yaw(left[matched]) > FLIPPED).sum())
        print(
            f"{name:34}" + "".join(percentiles(column) for column in columns) + f"{flips:7}{ratio.std():7.3f}"
        )


def read_pairs(
    folder: Path, first: int, second: int
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The positions (T, V, 3) in the two views, by ``aNN_sNN_eNN``; only clips with unique coordinates."""
    reader, settings = UclaJsonReader(), PreparationSettings()
    sources, _ = find_clips([folder], reader)
    clips = {}
    for source in sources:
        persons = find_persons(reader.parse(source, read_clip(source)), UCLA20, settings)
        clips[source.name] = persons.xyz[0, persons.present[0]]
    copies = Counter(xyz.tobytes() for xyz in clips.values())
    views: dict[str, dict[int, NDArray[np.float32]]] = defaultdict(dict)
    for name, xyz in clips.items():
        key = UCLA.parse(name)
        if key is not None and copies[xyz.tobytes()] == 1:
            views[name[:11]][key.camera] = xyz
    return {name: (of[first], of[second]) for name, of in sorted(views.items()) if {first, second} <= set(of)}


def estimators() -> dict[str, Estimator]:
    """The estimators by name: those of psptool, and variants over all frames."""
    found: dict[str, Estimator] = {
        f"--align {align}": prepared(PreparationSettings(align=align))
        for align in ("none", "released", "body", "robust")
    }
    low, high = UCLA20.spine
    right, left = UCLA20.shoulders

    def spine(x: Array) -> Array:
        return x[:, high] - x[:, low]

    def whole(x: Array) -> Array:
        return x[:, high] - x[:, UCLA20.ankles].mean(1)

    def head(x: Array) -> Array:
        return x[:, 3] - x[:, UCLA20.ankles].mean(1)

    def knees(x: Array) -> Array:
        return x[:, high] - x[:, KNEES].mean(1)

    def upright(x: Array) -> Array:
        line = whole(x)
        length = np.linalg.norm(line, axis=1)
        return line[length >= np.quantile(length, 0.75)]

    def camera(x: Array) -> Array:
        return np.array([[0.0, 1, 0]])

    def shoulders(x: Array) -> Array:
        return x[:, left] - x[:, right]

    def with_hips(x: Array) -> Array:
        return shoulders(x) + x[:, HIPS[1]] - x[:, HIPS[0]]

    found |= {
        "spine, shoulders: mean of 5": variant(lambda x: spine(x[:5]), lambda x: shoulders(x[:5])),
        "spine, shoulders: mean": variant(spine, shoulders),
        "spine, shoulders: mean directions": variant(lambda x: unit(spine(x)), lambda x: unit(shoulders(x))),
        "spine, shoulders: median": variant(spine, shoulders, geometric_median),
        "spine, shoulders: principal": variant(spine, shoulders, principal),
        "spine, shoulders and hips: mean": variant(spine, with_hips),
        "ankles, shoulders: mean": variant(whole, shoulders),
        "ankles, shoulders: principal": variant(whole, shoulders, principal),
        "ankles, shoulders, first 20 frames": variant(whole, lambda x: shoulders(x[:20]), principal),
        "ankles, shoulders and hips: mean": variant(whole, with_hips),
        "ankles to head, shoulders: mean": variant(head, shoulders),
        "knees, shoulders: mean": variant(knees, shoulders),
        "upright frames, shoulders: mean": variant(upright, shoulders),
        "camera's vertical, shoulders: mean": variant(camera, shoulders),
    }
    return found


def prepared(settings: PreparationSettings) -> Estimator:
    """The alignment of psptool, with the vertical axis as z."""
    to_z = (
        np.eye(3)
        if prepared_up(UCLA.up, settings.align) == "z"
        else np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    )

    def estimate(xyz: NDArray[np.float32]) -> tuple[Array, float]:
        transform = find_transform(xyz, UCLA20, settings)
        return to_z @ transform.rotation, transform.scale

    return estimate


def variant(
    up: Callable[[Array], Array],
    across: Callable[[Array], Array],
    average: Callable[[Array], Array] = lambda lines: lines.mean(0),
) -> Estimator:
    """Axes from the mean of ``up`` and from ``average`` of the horizontal part of ``across``; unit: mean spine.

    Args:
        up: Maps positions (T, V, 3) to vectors (n, 3) along the body.
        across: The same for vectors from right to left.
        average: Maps (n, 3) to one vector (3,).
    """

    def estimate(xyz: NDArray[np.float32]) -> tuple[Array, float]:
        joints = xyz.astype(np.float64)
        lines = up(joints)
        z = unit(geometric_median(unit(lines)) if average is geometric_median else lines.mean(0))
        sideways = across(joints)
        x = average(sideways - np.outer(sideways @ z, z))
        x = unit(x - (x @ z) * z)
        scale = np.linalg.norm(joints[:, UCLA20.spine[1]] - joints[:, UCLA20.spine[0]], axis=1).mean()
        return np.array([x, np.cross(z, x), z]), float(scale)

    return estimate


def unit(vectors: Array) -> Array:
    """Vectors (..., 3) with length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))


def geometric_median(lines: Array) -> Array:
    """Geometric median (3,) of the directions of (n, 3), by Weiszfeld's iteration."""
    directions = unit(lines)
    found = directions.mean(0)
    for _ in range(30):
        weights = 1 / np.maximum(np.linalg.norm(directions - found, axis=1), 1e-3)
        found = weights @ directions / weights.sum()
    return found


def principal(lines: Array) -> Array:
    """Principal direction (3,) of (n, 3), with the sign of the sum."""
    direction = np.linalg.svd(lines, full_matrices=False)[2][0]
    return np.asarray(direction * np.sign(lines.sum(0) @ direction))


def resampled(xyz: NDArray[np.float32]) -> Array:
    """Positions relative to the center joint at `FRAMES` evenly spaced times, (T, V, 3) -> (FRAMES, V, 3)."""
    relative = xyz.astype(np.float64) - xyz[:, UCLA20.center, None]
    times = ((np.arange(FRAMES) + 0.5) * len(xyz) / FRAMES - 0.5).clip(0, len(xyz) - 1)
    before = np.floor(times).astype(int)
    share = (times - before)[:, None, None]
    return np.asarray(relative[before] * (1 - share) + relative[(before + 1).clip(max=len(xyz) - 1)] * share)


def fit(one: Array, other: Array) -> Array:
    """The rotation (3, 3) that maps ``one`` best onto ``other``, both (T, V, 3)."""
    return nearest_rotation(other.reshape(-1, 3).T @ one.reshape(-1, 3))


def nearest_rotation(matrix: Array) -> Array:
    """The rotation R that maximizes the trace of R^T ``matrix``; shapes (3, 3)."""
    u, _, vt = np.linalg.svd(matrix)
    return np.asarray(u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt)


def camera_rotations(fitted: Array, subjects: list[str]) -> Array:
    """The rotation between the cameras for each clip, (N, 3, 3): the robust mean of ``fitted`` over the subject."""
    found = np.empty_like(fitted)
    for subject in set(subjects):
        chosen = np.array([one == subject for one in subjects])
        mean = nearest_rotation(fitted[chosen].sum(0))
        for _ in range(50):
            weights = 1 / (angle(fitted[chosen] @ mean.T) + 3)
            mean = nearest_rotation(np.tensordot(weights, fitted[chosen], 1))
        found[chosen] = mean
    return found


def same_path(one: NDArray[np.float32], other: NDArray[np.float32], rotation: Array) -> bool:
    """Whether two clips (T, V, 3) agree in length and in the net displacement of the center joint."""
    displacements = []
    for xyz in (one, other):
        ends, center = max(1, len(xyz) // 10), xyz[:, UCLA20.center].astype(np.float64)
        displacements.append(center[-ends:].mean(0) - center[:ends].mean(0))
    distance = np.linalg.norm(rotation @ displacements[0] - displacements[1])
    ratio = len(one) / len(other)
    return bool(distance < MATCHED_METRES and 1 / MATCHED_LENGTHS < ratio < MATCHED_LENGTHS)


def angle(rotations: Array) -> Array:
    """Angles (N,) of rotations (N, 3, 3), degrees."""
    return np.asarray(np.degrees(np.arccos(((np.trace(rotations, axis1=1, axis2=2) - 1) / 2).clip(-1, 1))))


def tilt(rotations: Array) -> Array:
    """Angles (N,) between the z axis and its image, degrees."""
    return np.asarray(np.degrees(np.arccos(rotations[:, 2, 2].clip(-1, 1))))


def yaw(rotations: Array) -> Array:
    """Absolute rotation about z (N,), degrees: the twist of the rotation's swing-twist decomposition."""
    sine, cosine = rotations[:, 1, 0] - rotations[:, 0, 1], 1 + np.trace(rotations, axis1=1, axis2=2)
    twist = 2 * np.degrees(np.arctan2(sine, cosine))
    return np.asarray(np.abs((twist + 180) % 360 - 180))


def percentiles(angles: Array) -> str:
    """50th, 75th and 90th percentile as text of 20 characters."""
    return "  " + "".join(f"{value:6.1f}" for value in np.percentile(angles, (50, 75, 90)))


if __name__ == "__main__":
    main()
