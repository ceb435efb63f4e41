"""A bound on the time that a regular expression takes, from its text alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from math import prod
from typing import NamedTuple

_TOKEN = re.compile(
    r"(?P<flag>\(\?i\))|(?P<look>\(\?<?[=!])|(?P<open>\((?:\?(?:P<\w+>|:))?)|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<repeat>(?:[*+?]|\{(?:\d+,?\d*|,\d*)\})[?+]?)"
    r"|(?P<atom>\\x..|\\u.{4}|\\U.{8}|\\N\{[^}]*\}|\\0[0-7]{0,2}|\\[1-9]\d{0,2}|\\."
    r"|\[\^?\]?(?:\\.|[^\]\\])*\]|.)",
    re.DOTALL,
)
_MAY_BE_ABSENT = re.compile(r"[*?]|\{0*[,}]")
_WORDS = re.compile(r"[\w |-]+")
_END = frozenset({""})
_TRIED = (*map(chr, range(128)), "é", "٣", "\u2003", "€")
r"""ASCII, and one character of each kind that \w, \d and \s tell apart beyond it."""


class _Token(NamedTuple):
    kind: str
    text: str
    begin: int


def ways_to_match(pattern: str, length: int) -> int:
    r"""An upper bound on the ways in which a search for ``pattern`` divides a name among its parts.

    The time is proportional to it. A repetition that cannot match the character after it, such as ``[a-z]+`` before
    ``_``, ends at one place only. Any other repetition may end at ``length`` places. What may be absent has two ways.
    Alternatives have as many ways as can match at one place. The ways of all parts are multiplied.

    Args:
        pattern: A valid regular expression without repeated groups, for whole names.
        length: Number of characters of the longest name.

    Raises:
        ValueError: The pattern has a group other than ``(...)``, ``(?:...)``, ``(?P<name>...)`` and lookarounds, or a
            flag other than ``(?i)``. Its text is the first characters of the group.
    """
    tokens = [_Token(str(m.lastgroup), m[0], m.start()) for m in _TOKEN.finditer(pattern)]
    for one, after in pairwise(tokens):
        if one.text == "(" and after.text.startswith("?"):
            raise ValueError(pattern[one.begin : after.begin + 2])
    closes = _closes(tokens)
    repeats = prod(_ways_of_repeat(tokens, place, closes, length) for place in range(len(tokens)))
    bodies = [(0, len(tokens)), *((begin + 1, end) for begin, end in closes.items())]
    return repeats * prod(_ways_of_alternatives(tokens[begin:end]) for begin, end in bodies)


def _closes(tokens: Sequence[_Token]) -> dict[int, int]:
    """The place of the closing parenthesis by that of the opening one."""
    opened: list[int] = []
    closes = {}
    for place, token in enumerate(tokens):
        if token.kind in ("open", "look"):
            opened.append(place)
        elif token.kind == "close":
            closes[opened.pop()] = place
    return closes


def _ways_of_repeat(tokens: Sequence[_Token], place: int, closes: Mapping[int, int], length: int) -> int:
    token = tokens[place]
    if token.kind != "repeat" or re.match(r"\{\d+\}", token.text):
        return 1
    before = tokens[place - 1]
    if before.kind == "atom":
        own, after = _characters(before.text), _characters_after(tokens, place, closes)
        if own and after and not own & after:
            return 1
    return 2 if token.text.startswith("?") else length


def _characters_after(tokens: Sequence[_Token], place: int, closes: Mapping[int, int]) -> frozenset[str]:
    """The characters of which one must follow the token at a place, or `_END`; empty if that is not known."""
    opens = {end: begin for begin, end in closes.items()}
    at = place + 1
    while at < len(tokens):
        token, end = tokens[at], closes.get(at, at)
        absent = end + 1 < len(tokens) and tokens[end + 1].kind == "repeat"
        absent = absent and _MAY_BE_ABSENT.match(tokens[end + 1].text) is not None
        if token.kind == "atom":
            return frozenset() if absent else _characters(token.text)
        if token.kind == "bar":  # what follows an alternative is what follows the group
            at = min((end for begin, end in closes.items() if begin < at < end), default=len(tokens))
        elif token.kind == "close" and tokens[opens[at]].kind == "open":
            at += 1 + (at + 1 < len(tokens) and tokens[at + 1].kind == "repeat")
        elif token.kind == "open" and not absent and not _bars(tokens[at + 1 : end]):
            at += 1
        else:
            return frozenset()
    return _END


@cache
def _characters(atom: str) -> frozenset[str]:
    """The characters that one element of a pattern matches, in either case; empty if that is not known."""
    if not atom.isascii() or re.search(r"\\[uUNx0-9]", atom):
        return frozenset()
    compiled = re.compile(atom, re.IGNORECASE)
    return frozenset(filter(compiled.fullmatch, _TRIED))


def _bars(body: Sequence[_Token]) -> list[int]:
    """The places of the bars between the alternatives of a group, without those of groups in it."""
    depth, bars = 0, []
    for place, token in enumerate(body):
        depth += {"open": 1, "look": 1, "close": -1}.get(token.kind, 0)
        if token.kind == "bar" and depth == 0:
            bars.append(place)
    return bars


def _ways_of_alternatives(body: Sequence[_Token]) -> int:
    """The number of alternatives of a group that can match at one place."""
    bars = _bars(body)
    text = "".join(token.text for token in body).lower()
    if not bars or not _WORDS.fullmatch(text):
        return len(bars) + 1
    words = text.split("|")
    return max(sum(word.startswith(other) for other in words) for word in words)
