"""The contrastive losses: NT-Xent, and the Coarse-to-fine Contrastive Loss, CCL (PSP Learning, arXiv 2302.02327).

Notation for tensor shapes: N clips, C channels of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import record_function

CONTRASTING = "psptool: contrast"
"""Label of this part of a step in the profiler, for `psptool train --profile`."""


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent (SimCLR, Chen et al. 2020) between two views of the same N clips.

    For each of the 2*N embeddings, the positive is the other view of the same clip. The other 2*N - 2 embeddings are
    negatives.

    Args:
        first: (..., N, C), one view of each clip.
        second: (..., N, C), the other view, in the same order.
        temperature: Divisor of the cosine similarities.

    Returns:
        Mean over all 2*N embeddings, (...).
    """
    rows = F.normalize(torch.cat((first, second), dim=-2), dim=-1)  # (..., 2*N, C)
    similarity = rows @ rows.mT / temperature  # (..., 2*N, 2*N)
    count = rows.shape[-2]
    # An embedding is neither its own positive nor its own negative.
    similarity = similarity.masked_fill(torch.eye(count, dtype=torch.bool, device=rows.device), -torch.inf)
    # The positives of rows 0 … 2*N - 1 are rows N … 2*N - 1, 0 … N - 1.
    positive = torch.arange(count, device=rows.device).roll(first.shape[-2])
    shape = similarity.shape[:-1]  # (..., 2*N)
    losses = F.cross_entropy(similarity.flatten(0, -2), positive.expand(shape).flatten(), reduction="none")
    return losses.view(shape).mean(-1)


@record_function(CONTRASTING)
def coarse_to_fine(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], temperature: float
) -> dict[str, Tensor]:
    """Terms of CCL by level: `nt_xent` between two streams. The loss is their sum.

    Args:
        first: Embeddings (N, C) of one stream by level.
        second: Embeddings of the other stream, with the same levels.
        temperature: As in `nt_xent`.
    """
    # All levels in one computation, (levels, N, C): single ones are too small for a GPU.
    one, other = (torch.stack([view[level] for level in first]) for view in (first, second))
    return dict(zip(first, nt_xent(one, other, temperature).unbind(), strict=True))
