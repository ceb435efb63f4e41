"""Attention maps of clips and their encoding for pages: which body regions, parts and joints attend to which.

Notation for array shapes: P persons of a clip that the network saw, S heads, G groups of a level.
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
    """The polymerized maps of one clip (PSP Learning, arXiv 2302.02327, section 3), summed over time.

    Attributes:
        persons: The P persons' numbers in the clip.
        maps: By stream and level float32 (P, S, G, G); row u is the attention of group u to each group.
    """

    persons: tuple[int, ...]
    maps: Mapping[str, Mapping[str, NDArray[np.float32]]]


def level_groups_of(topology: Topology) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """By level, name and joints of each group, in the order of the maps' rows."""
    groups = {"body": topology.regions, "part": topology.parts}
    named: dict[str, list[tuple[str, tuple[int, ...]]]] = {
        level: [(group.name, group.joints) for group in found] for level, found in groups.items()
    }
    named["joint"] = [(name, (number,)) for number, name in enumerate(topology.joints)]
    return named


def packed_attention(attention: ClipAttention) -> dict[str, Any]:
    """The JSON that `attention.js` reads: 16-bit values in steps of 1/32767 of the map's largest value."""
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
