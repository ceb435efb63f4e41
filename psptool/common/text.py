"""Numbers, nouns and names in messages."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and the characters that reverse the direction of writing."""


def printable(text: str) -> str:
    r"""``text`` with each control character escaped as ``\u001b``: in a terminal it could move the cursor or hide text.

    The escapes are those of JSON, so that JSON keeps its meaning.
    """
    return text if text.isprintable() else _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, such as ``1 recording`` or ``1,484 recordings``.

    Args:
        number: The count.
        noun: In the singular.
        plural: Where it is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
