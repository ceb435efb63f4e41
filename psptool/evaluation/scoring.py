"""A trained run as a function from clips to scores: its weights read back, its streams' logits added up.

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
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from psptool.common.errors import PspError
from psptool.common.paths import readable_name
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.skeletons.topologies import TOPOLOGIES
from psptool.data.store.reading import Store
from psptool.model.build import NETWORKS, build_model
from psptool.model.logits import clip_logits
from psptool.model.network import Network
from psptool.schemas.run import RunConfig

CHUNK = 1024
"""Maximum number of clips of a dataset in memory at a time, a multiple of the clips of a batch."""


@dataclass(frozen=True)
class StreamLogits:
    """The logits of N clips.

    Attributes:
        by_stream: float32 (N, K) each.
    """

    by_stream: Mapping[str, NDArray[np.float32]]

    @property
    def fused(self) -> NDArray[np.float32]:
        """The prediction's logits (N, K), the sum over streams."""
        return reduce(np.add, self.by_stream.values())


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits (N, K) as probabilities, float64 (N, K); each row sums to 1."""
    values = logits.astype(np.float64)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def load_model(config: RunConfig, weights: Path, device: torch.device, contrast: bool = False) -> Network:
    """The run's network with its trained weights, ready to predict.

    Args:
        config: What was trained.
        weights: The safetensors file; only tensors are read from it, never code.
        device: Where the network goes.
        contrast: Load the contrastive loss's branch too, which holds the attention maps.

    Raises:
        PspError: The file is absent, damaged, or holds another network's weights; or ``contrast``, and the run
            was trained without.
    """
    if not weights.is_file():
        raise PspError(
            f"{weights}: there is no such file",
            fix="Check the path.",
        )
    try:
        with readable_name(weights) as name:
            tensors = load_file(name, device="cpu")
    except (SafetensorError, OSError) as error:
        raise PspError(
            f"{weights}: cannot be read as safetensors ({error})",
            fix="Copy it again from its source, or train again.",
        ) from error
    if config.topology not in TOPOLOGIES:
        raise PspError(
            "config.json: topology",
            repr(config.topology),
            f"one of {', '.join(TOPOLOGIES)}",
            "Put back the config.json and the weights of one run.",
        )
    kept = without_contrast(config, tensors)
    if contrast and len(kept) == len(tensors):
        raise PspError(
            f"{weights}: has no attention maps, as {config.training.method} trained it without the contrast",
            fix="Name a run of psptool train --method psp whose loss.contrast_weight is above 0.",
        )
    kept = tensors if contrast else kept
    try:
        # First without memory: a configuration may ask for any size, and the file's tensors tell the true one.
        with torch.device("meta"):
            network(config, contrast).load_state_dict(kept, assign=True)
        model = network(config, contrast)
        model.load_state_dict(kept)
    except RuntimeError as error:
        raise PspError(
            f"{weights}: not the weights of the network in config.json: {' '.join(str(error).split())}",
            fix="Put back the config.json and the weights of one run.",
        ) from error
    return model.to(device).eval()


def without_contrast(config: RunConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The run's weights without those that only the contrastive loss needs."""
    prefixes = NETWORKS[config.training.model.network].contrast_branch
    return {name: x for name, x in weights.items() if not name.startswith(prefixes)}


def network(config: RunConfig, contrast: bool = False) -> Network:
    """The run's network with fresh weights; with the contrastive loss's branch where ``contrast``."""
    topology = TOPOLOGIES[config.topology]
    return build_model(config.training, topology, len(config.class_names), contrast)


def score_clips(
    model: Network, config: RunConfig, store: Store, chosen: NDArray[np.integer], device: torch.device
) -> StreamLogits:
    """Logits of clips of a dataset, from test frames (nothing drawn), present persons only, in float32.

    At most `CHUNK` clips are in memory at a time.

    A clip gets the same logits in whatever order and company it comes, up to the last bits of float32.

    Args:
        model: As `load_model` gives it.
        config: Whose sampling and treatment of absent persons hold.
        store: The dataset.
        chosen: int (N,), clip numbers in the store.
        device: Where the model is.

    Raises:
        PspError: A logit is not finite; or the store is damaged.
    """
    topology = TOPOLOGIES[config.topology]
    chunks = [chosen[first : first + CHUNK] for first in range(0, len(chosen), CHUNK)]
    parts = [
        _logits(model, config, RaggedClips.from_store(store, topology, device, chosen=chunk), chunk)
        for chunk in chunks
    ]
    return _joined(parts, [store.names[n] for n in chosen])


def score_ragged(
    model: Network,
    config: RunConfig,
    clips: RaggedClips,
    chosen: NDArray[np.integer],
    names: Sequence[str],
) -> StreamLogits:
    """As `score_clips`, for clips that lie on the model's device already.

    Args:
        model: As `load_model` gives it.
        config: Whose sampling and treatment of absent persons hold.
        clips: Where the clips are.
        chosen: int (N,), clip numbers.
        names: Of the N clips, for the error.

    Raises:
        PspError: A logit is not finite.
    """
    return _joined([_logits(model, config, clips, chosen)], names)


def _logits(
    model: Network, config: RunConfig, clips: RaggedClips, chosen: NDArray[np.integer]
) -> dict[str, NDArray[np.float32]]:
    """Logits by stream, (N, K) each."""
    numbers = torch.as_tensor(np.asarray(chosen, dtype=np.int64))
    found = clip_logits(model, Batcher.of(clips, config.training), numbers)
    return {name: x.cpu().numpy() for name, x in found.items()}


def _joined(parts: Sequence[Mapping[str, NDArray[np.float32]]], names: Sequence[str]) -> StreamLogits:
    """The logits of consecutive clips as one; ``names`` are those of all clips, for the error.

    Raises:
        PspError: A logit is not finite.
    """
    scored = StreamLogits({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    broken = np.flatnonzero(~np.isfinite(scored.fused).all(axis=1))
    if len(broken):
        raise PspError(
            f"{len(broken)} of {len(names)} clips get logits that are not finite, the first is "
            f"{names[int(broken[0])]}",
            fix="The training broke down: train again with a lower optim.lr, or with optim.clip_norm of 5 or less.",
        )
    return scored
