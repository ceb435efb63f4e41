"""The digest of a split depends only on which clip is in which part."""

from __future__ import annotations

import pytest

from psptool.schemas.split import Split

SPLIT = Split(
    dataset="ucla", protocol="xview", family="per-class", count=1, seed=0, clips_fingerprint="0" * 64,
    labelled=("a", "b"), unlabelled=("c", "d"), validation=("e",), test=("f", "g"), tool_version="test",
)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"labelled": ("a", "c"), "unlabelled": ("b", "d")},
        {"unlabelled": ("c",)},
        {"validation": (), "test": ("e", "f", "g")},
        {"test": ("f",)},
        {"test": ("f", "g", "h")},
        {"labelled": ("ab",)},
    ],
)
def test_other_clips_in_a_part_change_the_digest(change: dict[str, tuple[str, ...]]) -> None:
    assert SPLIT.model_copy(update=change).digest != SPLIT.digest


@pytest.mark.parametrize("change", [{"labelled": ("b", "a")}, {"tool_version": "2"}, {"seed": 5}])
def test_order_and_other_fields_do_not_change_the_digest(change: dict[str, object]) -> None:
    assert SPLIT.model_copy(update=change).digest == SPLIT.digest
