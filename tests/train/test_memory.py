"""The memory estimate of a training step: a step with the suggested settings fits into the simulated memory."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from psptool.common.errors import PspError
from psptool.data.batches.streams import Stream
from psptool.losses.total import total_loss
from psptool.model.classifier import PSPNet
from psptool.schemas.recipes import resolve
from psptool.schemas.training import TrainingConfig
from psptool.training import guards
from psptool.training.guards import explain_out_of_memory
from psptool.training.memory import MINIMUM, StepMemory, get_setting
from tests.builtin import UCLA20

from ..streams import two

CPU = torch.device("cpu")
BEFORE = 2**30
"""Bytes in use before the first step."""
BACKWARD = 0.05
"""Additional memory of the backward pass, as a share of the memory saved for it."""


class Allocator:
    """A simulated GPU memory. It counts the tensors that a step keeps, and raises an error above ``budget`` bytes."""

    def __init__(self, budget: float = float("inf")) -> None:
        self.budget, self.used = budget, 0
        self.kept: dict[int, torch.UntypedStorage] = {}

    def take(self, size: int) -> None:
        if self.used + size > self.budget:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has …"
            )
        self.used += size

    def keep(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self.kept:
            self.take(storage.nbytes())
            self.kept[storage._cdata] = storage
        return x

    def step(self, recipe: TrainingConfig) -> None:
        """Forward and backward pass of one step, with one person per clip."""
        self.used = 0
        labelled, clips = recipe.optim.labelled_batch, recipe.optim.labelled_batch
        clips += recipe.optim.pool_batch * recipe.needs_pool
        with torch.device("meta"):
            model = PSPNet(recipe.model, UCLA20, 10, contrast=bool(recipe.contrast_levels))
            x = torch.empty(clips, 3, recipe.sampling.frames, 20)
            streams = two(
                *(Stream.of(x, torch.ones(clips, dtype=torch.int64, device="cpu")) for _ in range(2))
            )
            # Gradients, the optimizer's one or two moments, the teacher's weights; the weights exist before the step.
            copies = 1 + (2 if recipe.optim.kind == "adamw" else 1) + recipe.has_teacher
            self.take(copies * sum(parameter.nbytes for parameter in model.parameters()))
            storages = [x.untyped_storage() for x in (*model.parameters(), *model.buffers())]
            self.kept = {storage._cdata: storage for storage in storages}
            labels = torch.empty(labelled, dtype=torch.int64)
            with saved_tensors_hooks(self.keep, lambda kept: kept):
                total_loss(model, streams, labels, recipe, torch.float32)
        self.take(int(BACKWARD * self.used))


ESTIMATE = StepMemory(UCLA20, classes=10, persons=1.0)


def advice(recipe: TrainingConfig, allocator: Allocator, monkeypatch: pytest.MonkeyPatch) -> str:
    """The error message of a step that runs out of memory; empty if the step fits."""
    monkeypatch.setattr(guards, "_in_use", lambda device: BEFORE + allocator.used)
    allocator.used = 0
    try:
        with explain_out_of_memory(recipe, CPU, ESTIMATE):
            allocator.step(recipe)
    except PspError as error:
        return str(error)
    return ""


def follow(recipe: TrainingConfig, message: str) -> TrainingConfig:
    """Copy of the configuration with the changes that the message suggests."""
    changes = re.findall(r"([a-z_]+)\.([a-z_]+) from (\d+) to (\d+)", message)
    assert changes, message
    for group, key, before, after in changes:
        name = f"{group}.{key}"
        assert get_setting(recipe, name) == int(before) > int(after) >= MINIMUM[name]
        recipe = recipe.model_copy(
            update={group: getattr(recipe, group).model_copy(update={key: int(after)})}
        )
    return recipe


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("fast", ()),
        ("fast", ("optim.labelled_batch=200",)),
        ("fast", ("sampling.frames=300",)),
        pytest.param(
            "fast",
            ("model.heads=1", "model.strides=[1,1,1]", "model.levels=[joint]"),
            marks=pytest.mark.slow,
        ),
        pytest.param("best", (), marks=pytest.mark.slow),
        ("best", ("method=supervised", "model.pose_width=512")),
        pytest.param("paper", (), marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_within_20_percent_of_what_the_forward_pass_keeps(
    preset: str, changes: tuple[str, ...]
) -> None:
    recipe, allocator = resolve(preset=preset, changes=changes), Allocator()
    allocator.step(recipe)
    kept = allocator.used / (1 + BACKWARD)
    assert ESTIMATE.bytes(recipe) == pytest.approx(kept, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize(
    ("preset", "changes", "first"),
    [
        ("fast", ("optim.labelled_batch=4000",), "optim.labelled_batch"),
        ("fast", ("optim.labelled_batch=4000", "method=supervised"), "optim.labelled_batch"),
        ("fast", ("optim.pool_batch=4000",), "optim.pool_batch"),
        ("fast", ("optim.labelled_batch=2000", "optim.pool_batch=3000"), "optim.pool_batch"),
        ("fast", ("sampling.frames=2000",), "sampling.frames"),
        ("fast", ("optim.labelled_batch=4", "optim.pool_batch=6", "sampling.frames=500"), "sampling.frames"),
        ("fast", (), "optim.pool_batch"),
        ("paper", (), "optim.pool_batch"),
    ],
)
def test_a_step_fits_after_following_the_advice(
    monkeypatch: pytest.MonkeyPatch, preset: str, changes: tuple[str, ...], first: str, share: float
) -> None:
    recipe, allocator = resolve(preset=preset, changes=changes), Allocator()
    allocator.step(recipe)
    allocator.budget = share * allocator.used
    message = advice(recipe, allocator, monkeypatch)
    assert f"Lower {first} from" in message
    for _ in range(2):
        recipe = follow(recipe, message)
        message = advice(recipe, allocator, monkeypatch)
        if not message:
            break
    assert not message
    assert allocator.used > 0.4 * allocator.budget  # not reduced more than necessary


def test_the_advice_does_not_lower_settings_at_their_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    least = resolve(changes=["optim.labelled_batch=1", "optim.pool_batch=2", "sampling.frames=1"])
    message = advice(least, Allocator(1000), monkeypatch)
    assert "Choose a smaller network (model.channels)" in message
    assert "Lower" not in message
    message = advice(
        resolve(changes=["optim.labelled_batch=1", "optim.pool_batch=2"]), Allocator(1e6), monkeypatch
    )
    assert re.findall(r"(\S+) from", message) == ["sampling.frames"]


@pytest.mark.slow
def test_if_settings_cannot_free_enough_a_smaller_network_is_suggested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guards, "_in_use", lambda device: 2**20)  # fewer bytes than the weights
    memory = StepMemory(UCLA20, classes=10**5, persons=1.0)
    with pytest.raises(PspError) as caught, explain_out_of_memory(resolve(), CPU, memory):
        raise MemoryError
    assert "sampling.frames from 32 to 1, and choose a smaller network" in str(caught.value)


def test_the_estimate_divides_the_clips_of_a_step_among_processes() -> None:
    recipe = resolve(changes=["optim.labelled_batch=30", "optim.pool_batch=50"])
    one, two, no_clips = (
        StepMemory(UCLA20, 10, 1.0, processes=number).bytes(recipe) for number in (1, 2, 80)
    )
    # Without the memory that every process needs: its copies of the weights and one clip.
    assert two - no_clips == pytest.approx((one - no_clips) / 2, rel=0.05)
