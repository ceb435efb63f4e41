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

from psptool.data.skeletons.topology import Topology


@dataclass(frozen=True)
class ClipAttention:
    """The polymerized attention maps of one clip (PSP Learning, arXiv 2302.02327, section 3), summed over time.

    Attributes:
        persons: Indices of the P persons in the clip.
        maps: Maps float32 (P, S, G, G) by stream and level; row u is the attention of group u to each group.
    """

    persons: tuple[int, ...]
    maps: Mapping[str, Mapping[str, NDArray[np.float32]]]


def level_groups_of(topology: Topology) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """Name and joints of each group, by level, in the order of the rows of the maps."""
    groups = {"body": topology.regions, "part": topology.parts}
    named: dict[str, list[tuple[str, tuple[int, ...]]]] = {
        level: [(group.name, group.joints) for group in found] for level, found in groups.items()
    }
    named["joint"] = [(name, (number,)) for number, name in enumerate(topology.joints)]
    return named


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
