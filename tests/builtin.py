"""The built-in skeletons and datasets, by short names."""

from __future__ import annotations

from psptool.schemas.builtin import builtin_dataset
from psptool.schemas.builtin_skeletons import builtin_skeleton

NTU25, UCLA20 = (builtin_skeleton(name).topology for name in ("ntu25", "kinect20"))
NTU60, NTU120, UCLA = map(builtin_dataset, ("ntu60", "ntu120", "ucla"))
parse_ntu, parse_ucla = NTU120.parse, UCLA.parse
