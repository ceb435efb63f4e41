"""Baseline training step in the style of published implementations, with the same mathematics and weights as psptool.

Clips are padded arrays from DataLoader workers. Every clip has two persons; absent persons are zeros and are computed.
Tensors are (P, C, T, V). The attention maps of the pyramid are propagated by a Python loop over pairs of groups, or by
index_select with `by_index`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from psptool.schemas.training import ModelSettings
from psptool.skeletons.topology import Topology

SLOPE, TEMPERATURE = 0.1, 0.07


class PaddedClips(Dataset):  # type: ignore[type-arg]
    """Clips as arrays (2, frames, V, 3) of joint and motion stream."""

    def __init__(self, joint: list[np.ndarray], motion: list[np.ndarray], label: list[int], frames: int):
        self.joint, self.motion, self.label, self.frames = joint, motion, label, frames

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Joint and motion stream of a clip, (2, 3, T, V) each with separately sampled frames, and its label."""
        streams = []
        for data in (self.joint[index], self.motion[index]):
            slots = np.repeat(np.arange(data.shape[1]), math.ceil(self.frames / data.shape[1]))
            drawn = np.sort(np.random.choice(len(slots), self.frames, replace=False))  # noqa: NPY002
            streams.append(data[:, slots[drawn]].transpose(0, 3, 1, 2).copy())
        return streams[0], streams[1], self.label[index]


def feed(clips: PaddedClips, batch: int, workers: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches from worker processes."""
    loader = DataLoader(
        clips, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        yield from loader


def conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution over frames and batch norm."""
    conv = nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (kernel // 2, 0))
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """One encoder block on (P, C, T, V)."""

    def __init__(
        self, inputs: int, outputs: int, qk_channels: int, heads: int, joints: int, stride: int, kernel: int
    ) -> None:
        super().__init__()
        self.heads, self.qk_channels = heads, qk_channels
        channel, position = torch.arange(inputs), torch.arange(joints)
        angle = position[None, :] / 10000.0 ** ((channel - channel % 2) / inputs)[:, None]
        table = torch.where(channel[:, None] % 2 == 0, angle.sin(), angle.cos())
        self.register_buffer("table", table[None, :, None, :], persistent=False)
        self.query_key = nn.Conv2d(inputs, 2 * heads * qk_channels, 1)
        self.alpha = nn.Parameter(torch.ones(heads, 1, 1))
        self.global_attention = nn.Parameter(torch.full((heads, joints, joints), 1 / joints))
        self.spatial = conv_norm(heads * inputs, outputs)
        self.feed_forward = conv_norm(outputs, outputs)
        self.temporal = conv_norm(outputs, outputs, kernel, stride)
        changes = inputs != outputs or stride != 1
        self.skip_spatial = conv_norm(inputs, outputs) if changes else nn.Identity()
        self.skip_feed = conv_norm(inputs, outputs) if changes else nn.Identity()
        self.skip_temporal = conv_norm(outputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(P, C, T, V) -> (P, C', T', V)."""
        persons, channels, frames, joints = x.shape
        query_key = self.query_key(x + self.get_buffer("table"))
        query, key = query_key.view(persons, 2 * self.heads, self.qk_channels, frames, joints).chunk(2, dim=1)
        maps = torch.einsum("nsctu,nsctv->nsuv", query, key) / (self.qk_channels * frames)
        maps = torch.tanh(maps) * self.alpha + self.global_attention
        y = torch.einsum("nctu,nsuv->nsctv", x, maps).contiguous()
        y = y.view(persons, self.heads * channels, frames, joints)
        y = F.leaky_relu(self.spatial(y) + self.skip_spatial(x), SLOPE)
        y = F.leaky_relu(self.feed_forward(y) + self.skip_feed(x), SLOPE)
        return F.leaky_relu(self.temporal(y) + self.skip_temporal(y), SLOPE)


class Encoder(nn.Module):
    """Input projection and blocks."""

    def __init__(self, settings: ModelSettings, joints: int) -> None:
        super().__init__()
        width = settings.channels[0]
        self.input_projection = conv_norm(3, width)
        self.blocks = nn.ModuleList()
        for outputs, qk_channels, stride in zip(
            settings.channels, settings.qk_channels, settings.strides, strict=True
        ):
            self.blocks.append(
                Block(width, outputs, qk_channels, settings.heads, joints, stride, settings.temporal_kernel)
            )
            width = outputs

    def forward(self, x: Tensor) -> Tensor:
        """(P, 3, T, V) -> (P, C, T', V)."""
        x = F.leaky_relu(self.input_projection(x), SLOPE)
        for block in self.blocks:
            x = block(x)
        return x


class Attention(nn.Module):
    """Attention of one level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = conv_norm(channels, channels)


class Pyramid(nn.Module):
    """Polymerizing attention over body, parts and joints, as with ``model.polymerize=raw``."""

    def __init__(self, settings: ModelSettings, topology: Topology, by_index: bool) -> None:
        super().__init__()
        self.heads, self.by_index = settings.heads, by_index
        self.groups = {
            "body": [group.joints for group in topology.regions],
            "part": [group.joints for group in topology.parts],
            "joint": [(joint,) for joint in range(topology.size)],
        }
        self.owner = {
            "part": (topology.part_to_region,),
            "joint": (topology.joint_to_part, topology.joint_to_region),
        }
        self.attentions = nn.ModuleDict({level: Attention(settings.channels[-1]) for level in self.groups})

    def propagate(self, coarse: Tensor, owner: tuple[int, ...]) -> Tensor:
        """Map each pair of groups to the value of its coarser pair, times the relative size of the largest group."""
        share = max(owner.count(group) for group in owner) / len(owner)
        if self.by_index:
            index = torch.tensor(owner, device=coarse.device)
            return share * coarse.index_select(2, index).index_select(3, index)
        rows = [torch.stack([coarse[:, :, u, v] for v in owner], dim=-1) for u in owner]
        return share * torch.stack(rows, dim=-2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(P, C, T, V) -> (P, C) by level."""
        pooled, values, maps = {}, {}, {}
        for level, groups in self.groups.items():
            y = torch.stack([x[..., list(group)].mean(-1) for group in groups], dim=-1)
            mapped = self.attentions[level].query_key_value(y)  # type: ignore[operator]
            mapped = mapped.view(len(x), 3, self.heads, -1, *y.shape[2:])
            query, key, value = mapped.unbind(1)
            scale = query.shape[2] * query.shape[3]
            pooled[level], values[level] = y, value
            maps[level] = torch.tanh(torch.einsum("nsctu,nsctv->nsuv", query, key) / scale)
        (part_to_body,), (joint_to_part, joint_to_body) = self.owner["part"], self.owner["joint"]
        part = maps["part"] + self.propagate(maps["body"], part_to_body)
        joint = (
            maps["joint"]
            + self.propagate(maps["part"], joint_to_part)
            + self.propagate(maps["body"], joint_to_body)
        )
        vectors = {}
        for level, attention in {"body": maps["body"], "part": part, "joint": joint}.items():
            y = torch.einsum("nsuv,nsctv->nsctu", attention, values[level]).flatten(1, 2)
            y = F.leaky_relu(self.attentions[level].out(y) + pooled[level], SLOPE)  # type: ignore[operator]
            vectors[level] = y.mean((2, 3))
        return vectors


class PlainNet(nn.Module):
    """The network; its state dictionary has the keys of `psptool.model.classifier.PSPNet`."""

    def __init__(self, settings: ModelSettings, topology: Topology, classes: int, by_index: bool = False):
        super().__init__()
        width = settings.channels[-1]
        self.encoders = nn.ModuleDict({"joint": Encoder(settings, topology.size)})
        self.classifier = nn.Linear(width, classes)
        self.pyramid = Pyramid(settings, topology, by_index)
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def loss(self, joint: Tensor, motion: Tensor, label: Tensor, labelled: int) -> Tensor:
        """Cross-entropy plus 0.2 times contrastive loss of streams (N, 2, 3, T, V); labelled clips come first."""
        clips, slots = joint.shape[:2]
        features = self.encoders["joint"](torch.cat((joint, motion)).flatten(0, 1))
        features = features.view(2, clips, slots, *features.shape[1:])
        logits = self.classifier(features.mean((2, 4, 5))).sum(0)
        total = F.cross_entropy(logits[:labelled], label[:labelled])
        # Only the unlabelled batch is input of the pyramid.
        first, second = (self.pyramid(stream[labelled:].flatten(0, 1)) for stream in features)
        for level in first:
            vectors = [self.projection(x[level].unflatten(0, (-1, slots)).mean(1)) for x in (first, second)]
            total = total + 0.2 * contrast(*vectors)
        return total


def contrast(first: Tensor, second: Tensor) -> Tensor:
    """NT-Xent loss of joint and motion embeddings."""
    rows = F.normalize(torch.cat((first, second)), dim=1)
    similar = torch.exp(rows @ rows.T / TEMPERATURE)
    own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    positive = torch.exp((rows * rows.roll(len(first), 0)).sum(1) / TEMPERATURE)
    return -torch.log(positive / similar.masked_fill(own, 0.0).sum(1)).mean()
