"""Numbers and nouns in messages."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, such as ``1 recording`` or ``1,484 recordings``.

    Args:
        number: The count.
        noun: In the singular.
        plural: Where it is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
