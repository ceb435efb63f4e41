"""The errors that a user can mend: each says what, where, what was found and expected, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class PspError(Exception):
    """Bad usage, input or configuration; the command line prints it without a traceback and ends with code 2.

    Args:
        what: What is wrong, naming the file, the line or the key.
        found: What stood there.
        expected: What would have been right.
        fix: What the user can do about it, as an instruction.
    """

    def __init__(
        self, what: str, found: str | None = None, expected: str | None = None, fix: str | None = None
    ) -> None:
        # All fields go to Exception.args, so that the error survives pickling between worker processes.
        super().__init__(what, found, expected, fix)
        self.what, self.found, self.expected, self.fix = what, found, expected, fix

    def __str__(self) -> str:
        text = self.what
        if self.found is not None:
            text += f": found {self.found}"
        if self.expected is not None:
            text += f"{',' if self.found is not None else ':'} expected {self.expected}"
        if self.fix is not None:
            text += f". {self.fix}"
        return text


class RawFormatError(PspError):
    """One clip's raw data cannot be used; the pipeline quarantines the clip and goes on.

    Args:
        reason: A short category that clips are counted by, such as ``truncated`` or ``joint count``.
        where: The file, and the line (from 1) or key in it.
        found: What stood there.
        expected: What would have been right.
    """

    def __init__(
        self, reason: str, where: str, found: str | None = None, expected: str | None = None
    ) -> None:
        super().__init__(f"{where}: {reason}", found, expected)
        self.reason, self.where = reason, where
        self.args = (reason, where, found, expected)


def suggest(word: str, known: Iterable[str]) -> str | None:
    """A sentence that offers the nearest known word, or None where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else None


def choice(value: str, known: Sequence[str], what: str) -> str:
    """``value`` if it is one of ``known``.

    Raises:
        PspError: It is not; a near one is suggested.
    """
    if value in known:
        return value
    raise PspError(what, repr(value), f"one of {', '.join(known)}", suggest(value, known))
