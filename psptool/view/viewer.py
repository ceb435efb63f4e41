"""The page of ``psptool view``: clips that play, turn and scrub, with what a model says of them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from psptool.formats.readers.base import STATE_UNKNOWN
from psptool.view.charts import bars
from psptool.view.page import Section, page
from psptool.view.scene import FPS, ViewedClip, page_data, rounding

PLAYER, ATTENTION = "player.js", "attention.js"
STATES = (
    (2, "tracked", "tracked"),
    (1, "inferred", "inferred"),
    (0, "lost", "not tracked"),
    (STATE_UNKNOWN, "unknown", "state unknown"),
)
"""Joint states as the formats number them: value, the name of their colour in `page.css`, and what to call them."""
KEYS = (
    "Drag to turn, double-click to turn back, wheel to zoom once clicked. Keys: space plays and pauses, "
    "← → step a frame, Home and End jump, + and − zoom, 0 resets the view."
)


def viewer_page(title: str, lead: str, clips: Sequence[ViewedClip]) -> str:
    """The page that shows ``clips``.

    Args:
        title: Plain text.
        lead: Plain text under it.
        clips: In the order shown.
    """
    sections = [Section("", legend(clips) + note(clips))]
    sections += [Section(heading(clip), card(clip, n)) for n, clip in enumerate(clips)]
    scripts = [PLAYER]
    if any(clip.attention is not None for clip in clips):
        scripts.append(ATTENTION)
    return page(title, sections, lead=lead, scripts=scripts, data=page_data(clips))


def heading(clip: ViewedClip) -> str:
    """The clip's name, and its action where the name says one."""
    return f"{clip.name}: {clip.action}" if clip.action else clip.name


def card(clip: ViewedClip, number: int) -> str:
    """One clip's player, and what is known of it.

    Args:
        clip: The clip.
        number: Its place among the page's clips.
    """
    guesses = bars([(name, share, name == clip.action) for name, share in clip.top])
    said = f'<p class="meta">{escape("; ".join(facts(clip)))}</p>'
    return f'{said}{guesses}<div class="player" data-clip="{number}"></div>'


def facts(clip: ViewedClip) -> list[str]:
    """Frames, persons, and what the clip's name says."""
    key = clip.prepared.key
    persons = f"{clip.prepared.persons} person{'s' if clip.prepared.persons > 1 else ''}"
    said = [f"{clip.frames} frames at {FPS} a second", persons]
    fields = (
        ("subject", key.subject),
        ("camera", key.camera),
        ("setup", key.setup),
        ("repetition", key.repetition),
    )
    said += [f"{field} {value}" for field, value in fields if value >= 0]
    return [*said, *clip.said]


def legend(clips: Sequence[ViewedClip]) -> str:
    """The colours of the persons and joint states that occur in ``clips``."""
    persons = max(clip.prepared.persons for clip in clips)
    entries = [(f"person{n % 4}", f"person {n + 1}", True) for n in range(persons)]
    if any(not all(scene.kept) for clip in clips for scene in clip.scenes):
        entries.append(("dropped", "body not taken for a person", True))
    there = {
        int(value)
        for clip in clips
        for scene in clip.scenes
        for value in set(scene.state[scene.present].flat)
    }
    entries += [(colour, f"joint {name}", False) for value, colour, name in STATES if value in there]
    dots = "".join(
        f'<span><i{" class=bone" if bone else ""} style="background:var(--{colour})"></i>{name}</span>'
        for colour, name, bone in entries
    )
    return f'<p class="legend">{dots}</p>'


def note(clips: Sequence[ViewedClip]) -> str:
    """How to use the players, and how exact they are."""
    exact = f" Recorded positions are rounded to {1000 * rounding(clips):.2f} mm." if rounding(clips) else ""
    floor = (
        " The floor's lines are half a unit apart: metres as recorded, lengths of the spine as normalized."
    )
    return f'<p class="note">{KEYS}{floor}{exact}</p>'
