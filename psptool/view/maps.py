"""Attention maps of clips, and their encoding as JSON for pages.

Notation for array shapes: P persons in the input of the network, S heads, G groups of a level (regions, parts, joints).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClipAttention:
    """The polymerized attention maps of one clip (PSP Learning, arXiv 2302.02327, section 3), summed over time.

    Attributes:
        persons: Indices of the P persons in the clip.
        maps: Maps float32 (P, S, G, G) by stream and level; row u is the attention of group u to each group.
    """

    persons: tuple[int, ...]
    maps: Mapping[str, Mapping[str, NDArray[np.float32]]]


def packed_attention(attention: ClipAttention) -> dict[str, Any]:
    """The JSON for `attention.js`: maps as 16-bit integers, scaled by the largest absolute value."""
    first = next(iter(attention.maps.values()))
    return {
        "persons": attention.persons,
        "streams": list(attention.maps),
        "levels": list(first),
        "heads": next(iter(first.values())).shape[1],
        "maps": {
            stream: {level: _packed(values) for level, values in levels.items()}
            for stream, levels in attention.maps.items()
        },
    }


def _packed(values: NDArray[np.float32]) -> dict[str, Any]:
    step = max(float(np.abs(values).max()), 1e-9) / 32767
    numbers = np.rint(values / step).astype("<i2")
    return {"step": step, "values": base64.b64encode(numbers.tobytes()).decode("ascii")}
