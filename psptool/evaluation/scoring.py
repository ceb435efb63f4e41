"""Loads a trained network and computes the logits of clips, by stream and summed over streams.

Notation for array shapes: N clips, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from psptool.common.errors import PspError
from psptool.common.text import counted
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.store.reading import Store
from psptool.model.build import NETWORKS, build_model
from psptool.model.logits import clip_logits
from psptool.model.network import Network
from psptool.schemas.run import RunConfig
from psptool.training.runs.weights import read_weights

CHUNK = 1024
"""Maximum number of clips of a dataset in memory at a time, a multiple of the clips of a batch."""


@dataclass(frozen=True)
class StreamLogits:
    """The logits of N clips.

    Attributes:
        by_stream: Logits of each stream, float32 (N, K).
        heads: Number of classification heads in their sum; see `Network.classification_heads`.
    """

    by_stream: Mapping[str, NDArray[np.float32]]
    heads: int = 1

    @property
    def fused(self) -> NDArray[np.float32]:
        """Fusion of all streams: the sum of their logits, (N, K)."""
        return reduce(np.add, self.by_stream.values())

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Class probabilities (N, K): softmax of the mean over the classification heads.

        Each head is trained with a cross-entropy of its own. The softmax of their sum would be too certain.
        """
        return softmax(self.fused / self.heads)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Class probabilities float64 (N, K) of logits (N, K)."""
    values = logits.astype(np.float64)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def load_model(config: RunConfig, weights: Path, device: torch.device, contrast: bool = False) -> Network:
    """The run's network with its trained weights, in evaluation mode.

    Args:
        config: Configuration of the run.
        weights: The safetensors file. The format has only tensors, no code.
        device: Device of the network.
        contrast: Also load the branch of the contrastive loss, which has the attention maps.

    Raises:
        PspError: The file is missing or damaged, has the weights of another network, or has no branch of the
            contrastive loss although ``contrast`` is set.
    """
    if not weights.is_file():
        raise PspError(
            f"{weights}: there is no such file",
            fix="Check the path.",
        )
    tensors, _ = read_weights(weights)
    kept = without_contrast(config, tensors)
    name = config.training.model.network
    if contrast and not NETWORKS[name].contrast_branch:
        raise PspError(f"{weights}: has no attention maps", f"network {name}", "a run with network psp")
    if contrast and len(kept) == len(tensors):
        raise PspError(
            f"{weights}: has no attention maps, because {config.training.method} training had no contrastive loss",
            fix="Give a run of psptool train --method psp with loss.contrast_weight above 0.",
        )
    kept = tensors if contrast else kept
    try:
        # First on the meta device, without memory: a damaged configuration may describe a network of any size.
        with torch.device("meta"):
            network(config, contrast).load_state_dict(kept, assign=True)
        model = network(config, contrast)
        model.load_state_dict(kept)
    except RuntimeError as error:
        raise PspError(
            f"{weights}: does not fit the network in config.json: {' '.join(str(error).split())}",
            fix="Use the config.json and the weights of the same run.",
        ) from error
    return model.to(device).eval()


def without_contrast(config: RunConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those of the branch of the contrastive loss."""
    prefixes = NETWORKS[config.training.model.network].contrast_branch
    return {name: x for name, x in weights.items() if not name.startswith(prefixes)}


def network(config: RunConfig, contrast: bool = False) -> Network:
    """The run's network with initial weights; ``contrast`` adds the branch of the contrastive loss."""
    topology = config.topology
    return build_model(config.training, topology, len(config.class_names), contrast)


def score_clips(
    model: Network, config: RunConfig, store: Store, chosen: NDArray[np.integer], device: torch.device
) -> StreamLogits:
    """Logits of clips of a dataset in float32, from uniformly spaced frames.

    The logits of a clip do not depend on the other clips or their order, up to rounding in float32.
    At most `CHUNK` clips are in memory at a time.

    Args:
        model: A network from `load_model`.
        config: Configuration of the run; frame sampling and the treatment of absent persons are used.
        store: The dataset.
        chosen: int (N,), indices of clips in the store.
        device: Device of the model.

    Raises:
        PspError: A logit is not finite, or the store is damaged.
    """
    topology = config.topology
    chunks = [chosen[first : first + CHUNK] for first in range(0, len(chosen), CHUNK)]
    parts = [
        _logits(model, config, RaggedClips.from_store(store, topology, device, chosen=chunk), chunk)
        for chunk in chunks
    ]
    return _joined(parts, [store.names[n] for n in chosen], model.classification_heads)


def score_ragged(
    model: Network,
    config: RunConfig,
    clips: RaggedClips,
    chosen: NDArray[np.integer],
    names: Sequence[str],
) -> StreamLogits:
    """Like `score_clips`, for clips that are already on the model's device.

    Args:
        model: A network from `load_model`.
        config: Configuration of the run; frame sampling and the treatment of absent persons are used.
        clips: The clips.
        chosen: int (N,), indices in ``clips``.
        names: Names of the N clips, for the error message.

    Raises:
        PspError: A logit is not finite.
    """
    return _joined([_logits(model, config, clips, chosen)], names, model.classification_heads)


def _logits(
    model: Network, config: RunConfig, clips: RaggedClips, chosen: NDArray[np.integer]
) -> dict[str, NDArray[np.float32]]:
    """Logits by stream, (N, K) each."""
    numbers = torch.as_tensor(np.asarray(chosen, dtype=np.int64))
    found = clip_logits(model, Batcher.of(clips, config.training), numbers)
    return {name: x.cpu().numpy() for name, x in found.items()}


def _joined(
    parts: Sequence[Mapping[str, NDArray[np.float32]]], names: Sequence[str], heads: int
) -> StreamLogits:
    """Concatenate the logits of consecutive clips.

    Args:
        parts: By stream (n, K) each.
        names: Names of all clips, for the error.
        heads: Number of classification heads.

    Raises:
        PspError: A logit is not finite.
    """
    by_stream = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    scored = StreamLogits(by_stream, heads)
    not_finite = np.flatnonzero(~np.isfinite(scored.fused).all(axis=1))
    if len(not_finite):
        raise PspError(
            f"logits are not finite for {len(not_finite)} of {counted(len(names), 'clip')}, such as "
            f"{names[int(not_finite[0])]}",
            fix="The training diverged: train again with a lower optim.lr, or with optim.clip_norm of 5 or less.",
        )
    return scored
