"""The contrastive losses: NT-Xent, and the Coarse-to-fine Contrastive Loss, CCL (PSP Learning, arXiv 2302.02327)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import record_function

CONTRASTING = "psptool: contrast"
"""What `psptool train --profile` calls this part of a step."""


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent (SimCLR, Chen et al. 2020) between two views of the same N clips.

    Of the 2N normalized rows, each has the other view's row of its clip as the positive and the 2N - 2 others as
    negatives.

    Args:
        first: (N, C), one view of each clip.
        second: (N, C), the other view.
        temperature: Divides the cosine similarities.

    Returns:
        The mean over all 2N rows, a scalar.
    """
    rows = F.normalize(torch.cat((first, second)), dim=1)
    similarity = rows @ rows.T / temperature
    # A row is neither its own positive nor its own negative.
    similarity = similarity.masked_fill(
        torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf
    )
    positive = torch.arange(len(rows), device=rows.device).roll(len(first))
    return F.cross_entropy(similarity, positive)


@record_function(CONTRASTING)
def coarse_to_fine(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], temperature: float
) -> dict[str, Tensor]:
    """CCL's terms: `nt_xent` between two streams at each level; the loss is their sum.

    Args:
        first: One stream's (N, C) by level.
        second: The other stream's, the same levels.
        temperature: As in `nt_xent`.
    """
    return {level: nt_xent(first[level], second[level], temperature) for level in first}
