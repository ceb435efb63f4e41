"""Clips whose skeletons are missing or incomplete by NTU RGB+D's own lists; the field skips them by name."""

from __future__ import annotations

from functools import cache
from importlib import resources

_LISTS = {"ntu60": "ntu60.txt", "ntu120": "ntu120.txt"}


@cache
def missing_clips(dataset: str) -> frozenset[str]:
    """Names of the clips that ``dataset`` leaves out.

    The lists are those of the dataset's authors: 302 clips of NTU RGB+D, and 535 of NTU RGB+D 120, which hold
    the 302 among them, so that a preparation of NTU 120 needs no union.

    Args:
        dataset: ``ntu60``, ``ntu120`` or any other dataset's name.

    Returns:
        Clip names; empty for a dataset without such a list.
    """
    if dataset not in _LISTS:
        return frozenset()
    text = (resources.files("psptool.data.skeletons") / "missing" / _LISTS[dataset]).read_text(
        encoding="ascii"
    )
    return frozenset(text.split())
