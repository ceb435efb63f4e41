"""Names of clips: the pattern and values of a description, and the numbers in a name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import regex
from pydantic import Field, ValidationInfo, field_validator, model_validator
from typing_extensions import Self

from psptool.common.errors import PspError, suggest
from psptool.schemas.base import Strict
from psptool.schemas.problems import Problem, listed, refuse, short
from psptool.skeletons import keys
from psptool.skeletons.keys import ClipKey

FIELDS: tuple[keys.Field, ...] = get_args(keys.Field)
CLIP_NAME = re.compile(r"\w[\w.+ -]{0,254}")
"""Names of clips. They become names of files, so a path is none of them."""
NOT_A_CLASS = "is not a class of the description"
_MOST_PATTERN = 500
_MATCH_SECONDS = 1.0
"""Time limit for one name. A dataset carries its pattern, and may come from anyone."""


class ClipNames(Strict):
    """Where the label and the other numbers of a clip come from: its name, or a table with one row per clip."""

    pattern: str | None = Field(
        None,
        max_length=_MOST_PATTERN,
        description="Regular expression for the whole file name without its suffix, with the named groups label, "
        "subject, camera, setup and repetition. With a slash, it is matched against the end of the path",
    )
    form: str | None = Field(None, max_length=200, description="The pattern in words, for messages")
    values: dict[keys.Field, tuple[str, ...]] = Field(
        default_factory=dict, description="Names that are values of a field; they are numbered from 1"
    )
    table: str | None = Field(
        None, description="CSV or TSV file with one row per clip, relative to the YAML file"
    )
    unlabelled: tuple[str, ...] = Field(
        (),
        description="Values of `label` for clips whose class is unknown; in YAML also a single value. Clips whose "
        "label is empty in the table, and clips whose name matches the pattern without its group label, have no label "
        "either",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Columns of the table by their meaning: file, name, label, subject, camera, setup, repetition, "
        "first, last; by default those names",
    )

    @field_validator("unlabelled", mode="before")
    @classmethod
    def _unlabelled_values(cls, value: Any) -> Any:
        """In YAML, a number needs no quotes, and a single value no list; but an unquoted no is a truth value."""
        values = value if isinstance(value, (list, tuple)) else (value,)
        if bad := [one for one in values if isinstance(one, bool) or not isinstance(one, (str, int))]:
            fix = "Put each value in quotes."
            refuse([Problem("", short(bad[0]), "values of label, such as [unknown, 0]", fix)])
        return tuple(map(str, values))

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        # Only YAML files are validated with a context. Names that a dataset of an earlier version repeats are kept.
        problems = [] if info.context is None else list(_repeated_names(self.values))
        if self.pattern is not None and self.table is not None:
            problems.append(Problem("pattern", "a table too", "either pattern or table", "Give one of them."))
        if self.pattern is not None:
            problems += _pattern_problems(self.pattern)
        known = {"file", "name", "first", "last", *FIELDS}
        for name in self.columns.keys() - known:
            fix = suggest(name, known) or "Remove it."
            problems.append(
                Problem(f"columns.{name}", "no such meaning", f"one of {listed(sorted(known), 9)}", fix)
            )
        refuse(problems)
        return self

    @property
    def in_words(self) -> str:
        """The pattern as messages show it."""
        return self.form or str(self.pattern)

    @property
    def fields(self) -> frozenset[str]:
        """Fields that clips may have: the groups of the pattern; all with a table."""
        return frozenset(regex.compile(self.pattern).groupindex if self.pattern else FIELDS)


@dataclass(frozen=True)
class NameParser:
    """Finds the numbers in clip names. It can be sent to other processes.

    Attributes:
        pattern: As in `ClipNames`.
        labels: Label by the value of the group ``label``; `NO_LABEL` for values that stand for no known class.
        values: Numbers by name, for fields whose values are names.
    """

    pattern: str
    labels: Mapping[str, int]
    values: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @cached_property
    def _regex(self) -> regex.Pattern[str]:
        return regex.compile(self.pattern)

    @cached_property
    def _path_regex(self) -> regex.Pattern[str]:
        # The match begins at \K. A group for it would change the numbers of the pattern's own groups.
        return regex.compile(rf"(?:.*/)?\K(?:{self.pattern})")

    def __getstate__(self) -> dict[str, Any]:
        return {"pattern": self.pattern, "labels": self.labels, "values": self.values}

    def __call__(self, name: str) -> ClipKey | None:
        """The key of the clip ``name``; None if it is not a clip name, or has no known class.

        Raises:
            PspError: Matching takes longer than `_MATCH_SECONDS`.
        """
        match = _match(self._regex, name)
        return None if match is None else self._key(match)

    def of_path(self, path: str) -> tuple[str, ClipKey] | None:
        """Name and key of the clip in a file, from its path without suffix, with slashes; None for other files.

        With a pattern for paths, the name is the matched part of the path, with ``_`` for its slashes.
        """
        if "/" not in self.pattern:
            name = path.rpartition("/")[2]
            key = self(name)
            return None if key is None else (name, key)
        match = _match(self._path_regex, path)
        if match is None:
            return None
        key = self._key(match)
        return None if key is None else (match[0].strip("/").replace("/", "_"), key)

    def problem(self, path: str) -> str:
        """The value without a number in a path, as for `of_path`, that matches the pattern; empty if there is none."""
        if "/" in self.pattern:
            match = _match(self._path_regex, path)
        else:
            match = _match(self._regex, path.rpartition("/")[2])
        values = () if match is None else [(group, match[group]) for _, group, _ in self._places]
        return next((self.unknown(*one) for one in values if one[1] and self.number(*one) is None), "")

    @staticmethod
    def unknown(group: str, text: str) -> str:
        """The problem with the text of a field that has no number."""
        kind = NOT_A_CLASS if group == "label" else "is not a number or a name in clips.values"
        return f"{group} {text!r:.60} {kind}"

    def _key(self, match: regex.Match[str]) -> ClipKey | None:
        numbers = [-1, -1, -1, -1, -1]
        for place, group, known in self._places:
            text = match[group]
            if text is None:
                continue
            # Names are parsed by the hundred thousand: most values are found without a call.
            number = known.get(text) if known else int(text) if len(text) < 5 and _is_number(text) else None
            if number is None:
                number = self.number(group, text)
                if number is None:
                    return None
            numbers[place] = number
        return ClipKey._make(numbers)

    @cached_property
    def _places(self) -> tuple[tuple[int, str, Mapping[str, int]], ...]:
        """Of each group of the pattern: its position in the key, its name, and numbers of some texts."""
        return tuple(
            (ClipKey._fields.index(group), group, self._texts.get(group, {}))
            for group in map(str, self._regex.groupindex)
        )

    @cached_property
    def _texts(self) -> dict[str, Mapping[str, int]]:
        numbers = {text: label for text, label in self.labels.items() if text.isdigit()}
        padded = {text.zfill(width): label for text, label in numbers.items() for width in (2, 3)}
        return {"label": {**padded, **self.labels}, **self.values}

    def number(self, group: str, text: str) -> int | None:
        """The number for the text of a field; None if it has none."""
        if group == "label":
            return self.labels.get(canonical(text))
        if group in self.values:
            return self.values[group].get(text)
        return int(text) if _is_number(text) and len(text) < 19 else None


def _match(pattern: regex.Pattern[str], name: str) -> regex.Match[str] | None:
    try:
        return pattern.fullmatch(name, timeout=_MATCH_SECONDS)
    except TimeoutError as error:
        raise PspError(
            f"clips.pattern: matching {name!r:.80} takes too long",
            f"more than {_MATCH_SECONDS:g} s with {short(pattern.pattern)}",
            fix="Use fewer repetitions that can match the same characters, such as [a-z]+ instead of .* before a _.",
        ) from error


def _repeated_names(values: Mapping[keys.Field, Sequence[str]]) -> Iterator[Problem]:
    for key, names in values.items():
        for name in dict.fromkeys(names):
            numbers = [str(number) for number, one in enumerate(names, 1) if one == name]
            if len(numbers) > 1:
                found = f"{short(name)} with the numbers {' and '.join(numbers)}"
                yield Problem(f"values.{key}", found, "each name once", "Remove the repeated ones.")


def _is_number(text: str) -> bool:
    """Whether all characters are 0 to 9; ``isdigit`` alone holds for other digits too, such as a superscript two."""
    return text.isascii() and text.isdigit()


def canonical(text: str) -> str:
    """A label's text without leading zeros if it is a number, so that ``a01`` and ``a1`` are one action."""
    return str(int(text)) if _is_number(text) and len(text) < 19 else text


def _pattern_problems(pattern: str) -> Iterator[Problem]:
    """Mistakes in the regular expression of clip names.

    A prepared dataset carries its pattern, and may come from anyone. Time and memory of compiling grow with repeated
    groups and with the numbers of repetitions, so both are limited. The time of matching is limited by
    `_MATCH_SECONDS`.
    """
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern)
    for costly, found, expected in _COSTLY:
        if re.search(costly, plain):
            yield Problem("pattern", found, expected, "Write it without.")
            return
    try:
        compiled = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        yield Problem("pattern", f"{short(pattern)} ({error})", "a regular expression", "Correct it.")
        return
    for name in compiled.groupindex:
        if name not in FIELDS:
            fix = (
                _SYNONYMS.get(name.lower()) or suggest(name, FIELDS) or "Use a group without a name, (?:...)."
            )
            yield Problem("pattern", f"the group {name!r}", f"groups named {', '.join(FIELDS)}", fix)
    if "label" not in compiled.groupindex:
        yield Problem(
            "pattern",
            "no group named label",
            "the class of the clip, such as (?P<label>[0-9]+)",
            "Add the group.",
        )


_COSTLY = (
    (r"\)[*+{]", "a repeated group", "repetitions of single characters, such as [0-9]+"),
    (r"\{[0-9,]*[0-9]{4}", "a repetition of over 999 times", "at most 999 times, as in [0-9]{1,3}"),
    # With the flag x, blanks between a group and its repetition are ignored.
    (r"\(\?[A-Za-z0-9]*x", "the flag x", "a pattern without blanks and comments"),
)
"""Parts of a pattern that are costly to compile: regular expression, description, and what is expected instead."""
_SYNONYMS = {
    **dict.fromkeys(("class", "action", "activity", "gesture"), "Did you mean label?"),
    **dict.fromkeys(("view", "cam"), "Did you mean camera?"),
    **dict.fromkeys(("person", "performer", "actor", "participant"), "Did you mean subject?"),
    **dict.fromkeys(("episode", "trial", "take", "replication"), "Did you mean repetition?"),
}
