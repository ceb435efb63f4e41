"""NT-Xent and the coarse-to-fine contrast compared with the formulas in `literal`, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from psptool.losses.contrast import coarse_to_fine, nt_xent

from . import literal


def vectors(clips: int, channels: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, clips, channels, generator=generator, dtype=torch.float64)
    return both[0], both[1]


@pytest.mark.parametrize("clips", [1, 2, 3, 9])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_equals_its_formula(clips: int, temperature: float) -> None:
    joint, motion = vectors(clips)
    expected = literal.nt_xent(joint.numpy(), motion.numpy(), temperature)
    assert nt_xent(joint, motion, temperature).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_nt_xent_of_orthogonal_pairs_equals_the_value_derived_by_hand() -> None:
    # Each row has a positive with similarity 1 and 2N - 2 = 4 negatives with similarity 0; temperature 1.
    axes = torch.eye(3, dtype=torch.float64)
    assert nt_xent(axes, axes, 1.0).item() == pytest.approx(-math.log(math.e / (math.e + 4)), rel=1e-12)


def test_nt_xent_is_invariant_to_vector_norms_order_of_clips_and_order_of_streams() -> None:
    joint, motion = vectors(7)
    plain = nt_xent(joint, motion, 0.07)
    norms = torch.arange(1, 8, dtype=torch.float64)[:, None]
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    assert torch.allclose(nt_xent(joint * norms, motion / norms, 0.07), plain, rtol=1e-12)
    assert torch.allclose(nt_xent(joint[order], motion[order], 0.07), plain, rtol=1e-12)
    assert torch.allclose(nt_xent(motion, joint, 0.07), plain, rtol=1e-12)
    assert not torch.allclose(nt_xent(joint[order], motion, 0.07), plain)


def test_nt_xent_is_finite_where_float32_exponentials_overflow() -> None:
    joint, motion = vectors(5)
    assert torch.isfinite(nt_xent(joint.float(), motion.float(), 0.001))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_gradients_of_nt_xent_equal_finite_differences(temperature: float) -> None:
    joint, motion = (x.requires_grad_() for x in vectors(3, channels=4))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature), (joint, motion))


@pytest.mark.parametrize(
    "levels", [("body", "part", "joint"), ("joint",), ("body", "joint")], ids=lambda levels: "+".join(levels)
)
def test_the_contrast_has_a_term_for_each_given_level(levels: tuple[str, ...]) -> None:
    joint, motion = {}, {}
    for seed, level in enumerate(levels):
        joint[level], motion[level] = vectors(4, seed=seed)
    terms = coarse_to_fine(joint, dict(reversed(motion.items())), 0.07)
    assert tuple(terms) == levels
    for level, term in terms.items():
        one = literal.nt_xent(joint[level].numpy(), motion[level].numpy(), 0.07)
        assert term.item() == pytest.approx(one, rel=1e-9)
    expected = literal.contrast([(joint[name].numpy(), motion[name].numpy()) for name in levels], 0.07)
    assert sum(term.item() for term in terms.values()) == pytest.approx(expected, rel=1e-9)
