"""The numbers that belong to a clip: label, subject, camera, setup and repetition."""

from __future__ import annotations

from typing import Literal, NamedTuple

Field = Literal["label", "subject", "camera", "setup", "repetition"]
UpAxis = Literal["y", "z", "-y"]
"""The vertical coordinate axis; it points up, or down for ``-y``, as in images."""


class ClipKey(NamedTuple):
    """The numbers of a clip. Labels are 0-based, other numbers as in the dataset; -1: no such field."""

    label: int
    subject: int = -1
    camera: int = -1
    setup: int = -1
    repetition: int = -1


UNNAMED = ClipKey(-1)
"""The key of a recording without a label."""
