"""Pooling, attention of the three levels and polymerization compared with the formulas in `literal`, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psptool.model.pyramid import Polymerizer, Pyramid, pooling_matrix
from psptool.schemas.training import ModelSettings
from psptool.skeletons.topology import Topology
from tests.builtin import NTU25, UCLA20

from . import literal, translate
from .translate import BODIES, LEVELS, PARTS

BOTH = pytest.mark.parametrize("topology", [NTU25, UCLA20], ids=lambda topology: topology.name)
MODES = pytest.mark.parametrize("mode", ["raw", "chained", "off"])


def settings(mode: str = "chained", levels: tuple[str, ...] = LEVELS) -> ModelSettings:
    return ModelSettings(
        channels=(4,), qk_channels=(2,), strides=(1,), heads=2, levels=levels, polymerize=mode
    )  # type: ignore[arg-type]


def make_pyramid(topology: Topology, **changes: object) -> tuple[Pyramid, torch.Tensor]:
    with translate.doubles(seed=8):
        pyramid = Pyramid(settings(**changes), topology)  # type: ignore[arg-type]
        translate.shuffle_weights(pyramid)
        return pyramid, torch.randn(3, 4, 2, topology.size)


def random_maps(joints: int) -> dict[str, torch.Tensor]:
    sizes = {"body": 5, "part": 10, "joint": joints}
    with translate.doubles(seed=9):
        return {level: torch.randn(2, 3, size, size) for level, size in sizes.items()}


@BOTH
def test_pooling_is_the_mean_over_each_groups_joints(topology: Topology) -> None:
    expected = {"body": BODIES[topology.size], "part": PARTS[topology.size]}
    expected["joint"] = [(joint,) for joint in range(topology.size)]
    with translate.doubles(seed=7):
        x = torch.randn(2, 3, 2, topology.size)
        for level in LEVELS:
            pooled = torch.einsum("gv,nctv->nctg", pooling_matrix(topology.levels[level], topology.size), x)
            translate.close(pooled, literal.pool(translate.array(x), expected[level]))


@BOTH
@MODES
def test_polymerization_adds_the_coarse_maps_with_the_original_coefficients(
    topology: Topology, mode: str
) -> None:
    maps = random_maps(topology.size)
    before = {level: x.clone() for level, x in maps.items()}
    found = Polymerizer(topology, mode)(maps)
    arrays = (translate.array(maps[level]) for level in LEVELS)
    expected = literal.polymerize(*arrays, BODIES[topology.size], PARTS[topology.size], mode)
    for level, values in zip(LEVELS, expected, strict=True):
        translate.close(found[level], values)
        assert torch.equal(maps[level], before[level]), "the input maps must not change"


@BOTH
@pytest.mark.parametrize("mode", ["raw", "chained"])
@pytest.mark.parametrize("disabled", LEVELS)
def test_a_disabled_level_does_not_contribute_to_finer_levels(
    topology: Topology, mode: str, disabled: str
) -> None:
    maps = random_maps(topology.size)
    remaining = {level: x for level, x in maps.items() if level != disabled}
    maps[disabled] = torch.zeros_like(maps[disabled])
    arrays = [translate.array(maps[level]) for level in LEVELS]
    bodies, parts = BODIES[topology.size], PARTS[topology.size]
    # Without the part level, no body map reaches the joints through it, so chained equals raw.
    literal_mode = "raw" if disabled == "part" else mode
    expected = dict(zip(LEVELS, literal.polymerize(*arrays, bodies, parts, literal_mode), strict=True))
    found = Polymerizer(topology, mode)(remaining)
    assert found.keys() == remaining.keys()
    for level in remaining:
        translate.close(found[level], expected[level])


@BOTH
@MODES
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_pyramid_equals_pooling_attention_polymerization_and_means(
    topology: Topology, mode: str, training: bool
) -> None:
    pyramid, x = make_pyramid(topology, mode=mode)
    weights = translate.pyramid(pyramid)
    pyramid.train(training)
    found = pyramid(x)
    features = literal.pyramid(
        translate.array(x), weights, BODIES[topology.size], PARTS[topology.size], mode, training
    )
    for level, values, w in zip(LEVELS, features, weights, strict=True):
        assert found[level].shape == (3, 4)
        translate.close(found[level], literal.clip_means(values, [0, 1, 2], 3))
        mean, var = translate.moments(pyramid.attentions[level].out[1])
        np.testing.assert_allclose(mean, w.norm.mean, rtol=1e-9)
        np.testing.assert_allclose(var, w.norm.var, rtol=1e-9)


@BOTH
@MODES
def test_exported_attention_maps_are_those_used_in_the_forward_pass(topology: Topology, mode: str) -> None:
    pyramid, x = make_pyramid(topology, mode=mode)
    plain = []
    pooled = (literal.pool(translate.array(x), BODIES[topology.size]),)
    pooled += (literal.pool(translate.array(x), PARTS[topology.size]), translate.array(x))
    for y, w in zip(pooled, translate.pyramid(pyramid), strict=True):
        q, k, _ = literal.split_heads(literal.conv(y, w.qkv), w.heads)
        plain.append(literal.level_maps(q, k))
    expected = literal.polymerize(*plain, BODIES[topology.size], PARTS[topology.size], mode)
    found = pyramid.maps(x)
    for level, values in zip(LEVELS, expected, strict=True):
        translate.close(found[level], values)


@pytest.mark.parametrize("levels", [("joint",), ("body", "joint"), ("joint", "part")])
def test_only_the_configured_levels_are_built_and_returned(levels: tuple[str, ...]) -> None:
    pyramid, x = make_pyramid(UCLA20, levels=levels)
    assert set(pyramid.attentions) == set(levels)
    assert set(pyramid(x)) == set(levels)


@MODES
def test_gradients_of_the_pyramid_equal_finite_differences(mode: str) -> None:
    pyramid, x = make_pyramid(UCLA20, mode=mode)
    pyramid.eval()
    names, parameters = zip(*pyramid.named_parameters(), strict=True)

    def run(x: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        done = torch.func.functional_call(pyramid, dict(zip(names, values, strict=True)), (x,))
        return tuple(done[level] for level in LEVELS)

    assert torch.autograd.gradcheck(run, (x[:1].requires_grad_(), *parameters), fast_mode=True)


@BOTH
def test_permuting_persons_permutes_the_vectors(topology: Topology) -> None:
    pyramid, x = make_pyramid(topology)
    order = torch.tensor([2, 0, 1])
    original, permuted = pyramid(x), pyramid(x[order])
    for level in LEVELS:
        translate.close(permuted[level], translate.array(original[level][order]))
