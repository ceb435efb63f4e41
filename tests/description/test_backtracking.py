"""The bound on the time of patterns of clip names."""

from __future__ import annotations

import re
import time

import pytest

from psptool.schemas.backtracking import ways_to_match
from psptool.schemas.builtin import builtin_datasets


@pytest.mark.parametrize(
    ("pattern", "ways"),
    [
        (r"[a-z]+_[0-9]+_[a-z]+_[0-9]+", 1),
        (r"(?P<label>[a-z_]+)_s(?P<subject>[0-9]+)_r(?P<repetition>[0-9]+)", 50),
        (r"(?P<label>[a-z]+|[0-9]+)_s(?P<subject>[a-z]+)(?:_(?P<camera>\d+))?", 200),
        (r".*_(?P<label>\w+)_.*", 2500),
        (r"\w*\w*\w*\w*", 50**3),
        (r"\w+a\w+a\w+", 50**2),
        (r"[ab]*[^a]*c?", 2500),
        (r"[aα]+[bα]+[bα]+", 50**3),
        (r"\d+[^0-9]+[^0-9]+", 2500),
        (r"\x61+a\x61+a", 2500),
        (r"[a-z]+\b[a-z]+", 50),
        (r"a+(?:_|a)b", 50),
        (r"a+(?:_)?a", 100),
        (r"(?:a+|b)_", 2),
        (r"(?:walk|run|sit)_(?:front|side)", 1),
        (r"(?:walk|walking)_", 2),
        (r"(?:a|a|.)", 3),
        (r"\w?\w?\w?!", 4),
        (r"a{3}a{1,2}a", 50),
    ],
)
def test_ways_are_those_of_repetitions_with_an_open_end_of_options_and_of_alternatives(
    pattern: str, ways: int
) -> None:
    re.compile(pattern)
    assert ways_to_match(pattern, 50) == ways


def test_patterns_of_the_built_in_datasets_match_in_one_way() -> None:
    assert [ways_to_match(str(one.clips.pattern), 255) for one in builtin_datasets()] == [1, 1, 1]


@pytest.mark.parametrize(
    "pattern", [r"\w*\w*\w*!", r".*a.*a!", r"(?:\w*|x)\w*_?!", r"(?P<label>a+)\w*_?\w*-"]
)
def test_allowed_patterns_take_no_time_on_the_worst_name(pattern: str) -> None:
    assert ways_to_match(pattern, 255) <= 4 * 255**2
    began = time.perf_counter()
    assert re.fullmatch(pattern, "a" * 255) is None
    assert time.perf_counter() - began < 2
