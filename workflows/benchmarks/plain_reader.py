"""Baseline preparation of an NTU clip in the style of published scripts.

The file is read line by line into dictionaries, each field with ``float``, and the rotation is a Python loop over
persons, frames and joints. The result is comparable with psptool's defaults: tracks by body id, tested and joined as in
CTR-GCN's preparation, ``align: body``. Lines are not checked and no file is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

JOINT_FIELDS = (
    "x",
    "y",
    "z",
    "depthX",
    "depthY",
    "colorX",
    "colorY",
    "qw",
    "qx",
    "qy",
    "qz",
    "trackingState",
)
BODY_FIELDS = (
    "bodyID", "clippedEdges", "handLeftConfidence", "handLeftState", "handRightConfidence", "handRightState",
    "isRestricted", "leanX", "leanY", "trackingState",
)  # fmt: skip
JOINTS = 25


def prepare(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recorded positions, joint and motion stream of a clip, each (M, T, V, 3); zero for absent persons."""
    frames = read_skeleton(path)
    bodies = choose(collect(frames))
    data = np.zeros((len(bodies), len(frames), JOINTS, 3))
    for m, body in enumerate(bodies):
        for t, joints in body.items():
            data[m, t] = joints
    joint = normalize(data).astype(np.float32)
    return data, joint, differences(joint, data)


def read_skeleton(path: Path) -> list[dict[str, Any]]:
    """The file as nested dictionaries of frames, bodies and joints."""
    with path.open() as file:
        frames = []
        for _ in range(int(file.readline())):
            frame: dict[str, Any] = {"bodyInfo": []}
            for _ in range(int(file.readline())):
                fields = file.readline().split()
                body: dict[str, Any] = dict(zip(BODY_FIELDS[1:], map(float, fields[1:]), strict=True))
                body["bodyID"] = fields[0]
                body["jointInfo"] = []
                for _ in range(int(file.readline())):
                    body["jointInfo"].append(
                        dict(zip(JOINT_FIELDS, map(float, file.readline().split()), strict=True))
                    )
                frame["bodyInfo"].append(body)
            frames.append(frame)
    return frames


def collect(frames: list[dict[str, Any]]) -> list[dict[int, np.ndarray]]:
    """Joints (V, 3) by frame, for each body id, rounded to the float32 of the sensor."""
    bodies: dict[str, dict[int, np.ndarray]] = {}
    for t, frame in enumerate(frames):
        for body in frame["bodyInfo"]:
            joints = np.array(
                [[joint["x"], joint["y"], joint["z"]] for joint in body["jointInfo"]], dtype=np.float32
            )
            bodies.setdefault(body["bodyID"], {})[t] = joints.astype(np.float64)
    return list(bodies.values())


def choose(bodies: list[dict[int, np.ndarray]]) -> list[dict[int, np.ndarray]]:
    """Select at most two persons: drop short and spread tracks, order by motion, join tracks that do not overlap."""
    measured = []
    for body in bodies:
        joints = np.array(list(body.values()))
        extent = np.ptp(joints, axis=1)
        calm = extent[:, 0] <= 0.8 * extent[:, 1]
        motion = joints.reshape(-1, 3).var(axis=0).sum()
        if calm.any():
            motion = min(motion, joints[calm].reshape(-1, 3).var(axis=0).sum())
        measured.append((float(motion), float(1 - calm.mean()), body))
    for unfit in (lambda one: len(one[2]) <= 11, lambda one: one[1] >= 0.69754):
        for one in [one for one in measured if unfit(one)][: len(measured) - 1]:
            measured.remove(one)
    persons: list[dict[int, np.ndarray]] = []
    for _, _, body in sorted(measured, key=lambda one: -one[0]):
        free = [person for person in persons if not set(person) & set(body)]
        if free:
            free[0].update(body)
        elif len(persons) < 2:
            persons.append(dict(body))
    return persons


def normalize(data: np.ndarray) -> np.ndarray:
    """Centre, scale and rotate (M, T, V, 3) by the first frames of the leading person, one joint at a time."""
    present = [t for t in range(data.shape[1]) if data[0, t].any()]
    origin = data[0, present[0], 0]
    scale = np.linalg.norm(data[0, present[0], 20] - origin)
    z = np.mean([data[0, t, 20] - data[0, t, 0] for t in present[:5]], axis=0)
    z = z / np.linalg.norm(z)
    x = np.mean([data[0, t, 4] - data[0, t, 8] for t in present[:5]], axis=0)
    x = x - np.dot(x, z) * z
    x = x / np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    result = np.zeros_like(data)
    for m, person in enumerate(data):
        for t, frame in enumerate(person):
            if not frame.any():
                continue
            for v, joint in enumerate(frame):
                result[m, t, v] = np.dot(rotation, (joint - origin) / scale)
    return result


def differences(joint: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Next frame minus this frame; zero if the person is absent in either."""
    motion = np.zeros_like(joint)
    for m in range(joint.shape[0]):
        for t in range(joint.shape[1] - 1):
            if data[m, t].any() and data[m, t + 1].any():
                motion[m, t] = joint[m, t + 1] - joint[m, t]
    return motion
