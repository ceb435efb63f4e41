"""Levels of the body pyramid with only one group of joints."""

from __future__ import annotations

import pytest

from psptool.common.errors import PspError
from psptool.model.build import build_model
from psptool.schemas.recipes import resolve
from psptool.schemas.skeleton import SkeletonDescription
from psptool.training.guards import limit_levels
from tests.builtin import NTU25

FLY = SkeletonDescription(
    name="fly", joints=("head", "thorax", "abdomen"), bones=(("head", "thorax"), ("thorax", "abdomen")), dimensions=2
).topology  # fmt: skip


def test_all_levels_of_ntu_are_used() -> None:
    config = resolve(preset="fast")
    assert limit_levels(config, NTU25) == (config, "")


def test_a_level_with_one_group_is_dropped_with_a_message() -> None:
    config, message = limit_levels(resolve(preset="fast"), FLY)
    assert len(FLY.regions) == 1
    assert "body" not in config.model.levels
    assert "joint" in config.contrast_levels
    assert message.startswith("model.levels: without body")
    build_model(config, FLY, 2)


def test_supervised_training_has_no_levels_to_drop() -> None:
    config = resolve(preset="fast", method="supervised")
    assert limit_levels(config, FLY) == (config, "")


def test_training_without_any_level_is_refused() -> None:
    with pytest.raises(PspError, match=r"model.levels: no level .*body"):
        limit_levels(resolve(preset="fast", changes=["model.levels=[body]"]), FLY)


@pytest.mark.parametrize("joints", [2, 3, 40])
def test_a_network_is_built_for_any_number_of_joints(joints: int) -> None:
    names = [f"j{n}" for n in range(joints)]
    chain = [(names[n], names[n + 1]) for n in range(joints - 1)]
    topology = SkeletonDescription(name="chain", joints=names, bones=chain, dimensions=2).topology
    config, _ = limit_levels(resolve(preset="demo"), topology)
    assert build_model(config, topology, 3) is not None
