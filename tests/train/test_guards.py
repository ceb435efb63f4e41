"""Warnings before the first step, and errors that stop a training and suggest a fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from psptool.common.errors import PspError
from psptool.model import kernels
from psptool.schemas.recipes import resolve
from psptool.schemas.split import Split
from psptool.schemas.training import TrainingConfig
from psptool.training import guards, step
from psptool.training.api import train
from psptool.training.guards import (
    check_terms,
    check_weights,
    explain_out_of_memory,
    kernel_warnings,
    preflight_warnings,
)
from psptool.training.memory import StepMemory
from psptool.training.runs.state import read_state
from tests.builtin import UCLA20

from .tiny import PARTS, change, make_files

CPU = torch.device("cpu")


def warnings_for(
    tmp_path: Path, recipe: TrainingConfig, parts: dict[str, list[str]], classes: int = 3
) -> str:
    return "\n".join(preflight_warnings(Split.load(make_files(tmp_path, parts).split), recipe, classes))


@pytest.mark.parametrize(
    ("recipe", "parts", "classes", "words"),
    [
        (change(), PARTS, 3, ""),
        (change(optim={"labelled_batch": 7}), PARTS, 3, "7 labelled clips per step, but the split has 6"),
        (change(), PARTS, 10, "6 labelled clips for 10 classes"),
        (change(), {**PARTS, "unlabelled": []}, 3, "no unlabelled clips"),
        (change(optim={"pool_batch": 99}), PARTS, 3, "optim.pool_batch: reduced from 99 to 15"),
        (change(method="supervised", optim={"pool_batch": 99}), PARTS, 3, ""),
    ],
)
def test_settings_that_do_not_fit_the_split_cause_a_warning(
    tmp_path: Path, recipe: TrainingConfig, parts: dict[str, list[str]], classes: int, words: str
) -> None:
    found = warnings_for(tmp_path, recipe, parts, classes)
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize("key", ["model.levels", "loss.contrast_levels", "loss.contrast_pairs"])
def test_an_empty_list_that_turns_the_contrastive_loss_off_causes_a_warning_that_names_it(
    tmp_path: Path, key: str
) -> None:
    def warnings(*changes: str, method: str = "psp") -> str:
        few = ("optim.labelled_batch=3", "optim.pool_batch=4")
        return warnings_for(tmp_path, resolve(method=method, changes=[*few, f"{key}=[]", *changes]), PARTS)

    assert warnings().startswith(f"{key}: empty, so there is no contrastive loss")
    assert "loss.contrast_weight is 0.2; set loss.contrast_weight=0" in warnings("loss.contrast_weight=0.2")
    assert not warnings("loss.contrast_weight=0")
    assert not warnings(method="supervised")


def test_warnings_come_before_the_first_step(tmp_path: Path) -> None:
    files, order = make_files(tmp_path), []
    train(
        files.data, files.split, change(optim={"labelled_batch": 7}), device=CPU, out=tmp_path / "run",
        on_warning=lambda text: order.append(text), on_progress=lambda progress: order.append(str(progress.step)),
    )  # fmt: skip
    assert order[0].startswith("optim.labelled_batch: 7 labelled clips per step")
    assert order[-1] == "6"


def test_the_first_non_finite_step_and_term_are_named() -> None:
    window = torch.tensor([[1.0, 2.0], [3.0, 4.0], [torch.inf, torch.inf], [torch.nan, torch.nan]])
    assert check_terms(window[:2], ("loss", "ce"), 12, "") == {"loss": 2.0, "ce": 3.0}
    with pytest.raises(PspError, match=r"term ce is not finite at step 13: found inf.*Back to 10\.$"):
        check_terms(window, ("loss", "ce"), 14, "Back to 10.")


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_the_first_weights_that_are_not_finite_are_named(bad: float) -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    check_weights(model, 3, "")
    with torch.no_grad():
        model[0].bias.fill_(bad)
        model[1].running_var.fill_(bad)  # type: ignore[union-attr,operator]
    with pytest.raises(
        PspError, match=r"2 of 6 weight tensors not finite after step 3, the first is 0\.bias"
    ):
        check_weights(model, 3, "")


def test_checking_the_weights_takes_as_many_operations_for_many_tensors_as_for_few() -> None:
    def operations(layers: int) -> int:
        model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
        with torch.profiler.profile() as profile:
            check_weights(model, 3, "")
        # Views compute nothing.
        return sum(event.name not in ("aten::detach", "detach", "aten::flatten", "aten::view", "aten::reshape")
                   for event in profile.events())  # fmt: skip

    assert operations(20) == operations(2)


@pytest.mark.parametrize("bad", [5, 9], ids=["intermediate step", "last step"])
def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    files = make_files(tmp_path, {**PARTS, "validation": []})
    steps, original = iter(range(1, 100)), step.total_loss

    def loss_with_infinite_gradient(model: nn.Module, *rest: object) -> dict[str, Tensor]:
        terms = original(model, *rest)  # type: ignore[arg-type]
        if next(steps) == bad:
            # A finite loss with an infinite gradient: that of the square root at zero.
            terms["loss"] = terms["loss"] + (next(model.parameters()) * 0).sum().sqrt()
        return terms

    monkeypatch.setattr(step, "total_loss", loss_with_infinite_gradient)
    message = rf"not finite after step {bad}.*last good checkpoint is that of step {bad - 1}"
    with pytest.raises(PspError, match=message):
        files.train(change(optim={"steps": 9}, checkpoint_every=1))
    assert not (tmp_path / "run" / "last.safetensors").exists()
    saved = read_state((tmp_path / "run" / "resume.pt").read_bytes(), "")
    assert saved["step"] == bad - 1
    assert all(x.isfinite().all() for x in saved["model"].values())


MEMORY = StepMemory(UCLA20, classes=10, persons=1.0)
"""Its estimates are below the memory that these tests report as in use, so they have no effect."""


def out_of_memory_message(recipe: TrainingConfig, error: Exception) -> str:
    with pytest.raises(PspError) as caught, explain_out_of_memory(recipe, CPU, MEMORY):
        raise error
    return str(caught.value)


def test_out_of_memory_suggests_an_option_to_lower_and_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(guards, "_in_use", lambda device: next(use))
    recipe = change(optim={"labelled_batch": 100, "pool_batch": 900})
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has …")
    # 3 GiB of the step fitted and 1 GiB more did not: at most three quarters, minus a reserve.
    use = iter([1 * gib, 4 * gib, 4 * gib])
    words = out_of_memory_message(recipe, cuda)
    assert "1,024 MiB requested with 4,096 MiB in use" in words
    assert "Lower optim.pool_batch from 900 to 5" in words
    supervised = change(recipe, method="supervised")
    use = iter([1 * gib] * 3)  # nothing is known about the step: suggest half
    assert re.search(
        r"Lower optim.labelled_batch from 100 to (4\d|50) or less",
        out_of_memory_message(supervised, MemoryError()),
    )


def test_out_of_memory_on_the_cpu_is_recognized() -> None:
    with pytest.raises(PspError, match="out of memory on cpu"), explain_out_of_memory(change(), CPU, MEMORY):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_are_raised_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), explain_out_of_memory(change(), CPU, MEMORY):
        raise RuntimeError("shapes differ")


def test_kernels_that_do_not_work_are_a_warning_for_large_networks_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "problem", lambda device: "no C compiler")
    cuda = torch.device("cuda")
    (warning,) = kernel_warnings(resolve(preset="paper"), 25, cuda)
    assert warning == "the GPU kernels are off, so steps are slower: no C compiler"
    assert list(kernel_warnings(resolve(preset="best"), 20, cuda)) == []
    monkeypatch.setattr(kernels, "problem", lambda device: None)
    assert list(kernel_warnings(resolve(preset="paper"), 25, cuda)) == []
