"""Row lengths of matrices multiplied in bfloat16: GPUs are slow unless they are multiples of 8."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from psptool.data.batches.streams import Stream
from psptool.losses.total import total_loss
from psptool.model import encoder
from psptool.model.classifier import PSPNet
from psptool.schemas.training import ModelSettings, OptimSettings, StreamSettings, TrainingConfig
from psptool.skeletons.topology import Topology
from tests.builtin import NTU25, UCLA20

PRODUCTS = {
    torch.ops.aten.mm.default: 0,
    torch.ops.aten.bmm.default: 0,
    torch.ops.aten.addmm.default: 1,
    torch.ops.aten.baddbmm.default: 1,
    torch.ops.aten.baddbmm_.default: 1,
}
"""Position of the first factor among the arguments of each operator."""


class RecordProducts(TorchDispatchMode):
    """Records the row length in memory of all factors and results of products in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, int]] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs: Mapping[str, object] | None = None):  # type: ignore[no-untyped-def]
        result = operator(*args, **(kwargs or {}))
        if operator in PRODUCTS and result.dtype == torch.bfloat16:
            first = PRODUCTS[operator]
            for x in (args[first], args[first + 1], result):
                # Size of the axis that is contiguous in memory; a factor may be transposed.
                row = next(
                    size for size, step in zip(x.shape[::-1], x.stride()[::-1], strict=True) if step == 1
                )
                self.rows.append((str(operator), row))
        return result


@pytest.mark.parametrize("topology", [NTU25, UCLA20])
@pytest.mark.parametrize("projection", ["per_joint", "whole_body"])
def test_rows_of_all_bfloat16_products_are_multiples_of_8(
    topology: Topology, projection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU, where 1x1 convolutions are products too.
    monkeypatch.setattr(
        encoder,
        "pointwise",
        lambda x, weight, bias=None, stride=1: encoder.padded_linear(
            x[..., ::stride].permute(0, 2, 3, 1), weight.flatten(1), bias
        ).permute(0, 3, 1, 2),
    )
    monkeypatch.setattr("psptool.model.pyramid.pointwise", encoder.pointwise)
    recipe = TrainingConfig(
        model=ModelSettings(
            channels=(16, 32), qk_channels=(8, 8), strides=(1, 2), heads=2, input_projection=projection
        ),
        streams=StreamSettings(names=("joint", "motion")),
        optim=OptimSettings(labelled_batch=2, pool_batch=3),
    )
    model = PSPNet(recipe.model, topology, 10)
    counts = torch.tensor([1, 2, 1, 1, 2])
    batch = {name: Stream.of(torch.randn(7, 3, 6, topology.size), counts) for name in ("joint", "motion")}
    with RecordProducts() as recorded:
        loss = total_loss(model, batch, torch.tensor([0, 1]), recipe, torch.bfloat16)["loss"]
        loss.backward()
    assert len(recorded.rows) > 100
    assert {(name, row) for name, row in recorded.rows if row % 8} == set()
