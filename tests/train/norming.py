"""Run by torchrun: batch norms of all kinds, on shares of unequal size; alone, it is the process to equal.

Usage: ``norming.py OUT``
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
    """Batch norm by a formula of its own, as a subclass may have it."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(x.contiguous()).clone()


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d, rows": (lambda: nn.BatchNorm1d(3), (7, 3)),
    "1d, lengths": (lambda: nn.BatchNorm1d(3), (7, 3, 4)),
    "2d": (lambda: nn.BatchNorm2d(3), (7, 3, 4, 2)),
    "3d": (lambda: nn.BatchNorm3d(3), (7, 3, 4, 2, 2)),
    "a subclass": (lambda: OwnNorm(3), (7, 3, 4, 2)),
    "mean of all batches": (lambda: nn.BatchNorm1d(3, momentum=None), (7, 3, 4)),
    "no parameters": (lambda: nn.BatchNorm1d(3, affine=False), (7, 3, 4)),
    "nothing on the second process": (lambda: nn.BatchNorm1d(3), (1, 3, 4)),
}


def pass_through(norm: nn.Module, shape: tuple[int, ...], ranks: ProcessGroup) -> dict[str, Tensor]:
    """Three training steps and an evaluation: outputs and gradients of the last one, and the state after it."""
    if ranks.size > 1:
        synchronize_norms(norm)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        # Far from zero, and unequal over the rows.
        x = 5 + torch.randn(shape, generator=generator) * torch.arange(1.0, shape[0] + 1).view(
            -1, *(1,) * (len(shape) - 1)
        )
        weights = torch.randn(shape, generator=generator)
        own = x[ranks.shard()].requires_grad_()
        norm.zero_grad()
        out = norm(own)
        (out * weights[ranks.shard()]).sum().backward()
        if [*norm.parameters()]:
            ranks.all_reduce_gradients(norm.parameters())
    assert own.grad is not None
    gradients = {
        f"gradient of {name}": p.grad.clone() for name, p in norm.named_parameters() if p.grad is not None
    }
    evaluated = norm.eval()(x).detach()
    return {
        "out": out.detach(),
        "gradient": own.grad,
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
            found[case] = pass_through(norm, shape, ranks)
        torch.save(found, Path(sys.argv[1]) / f"{ranks.rank}of{ranks.size}.pt")
