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
        first: (N, C), one view of each clip.
        second: (N, C), the other view, in the same order.
        temperature: Divisor of the cosine similarities.

    Returns:
        Mean over all 2*N embeddings, a scalar.
    """
    rows = F.normalize(torch.cat((first, second)), dim=1)  # (2*N, C)
    similarity = rows @ rows.T / temperature  # (2*N, 2*N)
    # An embedding is neither its own positive nor its own negative.
    similarity = similarity.masked_fill(
        torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf
    )
    # The positives of rows 0 … 2*N - 1 are rows N … 2*N - 1, 0 … N - 1.
    positive = torch.arange(len(rows), device=rows.device).roll(len(first))
    return F.cross_entropy(similarity, positive)


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
    return {level: nt_xent(first[level], second[level], temperature) for level in first}
