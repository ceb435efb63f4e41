"""Levels of the pyramid that have one group of joints."""

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
    recipe = resolve(preset="fast")
    assert limit_levels(recipe, NTU25) == (recipe, "")


def test_a_level_with_one_group_is_left_out_and_said_so() -> None:
    recipe, said = limit_levels(resolve(preset="fast"), FLY)
    assert len(FLY.regions) == 1
    assert "body" not in recipe.model.levels
    assert "joint" in recipe.contrast_levels
    assert said.startswith("model.levels: without body")
    build_model(recipe, FLY, 2)


def test_supervised_training_has_no_levels_to_leave_out() -> None:
    recipe = resolve(preset="fast", method="supervised")
    assert limit_levels(recipe, FLY) == (recipe, "")


def test_a_training_without_any_level_is_refused() -> None:
    with pytest.raises(PspError, match=r"model.levels: no level .*body"):
        limit_levels(resolve(preset="fast", changes=["model.levels=[body]"]), FLY)


@pytest.mark.parametrize("joints", [2, 3, 40])
def test_a_network_is_built_for_any_number_of_joints(joints: int) -> None:
    names = [f"j{n}" for n in range(joints)]
    chain = [(names[n], names[n + 1]) for n in range(joints - 1)]
    topology = SkeletonDescription(name="chain", joints=names, bones=chain, dimensions=2).topology
    recipe, _ = limit_levels(resolve(preset="demo"), topology)
    assert build_model(recipe, topology, 3) is not None
