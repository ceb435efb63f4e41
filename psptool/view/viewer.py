"""The page of ``psptool view``: clips that play, turn and scrub, with a model's predictions."""

from __future__ import annotations

from collections.abc import Sequence

from psptool.formats.readers.base import STATE_UNKNOWN
from psptool.view.page import count, render
from psptool.view.scene import FPS, ViewedClip, page_data, rounding

PLAYER, ATTENTION = "player.js", "attention.js"
STATES = (
    (2, "tracked", "tracked"),
    (1, "inferred", "inferred"),
    (0, "lost", "not tracked"),
    (STATE_UNKNOWN, "unknown", "state unknown"),
)
"""Joint states as numbered in the raw formats: value, colour name, label."""
KEYS = (
    "Drag to rotate, double-click to reset, click and use the wheel to zoom. Keys: space plays and pauses, "
    "← → step one frame, Home and End go to the first and last frame, + and − zoom, 0 resets the view."
)


def viewer_page(title: str, lead: str, clips: Sequence[ViewedClip]) -> str:
    """The page that shows ``clips``.

    Args:
        title: Plain text.
        lead: Plain text under it.
        clips: In the order shown.
    """
    scripts = [PLAYER]
    if any(clip.attention is not None for clip in clips):
        scripts.append(ATTENTION)
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
    """The clip's name, and its action where the name says one."""
    return f"{clip.name}: {clip.action}" if clip.action else clip.name


def predicted(clip: ViewedClip) -> list[tuple[str, float, bool]]:
    """The clip's predicted classes and probabilities, and whether each is the true class."""
    return [(name, share, name == clip.action) for name, share in clip.top]


def facts(clip: ViewedClip) -> list[str]:
    """Frames, persons, and what the clip's name says."""
    key = clip.prepared.key
    said = [f"{count(clip.frames, 'frame')} at {FPS} frames/s", count(clip.prepared.persons, "person")]
    fields = (
        ("subject", key.subject),
        ("camera", key.camera),
        ("setup", key.setup),
        ("repetition", key.repetition),
    )
    said += [f"{field} {value}" for field, value in fields if value >= 0]
    return [*said, *clip.said]


def legend(clips: Sequence[ViewedClip]) -> list[tuple[str, str, bool]]:
    """The persons and joint states that occur in ``clips``: colour, name, and whether the colour is a bone's."""
    persons = max((clip.prepared.persons for clip in clips), default=0)
    entries = [(f"person{n % 4}", f"person {n + 1}", True) for n in range(persons)]
    if any(not all(scene.kept) for clip in clips for scene in clip.scenes):
        entries.append(("dropped", "dropped body", True))
    there = {
        int(value)
        for clip in clips
        for scene in clip.scenes
        for value in set(scene.state[scene.present].flat)
    }
    return entries + [(colour, f"joint {name}", False) for value, colour, name in STATES if value in there]


def note(clips: Sequence[ViewedClip]) -> str:
    """How to use the players, and the precision of the positions."""
    exact = f" Recorded positions are rounded to {1000 * rounding(clips):.2f} mm." if rounding(clips) else ""
    floor = " Floor grid: 0.5 m in recorded scenes, half the length of the spine in normalized scenes."
    return f"{KEYS}{floor}{exact}"
