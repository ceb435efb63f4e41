"""NTU RGB+D's official lists of clips with missing or incomplete skeletons, which the literature excludes."""

from __future__ import annotations

from functools import cache
from importlib import resources

_LISTS = {"ntu60": "ntu60.txt", "ntu120": "ntu120.txt"}


@cache
def missing_clips(dataset: str) -> frozenset[str]:
    """Names of the clips to exclude from ``dataset``.

    The lists are published by the dataset's authors: 302 clips of NTU RGB+D and 535 clips of NTU RGB+D 120. The
    second list contains the first.

    Args:
        dataset: ``ntu60``, ``ntu120`` or any other dataset's name.

    Returns:
        Clip names; empty for a dataset without a list.
    """
    if dataset not in _LISTS:
        return frozenset()
    text = (resources.files("psptool.data.skeletons") / "missing" / _LISTS[dataset]).read_text(
        encoding="ascii"
    )
    return frozenset(text.split())
