"""The skeleton pyramid and Pyramid Polymerizing Attention, PPA (PSP Learning, arXiv 2302.02327, section 3).

Notation for tensor shapes: P persons of all clips, C channels, T frames, V joints, G groups of a level (5 regions,
10 parts or V joints), S heads, d = C / S channels of a head.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psptool.model.encoder import ConvBN, as_rows, normalize_add_activate, pointwise, query_key_product
from psptool.model.precision import padding
from psptool.schemas.training import Level, ModelSettings
from psptool.skeletons.topology import JointGroup, Topology

COARSE_TO_FINE: tuple[Level, ...] = ("body", "part", "joint")


def pooling_matrix(groups: tuple[JointGroup, ...], joints: int) -> Tensor:
    """Matrix (G, V) whose product with features (V, …) is the mean over the joints of each group, (G, …)."""
    matrix = torch.zeros(len(groups), joints)
    for row, group in enumerate(groups):
        matrix[row, list(group.joints)] = 1 / len(group.joints)
    return matrix


class Polymerizer(nn.Module):
    """Adds the attention maps of coarser levels to those of finer levels.

    The weight of a coarse map is that of the original implementation: the number of fine groups in the largest coarse
    group, divided by the number of fine groups (for NTU 2 / 10, 3 / 25 and 6 / 25).

    Args:
        topology: Its groups map each pair of fine groups to a pair of coarse groups.
        mode: ``raw`` adds the part map to the joint map as it was before the body map was added (original
            implementation), ``chained`` adds the polymerized part map (text of the paper), ``off`` adds nothing.
    """

    def __init__(self, topology: Topology, mode: str) -> None:
        super().__init__()
        self.mode = mode
        owners = {
            "part_to_body": topology.part_to_region,
            "joint_to_part": topology.joint_to_part,
            "joint_to_body": topology.joint_to_region,
        }
        self.weight: dict[str, float] = {}
        for name, owner in owners.items():
            self.register_buffer(name, torch.tensor(owner), persistent=False)  # (G of the finer level,)
            self.weight[name] = max(owner.count(group) for group in owner) / len(owner)

    def _upsample(self, name: str, coarse: Tensor) -> Tensor:
        """The coarse map at the finer level, times its weight: each fine pair gets the value of its coarse pair."""
        owner = self.get_buffer(name)
        # (P, S, G, G) of the coarse level -> (P, S, G, G) of the fine level: first rows, then columns
        return self.weight[name] * coarse.index_select(-2, owner).index_select(-1, owner)

    def forward(self, maps: dict[Level, Tensor]) -> dict[Level, Tensor]:
        """Add coarser maps to finer ones.

        Args:
            maps: Attention maps (P, S, G, G) by level, for any of the three levels.

        Returns:
            Maps of the same levels and shapes.
        """
        if self.mode == "off":
            return maps
        out = dict(maps)
        if "body" in maps and "part" in maps:
            out["part"] = maps["part"] + self._upsample("part_to_body", maps["body"])
        if "joint" in maps:
            if "part" in maps:
                part = out["part"] if self.mode == "chained" else maps["part"]
                out["joint"] = out["joint"] + self._upsample("joint_to_part", part)
            if "body" in maps:
                out["joint"] = out["joint"] + self._upsample("joint_to_body", maps["body"])
        return out


class LevelAttention(nn.Module):
    """Spatial attention of one level, in two steps, so that its map can be polymerized in between.

    Args:
        channels: C.
        heads: S.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = ConvBN(channels, channels)

    def map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attention map and values, (P, G, T, C) -> (P, S, G, G) and (P, S, G, T*d). Rows of the map are queries."""
        persons, groups, frames, channels = x.shape
        layer = self.query_key_value
        # (P, G, T, C) -> (P, G, T, 3*C) -> (P, G, T, 3, S, d)
        qkv = pointwise(x.permute(0, 3, 1, 2), layer.weight, layer.bias).permute(0, 2, 3, 1)
        qkv = qkv.view(persons, groups, frames, 3, self.heads, channels // self.heads)
        query_key, value = torch.split(qkv, [2, 1], dim=3)
        # Columns beyond G make the product faster; see `padding`.
        product = query_key_product(query_key, groups + padding(groups, qkv))
        # (P, G, T, 1, S, d) -> (P, S, G, T, d) -> (P, S, G, T*d)
        return torch.tanh(product)[..., :groups], value.squeeze(3).permute(0, 3, 1, 2, 4).flatten(3)

    def apply_map(self, x: Tensor, attention: Tensor, value: Tensor) -> Tensor:
        """Output of the level, (P, G, T, C): projected product of map and values, plus the input.

        Args:
            x: (P, G, T, C), the input.
            attention: (P, S, G, G), the polymerized map.
            value: (P, S, G, T*d).
        """
        persons, groups, frames, channels = x.shape
        pad = padding(groups, value)
        if pad:
            attention, value = F.pad(attention, (0, pad)), F.pad(value, (0, 0, 0, pad))
        # (P, S, G, G + pad) @ (P, S, G + pad, T*d) -> (P, S, G, T*d) -> (P, S, G, T, d)
        attended = (attention @ value).view(persons, self.heads, groups, frames, channels // self.heads)
        # Concatenate the heads: (P, S, G, T, d) -> (P, G, T, S, d) -> (P, G, T, C)
        attended = attended.permute(0, 2, 3, 1, 4).flatten(3)
        convolved = self.out.convolve(attended.permute(0, 3, 1, 2))
        y = normalize_add_activate(self.out, convolved, residual=x.permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1)


class Pyramid(nn.Module):
    """One vector per person and level from the features of the encoder.

    Args:
        settings: Layer sizes, levels and polymerizing mode.
        topology: Joints and joint groups of the skeleton.
    """

    def __init__(self, settings: ModelSettings, topology: Topology) -> None:
        super().__init__()
        channels = settings.channels[-1]
        self.levels = tuple(level for level in COARSE_TO_FINE if level in settings.levels)
        self.attentions = nn.ModuleDict(
            {level: LevelAttention(channels, settings.heads) for level in self.levels}
        )
        self.polymerize = Polymerizer(topology, settings.polymerize)
        for level in self.levels:
            self.register_buffer(
                f"pool_{level}", pooling_matrix(topology.levels[level], topology.size), persistent=False
            )

    def maps(self, features: Tensor) -> dict[Level, Tensor]:
        """Polymerized attention maps by level, (P, C, T, V) -> (P, S, G, G) each, for visualization."""
        pooled = self._pool(features)
        maps = {level: self._attention(level).map(x)[0] for level, x in pooled.items()}
        return cast(dict[Level, Tensor], self.polymerize(maps))

    def forward(self, features: Tensor) -> dict[Level, Tensor]:
        """Mean over frames and groups of the attended features by level, (P, C, T, V) -> (P, C) each.

        The means are in the type of the parameters, also under autocast.
        """
        pooled = self._pool(features)
        attended = {level: self._attention(level).map(x) for level, x in pooled.items()}
        maps = self.polymerize({level: attention for level, (attention, _) in attended.items()})
        vectors: dict[Level, Tensor] = {}
        for level, x in pooled.items():
            layer = self._attention(level)
            _, value = attended[level]
            y = layer.apply_map(x, maps[level], value)
            vectors[level] = y.mean((1, 2), dtype=layer.out.norm.weight.dtype)  # (P, G, T, C) -> (P, C)
        return vectors

    def _pool(self, features: Tensor) -> dict[Level, Tensor]:
        """Mean of the features over the joints of each group by level, (P, C, T, V) -> (P, G, T, C) each."""
        # (P, C, T, V) -> (P, V, T, C), the memory layout of the encoder: no copy
        rows = as_rows(features)
        joints = rows.flatten(2)  # (P, V, T*C)
        pooled: dict[Level, Tensor] = {}
        for level in self.levels:
            if level == "joint":  # each group is one joint, the matrix would be the identity
                pooled[level] = rows
            else:
                matrix = self.get_buffer(f"pool_{level}").to(joints.dtype)
                groups, pad = len(matrix), padding(len(matrix), joints)
                # Padded along the groups, (V, G + pad): these are its rows in memory.
                matrix = (F.pad(matrix.T, (0, pad)) if pad else matrix.T).T
                # (P, G + pad, V) @ (P, V, T*C) -> (P, G + pad, T*C). `matmul` would copy the joints here.
                means = matrix.expand(len(rows), -1, -1) @ joints
                means = means[:, :groups].contiguous() if pad else means
                pooled[level] = means.view(len(rows), groups, *rows.shape[2:])
        return pooled

    def _attention(self, level: Level) -> LevelAttention:
        return cast(LevelAttention, self.attentions[level])
