"""Simulation of a depth camera: viewpoint, noise, inferred joints, body ids, gaps and false detections.

A recording is determined by its clip name and a seed. The three cameras of one performance record the same movement, as
in NTU RGB+D: camera 1 at 45 degrees to the person, cameras 2 and 3 from the front and from the side, exchanged between
the repetitions. A setup determines height and distance of the cameras, a subject the bone lengths.

Array shapes: B body detections (one body in one frame), M persons, T frames, V joints.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.spatial.transform import Rotation

from psptool.formats.synthesis.actions import NTU_ACTIONS, UCLA_ACTIONS, perform
from psptool.formats.synthesis.bodies import Array, move, offsets
from psptool.formats.synthesis.style import Action
from psptool.schemas.builtin import builtin_dataset
from psptool.skeletons.keys import ClipKey

FRAME_RATE = 30
"""Frames per second of Kinect v1 and v2."""
FIRST_ID = 2**56
"""First body id, as with Kinect. Neighbouring ids of this size are equal after conversion to float64."""

_AZIMUTH = {1: 0.0, 2: 45.0, 3: -45.0}
_CENTRE_HEIGHT = 0.95
_HANDS_AND_FEET = (6, 7, 10, 11, 14, 15, 18, 19, 21, 22, 23, 24)


@dataclass(frozen=True)
class Faults:
    """Kinds and rates of sensor errors.

    Attributes:
        gap: Fraction of bodies that are lost for some frames.
        new_id: Fraction of lost bodies that reappear with another id.
        ghost: Fraction of one-person clips with a false detection, such as furniture.
        empty_start: Fraction of clips that begin with frames without a body.
        noise: Standard deviation of the independent error per frame, in metres.
        drift: Standard deviation of a slowly changing error, in metres.
        inferred: Fraction of frames in which a visible joint is inferred; higher for hidden joints, hands and feet.
        inferred_error: Standard deviation of the additional error of inferred joints, in metres.
    """

    gap: float = 0.06
    new_id: float = 0.3
    ghost: float = 0.08
    empty_start: float = 0.02
    noise: float = 0.008
    drift: float = 0.018
    inferred: float = 0.015
    inferred_error: float = 0.07

    @classmethod
    def none(cls) -> Faults:
        """No sensor errors."""
        return cls(0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Recording:
    """One simulated recording.

    Attributes:
        name: The clip's name.
        key: The numbers in the name.
        frames: T, including frames without a body.
        frame: int64 (B,), 0-based frame of each detection, ascending.
        body: int64 (B,), body ids.
        xyz: float64 (B, V, 3), metres, camera coordinates: x to the camera's left, y up, z away from the camera.
        state: uint8 (B, V), 1 inferred or 2 tracked.
        quaternion: float64 (B, V, 4), orientation of each bone in camera coordinates, w first.
    """

    name: str
    key: ClipKey
    frames: int
    frame: NDArray[np.int64]
    body: NDArray[np.int64]
    xyz: Array
    state: NDArray[np.uint8]
    quaternion: Array


@dataclass(frozen=True)
class _Track:
    """A body as detected by the sensor: ids (T,), present (T,), xyz (T, V, 3), state (T, V), quaternion (T, V, 4)."""

    ids: NDArray[np.int64]
    present: NDArray[np.bool_]
    xyz: Array
    state: NDArray[np.uint8]
    quaternion: Array


def generator(seed: int, *what: object) -> np.random.Generator:
    """A random generator seeded with a hash of ``seed`` and ``what``; the same on every machine."""
    text = "\n".join(("psptool-synthesis-1", str(seed), *map(str, what)))
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")))


def record(name: str, seed: int = 0, faults: Faults | None = None, frames: int | None = None) -> Recording:
    """Generate the recording of the clip ``name``.

    Args:
        name: A clip name of NTU or NW-UCLA; its action determines the movement.
        seed: Random seed. The same name and seed give the same recording.
        faults: Sensor errors; realistic ones if None.
        frames: T; if None, the action's random duration at 30 frames per second.

    Raises:
        ValueError: The name is not a clip name of NTU or NW-UCLA, or its action is not implemented.
    """
    faults = faults or Faults()
    key, action = _action(name)
    # This generator does not depend on the camera: all cameras record the same performance.
    performance = generator(seed, "performance", key.label, key.subject, key.setup, key.repetition)
    seconds = performance.uniform(*action.seconds)
    count = frames or round(seconds * FRAME_RATE)
    poses = perform(action, count, seconds, performance)
    subjects = [key.subject, 1000 + int(performance.integers(40))]
    builds = [offsets(generator(seed, "subject", subject)) for subject in subjects]
    moved = [move(bones, pose) for bones, pose in zip(builds, poses, strict=False)]
    facing = _facing(key, action, performance)
    rng = generator(seed, "camera", name)
    position, turn = _camera(key, generator(seed, "setup", key.setup), rng)
    turned = turn @ _about_y(facing)
    seen = [(xyz @ turned.T - turn @ position, turned @ rotation) for xyz, rotation in moved]
    tracks = [_sensor(xyz, rotation, faults, rng) for xyz, rotation in seen]
    return _detections(name, key, _faulty(tracks, faults, rng))


def _action(name: str) -> tuple[ClipKey, Action]:
    ntu, ucla = builtin_dataset("ntu120").parse(name), builtin_dataset("ucla").parse(name)
    if ntu is not None and ntu.label + 1 in NTU_ACTIONS:
        return ntu, NTU_ACTIONS[ntu.label + 1]
    if ucla is not None:
        return ucla, UCLA_ACTIONS[ucla.label]
    known = ", ".join(f"A{number:03d}" for number in NTU_ACTIONS)
    raise ValueError(
        f"no synthetic action for the clip name {name!r}; expected a name of NW-UCLA, or of NTU with one of {known}"
    )


def _facing(key: ClipKey, action: Action, rng: np.random.Generator) -> float:
    """Rotation of the scene about the vertical axis in degrees; 0 faces camera 1."""
    towards = 45.0 if key.repetition % 2 else -45.0
    across = 90.0 * rng.choice((-1, 1)) if action.persons == 2 else 0.0
    return towards + across + rng.normal(0, 12)


def _camera(key: ClipKey, setup: np.random.Generator, rng: np.random.Generator) -> tuple[Array, Array]:
    """Position (3,) of the camera in the scene, and rotation (3, 3) from scene to camera coordinates."""
    height, distance = setup.uniform(0.6, 2.2), setup.uniform(2.6, 4.2)
    azimuth = np.radians(_AZIMUTH.get(key.camera, 0.0) + rng.normal(0, 4))
    position = np.array([np.sin(azimuth), 0, np.cos(azimuth)]) * distance + rng.normal(0, 0.1, 3)
    position[1] = height
    away = np.array([0, _CENTRE_HEIGHT, 0]) - position
    away /= np.linalg.norm(away)
    left = np.cross([0, 1, 0], away)
    left /= np.linalg.norm(left)
    roll = Rotation.from_rotvec(away * rng.normal(0, 0.02)).as_matrix()
    return position, np.stack([left, np.cross(away, left), away]) @ roll


def _about_y(degrees: float) -> Array:
    matrix: Array = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    return matrix


def _sensor(xyz: Array, rotation: Array, faults: Faults, rng: np.random.Generator) -> _Track:
    """Add sensor errors to the true positions (T, V, 3); rotation is (T, V, 3, 3). Both are in camera coordinates."""
    frames, joints = xyz.shape[:2]
    wander = _wander(rng, (frames, joints, 3), 0.9) * faults.drift
    inferred = _inferred(xyz, faults, rng)
    lost = _wander(rng, (frames, joints, 3), 0.8) * inferred[..., None] * faults.inferred_error
    noise = rng.normal(0, 1, xyz.shape) * faults.noise
    turned: Array = Rotation.from_matrix(rotation.reshape(-1, 3, 3)).as_quat()
    return _Track(
        ids=np.full(frames, FIRST_ID, np.int64),
        present=np.ones(frames, np.bool_),
        xyz=xyz + wander + lost + noise,
        state=np.where(inferred, 1, 2).astype(np.uint8),
        quaternion=np.roll(turned, 1, axis=1).reshape(frames, joints, 4),
    )


def _wander(rng: np.random.Generator, shape: tuple[int, ...], memory: float) -> Array:
    """A first-order autoregressive process of unit variance along the first axis; ``memory`` is its coefficient."""
    steps = rng.normal(0, (1 - memory**2) ** 0.5, shape)
    steps[0] /= (1 - memory**2) ** 0.5
    walked: Array = lfilter([1.0], [1.0, -memory], steps, axis=0)
    return walked


def _inferred(xyz: Array, faults: Faults, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether a joint is inferred, bool (T, V): most often joints behind the trunk, then hands and feet."""
    trunk = xyz[:, [0, 1, 20]].mean(axis=1, keepdims=True)
    behind = (xyz[..., 2] - trunk[..., 2] > 0.08) & (np.abs(xyz[..., 0] - trunk[..., 0]) < 0.16)
    level = np.where(behind, 30, 1) * np.ones(xyz.shape[1])
    level[:, list(_HANDS_AND_FEET)] *= 2
    share = np.minimum(faults.inferred * level, 0.9)
    slow = (1 + np.tanh(1.5 * _wander(rng, xyz.shape[:2], 0.9))) / 2
    return slow < share


def _faulty(tracks: list[_Track], faults: Faults, rng: np.random.Generator) -> list[_Track]:
    """Assign body ids; add gaps, false detections and empty frames at the start, with the rates of ``faults``."""
    first = FIRST_ID + int(rng.integers(1, 20_000))
    frames = tracks[0].ids.size
    for number, track in enumerate(tracks):
        track.ids[:] = first + number
        if rng.random() < faults.gap and frames > 20:
            begin = int(rng.integers(3, frames - 12))
            end = begin + int(rng.integers(2, 10))
            track.present[begin:end] = False
            if rng.random() < faults.new_id:
                track.ids[end:] = first + len(tracks) + number
    if len(tracks) == 1 and rng.random() < faults.ghost:
        tracks = [*tracks, _ghost(tracks[0], first + 100, rng)]
    if rng.random() < faults.empty_start and frames > 20:
        begin = int(rng.integers(1, 6))
        for track in tracks:
            track.present[:begin] = False
    return tracks


def _ghost(person: _Track, number: int, rng: np.random.Generator) -> _Track:
    """A false detection, such as furniture: wide, low, nearly still, and present for part of the clip."""
    frames, joints = person.state.shape
    shape = rng.normal(0, 1, (joints, 3)) * (0.45, 0.14, 0.1)
    aside = (rng.choice((-1, 1)) * rng.uniform(0.7, 1.3), rng.uniform(-0.6, 0), 0.4)
    place = person.xyz[0, 0] + np.array(aside)
    present = np.zeros(frames, np.bool_)
    begin = int(rng.integers(0, max(frames // 2, 1)))
    present[begin : begin + int(rng.integers(5, frames + 6))] = True
    return _Track(
        ids=np.full(frames, number, np.int64),
        present=present,
        xyz=shape + place + _wander(rng, (frames, joints, 3), 0.7) * 0.01,
        state=rng.integers(1, 3, (frames, joints), dtype=np.uint8),
        quaternion=np.zeros((frames, joints, 4)),
    )


def _detections(name: str, key: ClipKey, tracks: list[_Track]) -> Recording:
    """Convert tracks to the sensor's list of detections, sorted by frame."""
    present = np.stack([track.present for track in tracks], axis=1)
    frame, who = np.nonzero(present)
    return Recording(
        name,
        key,
        present.shape[0],
        frame,
        np.stack([track.ids for track in tracks])[who, frame],
        np.stack([track.xyz for track in tracks])[who, frame],
        np.stack([track.state for track in tracks])[who, frame],
        np.stack([track.quaternion for track in tracks])[who, frame],
    )
