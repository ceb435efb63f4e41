"""The skeleton pyramid and Pyramid Polymerizing Attention, PPA (PSP Learning, arXiv 2302.02327, section 3).

Notation for tensor shapes: P persons of all clips, C channels, T frames, V joints, G groups of a level (5 body
regions, 10 parts or V joints), S heads, d = C / S.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psptool.data.skeletons.topology import JointGroup, Topology
from psptool.model.encoder import SLOPE, ConvBN
from psptool.schemas.training import Level, ModelSettings

COARSE_TO_FINE: tuple[Level, ...] = ("body", "part", "joint")


def level_groups(topology: Topology) -> dict[Level, tuple[JointGroup, ...]]:
    """The groups of each level, coarse to fine; at the joint level each joint is a group of its own."""
    joints = tuple(JointGroup(name, (number,)) for number, name in enumerate(topology.joints))
    return {"body": topology.regions, "part": topology.parts, "joint": joints}


def pooling_matrix(groups: tuple[JointGroup, ...], joints: int) -> Tensor:
    """(G, V) such that it @ features (V, …) are the means over each group's joints."""
    matrix = torch.zeros(len(groups), joints)
    for row, group in enumerate(groups):
        matrix[row, list(group.joints)] = 1 / len(group.joints)
    return matrix


class Polymerizer(nn.Module):
    """Hands coarse attention maps on to the finer levels.

    A coarse map's share is the released code's: the largest group, counted in units of the finer level, over the
    number of those units (for NTU 2 of 10, 3 of 25 and 6 of 25).

    Args:
        topology: Whose groups decide which fine pair takes which coarse pair's value.
        mode: ``raw`` hands the part map on to the joints as it was before the body map came in (released code),
            ``chained`` the polymerized one (the paper's text), ``off`` hands nothing on.
    """

    def __init__(self, topology: Topology, mode: str) -> None:
        super().__init__()
        self.mode = mode
        owners = {
            "part_to_body": topology.part_to_region,
            "joint_to_part": topology.joint_to_part,
            "joint_to_body": topology.joint_to_region,
        }
        self.share: dict[str, float] = {}
        for name, owner in owners.items():
            self.register_buffer(name, torch.tensor(owner), persistent=False)
            self.share[name] = max(owner.count(group) for group in owner) / len(owner)

    def _up(self, name: str, coarse: Tensor) -> Tensor:
        """Each fine pair takes its coarse pair's value, times the coarse map's share."""
        owner = self.get_buffer(name)
        return self.share[name] * coarse.index_select(-2, owner).index_select(-1, owner)

    def forward(self, maps: dict[Level, Tensor]) -> dict[Level, Tensor]:
        """Maps (P, S, G, G) by level, any of the three levels; the same with the coarser ones added in."""
        if self.mode == "off":
            return maps
        out = dict(maps)
        if "body" in maps and "part" in maps:
            out["part"] = maps["part"] + self._up("part_to_body", maps["body"])
        if "joint" in maps:
            if "part" in maps:
                part = out["part"] if self.mode == "chained" else maps["part"]
                out["joint"] = out["joint"] + self._up("joint_to_part", part)
            if "body" in maps:
                out["joint"] = out["joint"] + self._up("joint_to_body", maps["body"])
        return out


class LevelAttention(nn.Module):
    """One level's spatial attention, in two steps, so that its map can be polymerized in between."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = ConvBN(channels, channels)

    def map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(P, G, T, C) -> attention (P, S, G, G), rows attend; and values (P, S, G, T*d)."""
        persons, size, frames, channels = x.shape
        mapped = F.linear(x, self.query_key_value.weight.flatten(1), self.query_key_value.bias)
        mapped = mapped.view(persons, size, frames, 3, self.heads, channels // self.heads)
        query, key, value = mapped.permute(3, 0, 4, 1, 2, 5).flatten(4).unbind(0)  # (P, S, G, T*d) each
        return torch.tanh(query @ key.transpose(-1, -2) / query.shape[-1]), value

    def apply_map(self, x: Tensor, attention: Tensor, value: Tensor) -> Tensor:
        """(P, G, T, C): the values gathered by the (polymerized) map, projected, plus the input."""
        persons, size, frames, channels = x.shape
        gathered = (attention @ value).view(persons, self.heads, size, frames, channels // self.heads)
        gathered = gathered.permute(0, 2, 3, 1, 4).flatten(3)  # (P, G, T, C)
        return F.leaky_relu(self.out(gathered) + x, SLOPE)


class Pyramid(nn.Module):
    """Encoder features to one vector a person and level."""

    def __init__(self, settings: ModelSettings, topology: Topology) -> None:
        super().__init__()
        channels = settings.channels[-1]
        groups = level_groups(topology)
        self.levels = tuple(level for level in COARSE_TO_FINE if level in settings.levels)
        self.attentions = nn.ModuleDict(
            {level: LevelAttention(channels, settings.heads) for level in self.levels}
        )
        self.polymerize = Polymerizer(topology, settings.polymerize)
        for level in self.levels:
            self.register_buffer(
                f"pool_{level}", pooling_matrix(groups[level], topology.size), persistent=False
            )

    def maps(self, features: Tensor) -> dict[Level, Tensor]:
        """The polymerized attention maps (P, S, G, G) by level, for looking at; features are (P, C, T, V)."""
        pooled = self._pool(features)
        maps = {level: self._attention(level).map(x)[0] for level, x in pooled.items()}
        return cast(dict[Level, Tensor], self.polymerize(maps))

    def forward(self, features: Tensor) -> dict[Level, Tensor]:
        """(P, C, T, V) -> by level (P, C), the mean over frames and groups of the attended features.

        The means are in the type of the parameters, also under autocast.
        """
        pooled = self._pool(features)
        mapped = {level: self._attention(level).map(x) for level, x in pooled.items()}
        attention = self.polymerize({level: pair[0] for level, pair in mapped.items()})
        vectors: dict[Level, Tensor] = {}
        for level, x in pooled.items():
            layer = self._attention(level)
            attended = layer.apply_map(x, attention[level], mapped[level][1])  # (P, G, T, C)
            vectors[level] = attended.mean((1, 2), dtype=layer.out.conv.weight.dtype)
        return vectors

    def _pool(self, features: Tensor) -> dict[Level, Tensor]:
        """(P, C, T, V) -> by level (P, G, T, C)."""
        rows = features.permute(0, 3, 2, 1)  # (P, V, T, C), as the encoder left it in memory
        joints = rows.flatten(2)
        pooled: dict[Level, Tensor] = {}
        for level in self.levels:
            if level == "joint":  # the matrix is the identity
                pooled[level] = rows
            else:
                matrix = self.get_buffer(f"pool_{level}").to(joints.dtype)
                pooled[level] = (matrix @ joints).view(len(rows), -1, *rows.shape[2:])
        return pooled

    def _attention(self, level: Level) -> LevelAttention:
        return cast(LevelAttention, self.attentions[level])
