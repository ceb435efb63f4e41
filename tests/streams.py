"""Batches of the two default streams, and a network's outputs as tuples in their order."""

from __future__ import annotations

from torch import Tensor

from psptool.data.batches.streams import Batch, Stream
from psptool.model.network import Network


def two(joint: Stream, motion: Stream) -> Batch:
    """A batch of the joint and the motion stream."""
    return {"joint": joint, "motion": motion}


def stream_logits(model: Network, batch: Batch) -> tuple[Tensor, ...]:
    """Logits of each stream, in the order of the batch."""
    return tuple(model(batch).by_stream.values())


def stream_features(model: Network, batch: Batch) -> tuple[Tensor, ...]:
    """Features of each stream, in the order of the batch."""
    return tuple(model.features(batch).values())
