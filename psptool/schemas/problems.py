"""All mistakes in a file that a user wrote, collected so that they are reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from psptool.common.errors import PspError, suggest

_MOST = 20
"""Mistakes that one message lists."""


class Problem(NamedTuple):
    """One mistake.

    Attributes:
        key: The dotted key.
        found: The value found.
        expected: The value expected.
        fix: What the user can do.
    """

    key: str
    found: str
    expected: str
    fix: str

    def __str__(self) -> str:
        return f"{self.key}: found {self.found}, expected {self.expected}. {self.fix}"


class Problems(ValueError):
    """Mistakes that a validator of a model found; their keys are relative to the model."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


def refuse(problems: Sequence[Problem]) -> None:
    """Raise `Problems` if there are any."""
    if problems:
        raise Problems(problems)


def short(value: object) -> str:
    """``value`` as it is shown in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: Iterable[object], most: int = 5) -> str:
    """The first names, comma-separated."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def problems_of(error: ValidationError, known: Mapping[str, Sequence[str]] | None = None) -> list[Problem]:
    """The mistakes in a pydantic error.

    Args:
        error: The error.
        known: The accepted keys of each group by its dotted key, to suggest one for a misspelt key.
    """
    found: list[Problem] = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in _without_tags(item["loc"]))
        inner = item.get("ctx", {}).get("error")
        if isinstance(inner, Problems):
            found += [one._replace(key=".".join(filter(None, (key, one.key)))) for one in inner.problems]
            continue
        kind, message = item["type"], item["msg"].replace("Value error, ", "")
        if kind == "missing":
            found.append(Problem(key, "nothing", "a value", f"Add the key {key}."))
        elif kind == "extra_forbidden":
            group, _, last = key.rpartition(".")
            names = (known or {}).get(group, ())
            expected = f"one of {', '.join(names)}" if names else "no such key"
            found.append(
                Problem(key, "a key that does not exist", expected, suggest(last, names) or "Remove it.")
            )
        elif kind == "string_pattern_mismatch":
            expected = "at most 40 letters, digits, _ and -, first a letter or digit"
            found.append(Problem(key, short(item["input"]), expected, "Choose another name."))
        elif kind.startswith("union_tag"):
            found.append(Problem(key, short(item["input"]), _lower(message), "Correct the value."))
        else:
            found.append(
                Problem(key or "file", short(item["input"]), _expected(message), "Correct the value.")
            )
    return found


def _without_tags(parts: Sequence[int | str]) -> list[int | str]:
    """The keys in pydantic's location of a mistake, without its names of the types that it tried."""
    keys = [part for part in parts if not str(part).startswith((":", "[key]", "function-", "tuple["))]
    return keys[:1] + keys[2:] if len(keys) > 2 and keys[0] == "format" else keys


def _expected(message: str) -> str:
    return _lower(message.removeprefix("Input should be "))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def error_of(path: object, problems: Sequence[Problem]) -> PspError:
    """The error that lists the mistakes of a file, one a line."""
    if len(problems) == 1:
        one = problems[0]
        return PspError(f"{path}: {one.key}", one.found, one.expected, one.fix)
    lines = [f"\n  {path}: {one}" for one in problems[:_MOST]]
    more = [f"\n  and {len(problems) - _MOST} more"] if len(problems) > _MOST else []
    return PspError(f"{path}: {len(problems)} mistakes" + "".join(lines + more))
