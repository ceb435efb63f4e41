"""Batch norms of all kinds: with torchrun on shards of unequal size, without it the single-process reference.

Usage: ``distributed_norms.py OUT``
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from psptool.common.distributed import ProcessGroup, init_distributed
from psptool.model.synced_norm import synchronize_norms


class OwnNorm(nn.BatchNorm2d):
    """Subclass of a batch norm with its own ``forward``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous()).clone()


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d, without length": (lambda: nn.BatchNorm1d(3), (7, 3)),
    "1d, with length": (lambda: nn.BatchNorm1d(3), (7, 3, 4)),
    "2d": (lambda: nn.BatchNorm2d(3), (7, 3, 4, 2)),
    "3d": (lambda: nn.BatchNorm3d(3), (7, 3, 4, 2, 2)),
    "a subclass": (lambda: OwnNorm(3), (7, 3, 4, 2)),
    "cumulative average": (lambda: nn.BatchNorm1d(3, momentum=None), (7, 3, 4)),
    "no parameters": (lambda: nn.BatchNorm1d(3, affine=False), (7, 3, 4)),
    "no rows on the second process": (lambda: nn.BatchNorm1d(3), (1, 3, 4)),
}


def train_and_evaluate(norm: nn.Module, shape: tuple[int, ...], ranks: ProcessGroup) -> dict[str, Tensor]:
    """Outputs and gradients of the last of three training steps, the state after it, and the outputs in evaluation."""
    if ranks.size > 1:
        synchronize_norms(norm)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        # Values far from zero, with a scale that differs between rows.
        x = 5 + torch.randn(shape, generator=generator) * torch.arange(1.0, shape[0] + 1).view(
            -1, *(1,) * (len(shape) - 1)
        )
        weights = torch.randn(shape, generator=generator)
        shard = x[ranks.shard()].requires_grad_()
        norm.zero_grad()
        out = norm(shard)
        (out * weights[ranks.shard()]).sum().backward()
        if [*norm.parameters()]:
            ranks.all_reduce_gradients(norm.parameters())
    assert shard.grad is not None
    gradients = {
        f"gradient of {name}": p.grad.clone() for name, p in norm.named_parameters() if p.grad is not None
    }
    evaluated = norm.eval()(x).detach()
    return {
        "out": out.detach(),
        "gradient": shard.grad,
        **gradients,
        **norm.state_dict(),
        "evaluated": evaluated,
    }


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    with init_distributed() as ranks:
        found = {}
        for case, (make, shape) in CASES.items():
            norm = make()
            for number, parameter in enumerate(norm.parameters()):
                nn.init.constant_(parameter, 1.5 - number)
            found[case] = train_and_evaluate(norm, shape, ranks)
        torch.save(found, Path(sys.argv[1]) / f"{ranks.rank}of{ranks.size}.pt")
