"""Synthetic annotations in PYSKL's format."""

import pickle

import numpy as np

NTU = [f"S001C00{c}P00{p}R001A007" for c in (1, 2, 3) for p in (1, 3)]


def motion(persons=1, frames=6, joints=25, seed=0):
    """Positions (M, T, V, 3) of random bodies with small random motion."""
    rng = np.random.default_rng(seed)
    body = rng.normal((0, 0, 3), size=(persons, 1, joints, 3))
    return (body + 0.01 * rng.normal(size=(persons, frames, joints, 3))).astype(np.float32)


def annotation(name, label=6, keypoint=None, **changes):
    keypoint = motion() if keypoint is None else keypoint
    frames = keypoint.shape[1] if keypoint.ndim > 1 else 0
    return {"frame_dir": name, "total_frames": frames, "label": label, "keypoint": keypoint} | changes


def without(item, key):
    return {name: value for name, value in item.items() if name != key}


def saved(path, annotations, split=None, protocol=4):
    path.write_bytes(pickle.dumps({"split": split or {}, "annotations": annotations}, protocol))
    return path
