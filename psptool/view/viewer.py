"""The page of ``psptool view``: animated skeletons of clips, with the predictions of a model."""

from __future__ import annotations

from collections.abc import Sequence

from psptool.common.text import counted
from psptool.formats.readers.base import STATE_UNKNOWN
from psptool.view.page import render
from psptool.view.scene import ViewedClip, page_data, rounding

PLAYER, ATTENTION, TIMELINE = "player.js", "attention.js", "timeline.js"
STATES = (
    (2, "tracked", "tracked"),
    (1, "inferred", "inferred"),
    (0, "lost", "not tracked"),
    (STATE_UNKNOWN, "unknown", "state unknown"),
)
"""Tracking states of joints: value in the raw formats, colour name, label."""
KEYS = (
    "double-click to reset the view, click and use the wheel to zoom. Keys: space plays and pauses, "
    "← and → step one frame, Home and End go to the first and last frame, + and − zoom, 0 resets the view."
)

WINDOWS = (
    "The timeline has one bar per window: its colour is the most probable class, its height the probability. "
    "Click it to go to that time."
)


def viewer_page(title: str, lead: str, clips: Sequence[ViewedClip]) -> str:
    """The page that shows ``clips``.

    Args:
        title: Heading, plain text.
        lead: Text below the heading, plain text.
        clips: The clips, in the order of the page.
    """
    scripts = [PLAYER]
    if any(clip.attention is not None for clip in clips):
        scripts.append(ATTENTION)
    if any(clip.windows for clip in clips):
        scripts.append(TIMELINE)
    cards = [{"heading": heading(clip), "facts": facts(clip), "predicted": predicted(clip)} for clip in clips]
    return render(
        "viewer.html",
        title,
        lead=lead,
        scripts=scripts,
        data=page_data(clips),
        entries=legend(clips),
        note=note(clips),
        cards=cards,
    )


def heading(clip: ViewedClip) -> str:
    """Name and action of a clip, or only the name if the action is unknown."""
    return f"{clip.name}: {clip.action}" if clip.action else clip.name


def predicted(clip: ViewedClip) -> list[tuple[str, float, bool]]:
    """Predicted classes of a clip, their probabilities, and whether each is the true class."""
    return [(name, probability, name == clip.action) for name, probability in clip.top]


def facts(clip: ViewedClip) -> list[str]:
    """Frames, persons, numbers in the clip name, and notes of the preparation."""
    key = clip.prepared.key
    texts = [
        f"{counted(clip.frames, 'frame')} at {clip.frame_rate:g} frames/s",
        counted(clip.prepared.persons, "person"),
    ]
    fields = (
        ("subject", key.subject),
        ("camera", key.camera),
        ("setup", key.setup),
        ("repetition", key.repetition),
    )
    texts += [f"{field} {value}" for field, value in fields if value >= 0]
    if clip.windows:
        texts.append(counted(len(clip.windows), "window"))
    return [*texts, *clip.notes]


def legend(clips: Sequence[ViewedClip]) -> list[tuple[str, str, bool]]:
    """Colour, name, and whether it is the colour of bones, for the persons and joint states in ``clips``."""
    persons = max((clip.prepared.persons for clip in clips), default=0)
    entries = [(f"person{n % 4}", f"person {n + 1}", True) for n in range(persons)]
    if any(not all(scene.kept) for clip in clips for scene in clip.scenes):
        entries.append(("dropped", "dropped body", True))
    states = {
        int(value)
        for clip in clips
        for scene in clip.scenes
        for value in set(scene.state[scene.present].flat)
    }
    return entries + [(colour, f"joint {name}", False) for value, colour, name in STATES if value in states]


def note(clips: Sequence[ViewedClip]) -> str:
    """Controls of the player, floor grid, and rounding of the positions."""
    rounded = (
        f" Recorded positions are rounded to {1000 * rounding(clips):.2f} mm." if rounding(clips) else ""
    )
    in_3d = any(clip.topology.dimensions == 3 for clip in clips)
    floor = " Floor grid: 0.5 m in recorded scenes, 0.5 units in normalized scenes." if in_3d else ""
    timeline = f" {WINDOWS}" if any(clip.windows for clip in clips) else ""
    keys = f"Drag to rotate, {KEYS}" if in_3d else f"{KEYS[0].upper()}{KEYS[1:]}"
    return f"{keys}{timeline}{floor}{rounded}"
