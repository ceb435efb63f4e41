"""Selection of device and precision by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from psptool.common.errors import PspError
from psptool.device import PRECISIONS, choose_device, choose_precision, precision_warnings
from psptool.training.api import train

from .tiny import change, make_files


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize("gpus", [0], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_an_error_with_a_fix() -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(PspError, match=r"finds no CUDA device.*Use --device cpu"):
            choose_device(name)


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_with_gpus_auto_is_cuda_and_an_index_out_of_range_is_an_error() -> None:
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(PspError, match=r"cuda:2: there is no such GPU: found 2 GPUs"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "auto:1", "cpuu", "mps", ""])
def test_unknown_device_names_are_errors(name: str) -> None:
    with pytest.raises(PspError, match=r"unknown device .* expected one of auto, cpu, cuda"):
        choose_device(name)


def test_a_similar_device_name_is_suggested() -> None:
    with pytest.raises(PspError, match=r"Did you mean cuda\?"):
        choose_device("cudda")


@pytest.fixture
def capabilities(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Mock GPUs: major compute capability by index. GPU 0 is the current device.

    As in PyTorch, every GPU reports support for bfloat16, including emulation before Ampere.
    """
    gpus, current = {0: 9}, [0]

    @contextmanager
    def selected(device: torch.device) -> Iterator[None]:
        before, current[0] = current[0], current[0] if device.index is None else device.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", selected)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(major=gpus[index]))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True, raising=False)
    return gpus


@pytest.mark.parametrize(
    ("major", "chosen"), [(6, "float32"), (7, "float32"), (8, "bfloat16"), (9, "bfloat16")]
)
def test_auto_precision_is_never_emulated_bfloat16_on_a_gpu(
    capabilities: dict[int, int], major: int, chosen: str
) -> None:
    capabilities[0] = major
    assert torch.cuda.is_bf16_supported()  # emulation included
    assert choose_precision("auto", torch.device("cuda")) == chosen


def test_auto_precision_depends_on_the_training_gpu_not_on_the_current_one(
    capabilities: dict[int, int],
) -> None:
    capabilities.update({0: 9, 1: 7, 2: 8})
    chosen = [choose_precision("auto", torch.device("cuda", number)) for number in capabilities]
    assert chosen == ["bfloat16", "float32", "bfloat16"]


@pytest.mark.parametrize(("instructions", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_on_a_cpu_is_bfloat16_only_with_bfloat16_instructions(
    monkeypatch: pytest.MonkeyPatch, instructions: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    assert choose_precision("auto", torch.device("cpu")) == chosen
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")  # a PyTorch version without this function
    assert choose_precision("auto", torch.device("cpu")) == "float32"


def test_an_explicit_bfloat16_causes_a_warning_where_it_is_emulated(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[int, int]
) -> None:
    old, new, cpu = torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")
    capabilities.update({0: 7, 1: 8})
    for name in ("auto", "float32"):
        assert not list(precision_warnings(name, old))
    assert not list(precision_warnings("bfloat16", new))
    (warning,) = precision_warnings("bfloat16", old)
    assert "on cuda:0, so it is emulated and slow; float32 is faster" in warning
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert not list(precision_warnings("bfloat16", cpu))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    (warning,) = precision_warnings("bfloat16", cpu)
    assert "on cpu, so it is emulated and slow" in warning


def test_a_training_warns_that_bfloat16_is_emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    files, warnings = make_files(tmp_path), []
    recipe = change(precision="bfloat16", optim={"steps": 1})
    train(
        files.data,
        files.split,
        recipe,
        device=torch.device("cpu"),
        out=tmp_path / "run",
        on_warning=warnings.append,
    )
    assert len(warnings) == 1
    assert "emulated and slow" in warnings[0]


def test_an_explicit_precision_is_used_unchanged() -> None:
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        assert PRECISIONS[choose_precision(name, torch.device("cpu"))] == dtype
