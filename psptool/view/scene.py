"""A clip in one or two coordinate systems, and its encoding as JSON for pages.

Notation for array shapes: M persons, T frames, V joints.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psptool.data.store.arrays import PreparedClip
from psptool.schemas.timeline import PredictedWindow
from psptool.skeletons.derive import words
from psptool.skeletons.keys import UpAxis
from psptool.skeletons.topology import Topology
from psptool.view.maps import ClipAttention, packed_attention
from psptool.view.timeline import class_colours, timeline_data

AXES = {
    "y": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "z": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "-y": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
}
"""Unit vectors to the right, up and to the viewer, by vertical axis; left and right are not mirrored."""
YAW, PITCH = 0.45, 0.16
"""Initial direction of view, in radians."""
NOWHERE = -32768
"""Value of a joint without a position; `player.js` has the same constant."""
LARGEST = 32767


@dataclass(frozen=True)
class Scene:
    """All bodies of a clip in one coordinate system.

    Attributes:
        title: Name of the coordinate system: recorded or normalized.
        up: The vertical axis.
        unit: Unit of the positions.
        xyz: Positions float (M, T, V, 3), NaN for a missing joint.
        present: bool (M, T), whether a body is in a frame.
        state: uint8 (M, T, V), tracking state of each joint.
        kept: Whether the preparation keeps each body as a person, M values.
    """

    title: str
    up: UpAxis
    unit: str
    xyz: NDArray[np.floating]
    present: NDArray[np.bool_]
    state: NDArray[np.uint8]
    kept: tuple[bool, ...]


@dataclass(frozen=True)
class ViewedClip:
    """A clip with everything that a page shows of it.

    Attributes:
        topology: Topology of the skeleton.
        action: Class name from the clip name; empty if unknown.
        prepared: The prepared clip, which is the input of the network.
        scenes: The recorded scene, if available, then the normalized scene; T frames each.
        top: Predicted classes and their probabilities, the most probable first.
        attention: Attention maps of a run.
        notes: Notes of the preparation.
        frame_rate: Frames per second.
        windows: The windows of a long recording with their predictions.
    """

    topology: Topology
    action: str
    prepared: PreparedClip
    scenes: tuple[Scene, ...]
    top: tuple[tuple[str, float], ...] = ()
    attention: ClipAttention | None = None
    notes: tuple[str, ...] = ()
    frame_rate: float = 30
    windows: tuple[PredictedWindow, ...] = ()

    @property
    def name(self) -> str:
        """The clip's name."""
        return self.prepared.name

    @property
    def frames(self) -> int:
        """Number of frames T."""
        return self.prepared.frames


def normalized_scene(clip: PreparedClip, up: UpAxis) -> Scene:
    """The prepared clip, as in the input of the network.

    Args:
        clip: The clip.
        up: Vertical axis of the positions.
    """
    xyz = np.where(clip.present[..., None, None], clip.joint, np.nan)
    kept = (True,) * clip.persons
    return Scene("normalized", up, "spines", xyz, clip.present, clip.state, kept)


def recorded_scene(clip: PreparedClip, up: UpAxis, unit: str = "m") -> Scene:
    """The persons of a prepared clip in camera coordinates, in ``unit``; ``up`` is the vertical axis."""
    xyz = clip.joint.astype(np.float64) * clip.scale @ clip.rotation + clip.origin
    xyz[~clip.present] = np.nan
    return Scene("recorded", up, unit, xyz, clip.present, clip.state, (True,) * clip.persons)


def head_of(topology: Topology) -> int:
    """The joint drawn as a disc: the head, otherwise the nose; -1 if no bone ends at either."""
    ends = {child for _, child in topology.bones}
    found = (n for word in ("head", "nose") for n in sorted(ends) if word in words(topology.joints[n]))
    return next(found, -1)


def page_data(clips: Sequence[ViewedClip]) -> dict[str, Any]:
    """The JSON for `player.js`: scenes, topologies and the initial view."""
    topologies = {clip.topology.name: _topology_data(clip.topology) for clip in clips}
    shared = {"axes": AXES, "view": {"yaw": YAW, "pitch": PITCH, "zoom": 1}}
    colours = class_colours([clip.windows for clip in clips])
    return {**shared, "topologies": topologies, "clips": [_clip_data(clip, colours) for clip in clips]}


def rounding(clips: Sequence[ViewedClip]) -> float:
    """Largest rounding error of recorded positions on a page, in metres."""
    steps = [_grid(scene)[1] for clip in clips for scene in clip.scenes if scene.unit == "m"]
    return max(steps, default=0.0) / 2


def _clip_data(clip: ViewedClip, colours: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": clip.name,
        "topology": clip.topology.name,
        "frames": clip.frames,
        "fps": clip.frame_rate,
        "scenes": [_scene_data(scene) for scene in clip.scenes],
        "attention": None if clip.attention is None else packed_attention(clip.attention),
        "timeline": timeline_data(clip.windows, clip.frames, colours) if clip.windows else None,
    }


def _topology_data(topology: Topology) -> dict[str, Any]:
    return {
        "joints": topology.joints,
        "flat": topology.dimensions == 2,
        "bones": topology.bones,
        "head": head_of(topology),
        "levels": {
            level: [(group.name, group.joints) for group in groups]
            for level, groups in topology.levels.items()
        },
    }


def _scene_data(scene: Scene) -> dict[str, Any]:
    middle, step = _grid(scene)
    # Rounded first, so that no position becomes `NOWHERE`.
    numbers = np.rint((scene.xyz - middle) / step)
    numbers = np.where(np.isfinite(numbers), numbers, NOWHERE).astype("<i2")
    states = np.unique(scene.state)
    return {
        "title": scene.title,
        "up": scene.up,
        "persons": len(scene.kept),
        "kept": scene.kept,
        "middle": middle.tolist(),
        "step": step,
        "xyz": encoded(numbers),
        "present": encoded(scene.present),
        "state": int(states[0]) if len(states) == 1 else encoded(scene.state),
    }


def _grid(scene: Scene) -> tuple[NDArray[np.float64], float]:
    """Centre (3,) and step of the 16-bit grid to which the positions of a scene are rounded."""
    valid = scene.xyz[np.isfinite(scene.xyz).all(axis=-1)].astype(np.float64)
    if not len(valid):
        return np.zeros(3), 1.0
    low, high = valid.min(axis=0), valid.max(axis=0)
    return (low + high) / 2, float(max((high - low).max() / 2, 1e-6) / LARGEST)


def encoded(array: NDArray[Any]) -> str:
    """The bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
