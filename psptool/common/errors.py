"""Errors that a user can fix. Each names the place, what was found, what was expected, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class PspError(Exception):
    """Invalid usage, input or configuration. The command line prints it without a traceback and exits with code 2.

    Args:
        what: The option or file, the line or key in it, and the problem.
        found: The value found.
        expected: The value expected.
        fix: What the user can do, as an imperative sentence.
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
    """The raw data of one clip are malformed. Preparation excludes the clip and continues.

    Args:
        reason: Short category for the counts in the report, such as ``truncated`` or ``joint count``.
        where: The file, and the line (1-based) or key in it.
        found: The value found.
        expected: The value expected.
    """

    def __init__(
        self, reason: str, where: str, found: str | None = None, expected: str | None = None
    ) -> None:
        super().__init__(f"{where}: {reason}", found, expected)
        self.reason, self.where = reason, where
        self.args = (reason, where, found, expected)


def system_message(error: BaseException) -> str:
    """The operating system's message for ``error``, or its text for other exceptions."""
    return str(getattr(error, "strerror", None) or error)


def cannot_read(
    path: object,
    error: BaseException,
    fix: str = "Check the path and its permissions.",
    expected: str | None = None,
) -> PspError:
    """The error for a file or folder that cannot be read.

    Args:
        path: The file or folder; of an archive's member also the member.
        error: The exception that reading raised.
        fix: What the user can do.
        expected: What the file should hold.
    """
    return PspError(f"{path}: cannot be read ({system_message(error)})", expected=expected, fix=fix)


def cannot_write(
    path: object,
    error: BaseException,
    fix: str = "Free disk space, fix the folder's permissions, or choose another path.",
) -> PspError:
    """The error for a file or folder that cannot be written.

    Args:
        path: The file or folder.
        error: The exception that writing raised.
        fix: What the user can do.
    """
    return PspError(f"{path}: cannot be written ({system_message(error)})", fix=fix)


def suggest(word: str, known: Iterable[str]) -> str | None:
    """``Did you mean X?`` for the known word nearest to ``word``, or None without a near one."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.5)
    return f"Did you mean {by_lower[near[0]]}?" if near else None


def choice(value: str, known: Sequence[str], what: str) -> str:
    """``value`` if it is one of ``known``.

    Raises:
        PspError: It is not; a near one is suggested.
    """
    if value in known:
        return value
    raise PspError(what, repr(value), f"one of {', '.join(known)}", suggest(value, known))
