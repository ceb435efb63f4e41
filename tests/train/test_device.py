"""Devices and precisions by name."""

from __future__ import annotations

import pytest
import torch

from psptool.errors import PspError
from psptool.train.device import PRECISIONS, choose_device, choose_precision


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize("gpus", [0], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused_with_the_way_out() -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(PspError, match=r"sees no CUDA device.*Use --device cpu"):
            choose_device(name)


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_with_gpus_auto_is_one_and_a_number_past_the_last_is_refused() -> None:
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(PspError, match=r"cuda:2: there is no such GPU: found 2 GPU"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "auto:1", "cpuu", "mps", ""])
def test_names_of_no_device_are_refused(name: str) -> None:
    with pytest.raises(PspError, match=r"no device is called .* expected one of auto, cpu, cuda"):
        choose_device(name)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(PspError, match=r"Did you mean cuda\?"):
        choose_device("cudda")


@pytest.mark.parametrize("fast", [True, False])
def test_auto_precision_is_bfloat16_where_the_hardware_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr("psptool.train.device._cpu_has_bfloat16", lambda: fast)
    assert choose_precision("auto", torch.device("cpu")) == ("bfloat16" if fast else "float32")


def test_a_named_precision_is_taken_as_it_is() -> None:
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        assert PRECISIONS[choose_precision(name, torch.device("cpu"))] == dtype
