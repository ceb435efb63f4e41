"""Random selection of labelled clips: hash ranks, shares, families; on synthetic names."""

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psptool.data.splits.draw import aimclr_share, draw_global, draw_per_class, global_share, ranked, share

LABELS = {f"clip{n:02d}": n % 3 for n in range(30)}


def test_rank_is_sha256_of_tag_seed_and_name_joined_by_newlines():
    digest = {
        name: hashlib.sha256(b"psptool-split-1\n7\n" + name.encode("utf-8")).hexdigest()
        for name in ("a", "b", "ü", "S001C001P001R001A001")
    }
    assert ranked(digest, seed=7) == sorted(digest, key=digest.__getitem__)


def test_rank_of_known_names_never_changes_between_versions():
    # printf 'psptool-split-1\n0\n<name>' | sha256sum begins 2ba7b2, 2f30a3, 6ef74f, b40767.
    expected = ["a01_s01_e03_v01", "a01_s01_e01_v01", "a01_s01_e00_v01", "a01_s01_e02_v01"]
    assert ranked(sorted(expected), seed=0) == expected


def test_order_of_input_does_not_matter():
    names = list(LABELS)
    random.Random(1).shuffle(names)
    shuffled = {name: LABELS[name] for name in names}
    counts = dict.fromkeys(range(3), 4)
    assert draw_per_class(shuffled, counts, 3) == draw_per_class(LABELS, counts, 3)
    assert draw_global(shuffled, 11, 3) == draw_global(LABELS, 11, 3)


def test_per_class_selects_exactly_the_count_of_each_class():
    selected = draw_per_class(LABELS, {0: 1, 1: 2, 2: 0}, seed=0)
    assert sorted(LABELS[name] for name in selected) == [0, 1, 1]


@given(st.integers(0, 10), st.integers(0, 10), st.integers(0, 5))
def test_a_smaller_selection_is_a_subset_of_a_larger_one(a, b, seed):
    small, large = sorted((a, b))
    assert draw_global(LABELS, small, seed) <= draw_global(LABELS, large, seed)
    few, many = (draw_per_class(LABELS, dict.fromkeys(range(3), k), seed) for k in (small, large))
    assert few <= many


def test_ranks_depend_on_seed_and_tag():
    names = list(LABELS)
    assert ranked(names, 0) != ranked(names, 1)
    assert ranked(names, 0) != ranked(names, 0, tag="psptool-validation-1")


@pytest.mark.parametrize(
    ("ratio", "clips", "expected"),
    [(0.05, 10, 1), (0.05, 30, 2), (0.05, 29, 1), (0.145, 100, 15), (0.001, 3, 1), (1, 7, 7), (0.5, 5, 3)],
)
def test_share_is_rounded_half_up_and_at_least_one(ratio, clips, expected):
    assert share(ratio, clips) == expected


def test_shares_of_the_literature_equal_those_of_their_code():
    assert [aimclr_share(0.5, n) for n in (1, 3, 5)] == [0, 2, 2]  # Python rounds half to even
    assert [global_share(0.1, n) for n in (40_091, 9)] == [4009, 0]
