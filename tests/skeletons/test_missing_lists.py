"""The lists of clips with missing skeletons that ship in the package."""

from __future__ import annotations

from psptool.data.skeletons.datasets import parse_ntu
from psptool.data.skeletons.missing import missing_clips


def test_lists_have_302_and_535_clips_and_ucla_has_none():
    assert len(missing_clips("ntu60")) == 302
    assert len(missing_clips("ntu120")) == 535
    assert missing_clips("ucla") == frozenset()


def test_every_listed_name_is_a_clip_name():
    assert None not in {parse_ntu(name) for name in missing_clips("ntu120")}


def test_the_longer_list_holds_the_shorter_one_and_beyond_it_only_ntu_120s_own_setups():
    own = missing_clips("ntu120") - missing_clips("ntu60")
    assert missing_clips("ntu60") <= missing_clips("ntu120")
    assert {parse_ntu(name).setup > 17 for name in own} == {True}
    assert {parse_ntu(name).setup > 17 for name in missing_clips("ntu60")} == {False}


def test_known_members_are_listed():
    assert "S001C002P005R002A008" in missing_clips("ntu60")
    assert "S001C001P001R001A001" not in missing_clips("ntu120")
