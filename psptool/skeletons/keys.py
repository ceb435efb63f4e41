"""The numbers that belong to a clip: label, subject, camera, setup and repetition; and the name of its class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Field = Literal["label", "subject", "camera", "setup", "repetition"]
UpAxis = Literal["y", "z", "-y"]
"""The vertical coordinate axis; it points up, or down for ``-y``, as in images."""


NO_LABEL = -1
"""The label of a clip whose class is unknown. It is used in training without its label, and never evaluated."""


class ClipKey(NamedTuple):
    """The numbers of a clip. Labels are 0-based, other numbers as in the dataset; -1: no such field."""

    label: int
    subject: int = -1
    camera: int = -1
    setup: int = -1
    repetition: int = -1


UNNAMED = ClipKey(NO_LABEL)
"""The key of a recording of which nothing is known, until its name is parsed."""


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class; empty for `NO_LABEL` and for labels beyond ``names``."""
    return names[label] if 0 <= label < len(names) else ""
