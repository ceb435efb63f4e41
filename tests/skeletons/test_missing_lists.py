"""The lists of clips with missing skeletons that ship in the package."""

from __future__ import annotations

from psptool.schemas.builtin import builtin_dataset
from tests.builtin import parse_ntu


def test_lists_have_302_and_535_clips_and_ucla_has_none():
    assert len(frozenset(builtin_dataset("ntu60").missing)) == 302
    assert len(frozenset(builtin_dataset("ntu120").missing)) == 535
    assert frozenset(builtin_dataset("ucla").missing) == frozenset()


def test_every_listed_name_is_a_clip_name():
    assert None not in {parse_ntu(name) for name in frozenset(builtin_dataset("ntu120").missing)}


def test_the_list_of_ntu120_adds_to_that_of_ntu60_only_setups_of_ntu120():
    added = frozenset(builtin_dataset("ntu120").missing) - frozenset(builtin_dataset("ntu60").missing)
    assert frozenset(builtin_dataset("ntu60").missing) <= frozenset(builtin_dataset("ntu120").missing)
    assert {parse_ntu(name).setup > 17 for name in added} == {True}
    assert {parse_ntu(name).setup > 17 for name in frozenset(builtin_dataset("ntu60").missing)} == {False}


def test_known_members_are_listed():
    assert "S001C002P005R002A008" in frozenset(builtin_dataset("ntu60").missing)
    assert "S001C001P001R001A001" not in frozenset(builtin_dataset("ntu120").missing)
