"""Captured steps, with a mock of graph capture: same results as eager steps, bounded number, fixed addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from psptool.data.batches.streams import Batch, Stream
from psptool.schemas.training import TeacherSettings, TrainingConfig
from psptool.training import api, graphs
from psptool.training.api import Trained, train
from psptool.training.graphs import CAPTURE_AT, LIMIT, Run, StepCache, uses_graphs
from psptool.training.loop import Loop
from psptool.training.optimization import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    use_learning_rate,
)
from psptool.training.runs.folder import RunFolder
from psptool.training.runs.state import read_state
from psptool.training.step import StepInputs, StepScalars, Terms, TrainStep
from psptool.training.stopping import Stopped
from psptool.training.teacher import Teacher

from ..trained import make_network
from .tiny import RECIPE, Files, change, equal, make_files, weights

CPU = torch.device("cpu")
SGD = change(RECIPE, precision="float32", optim={"steps": 30, "clip_norm": 1.0}, validate_every=7)
SGD = SGD.model_copy(
    update={
        "augment": SGD.augment.model_copy(update={"yaw": 30.0, "jitter": 0.1}),
        "model": SGD.model.model_copy(update={"dropout": 0.2, "pose_width": 4}),
        "teacher": TeacherSettings(weight=0.5, momentum=0.9, start=0.3, ramp=0.2),
    }
)
ADAMW = change(SGD, optim={"kind": "adamw", "lr": 0.01, "weight_decay": 0.1})


class FakeCapture:
    """Mock of graph capture: keeps the function. As with a CUDA graph, all replays write to the same result tensor."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.captures = self.replays = 0

    def __call__(self, function: Run) -> Run:
        self.captures += 1
        results: list[Tensor] = []

        def replay() -> Terms:
            self.replays += 1
            names, values = function()
            if not results:
                results.append(values.clone())
            return names, results[0].copy_(values)

        return replay


class FailingCapture(FakeCapture):
    """Every capture fails."""

    def __call__(self, function: Run) -> Run:
        self.captures += 1
        raise RuntimeError("operation not permitted\nwhen stream is capturing")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path)


@pytest.fixture
def capture_with(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[type[FakeCapture]], list[FakeCapture]]]:
    """Function that makes trainings on the CPU use a mock capture; returns the list of captures created."""

    def use(kind: type[FakeCapture]) -> list[FakeCapture]:
        made: list[FakeCapture] = []
        monkeypatch.setattr(api, "uses_graphs", lambda graphs, device, ranks: graphs == "auto")
        monkeypatch.setattr(api, "side_stream", lambda device: nullcontext())
        monkeypatch.setattr(api, "CudaCapture", lambda device: made.append(kind()) or made[-1])
        return made

    return use


def run_training(files: Files, recipe: TrainingConfig, out: str, **options: Any) -> Trained:
    return train(files.data, files.split, recipe, device=CPU, out=files.data.parent / out, **options)


@pytest.mark.parametrize("recipe", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_captured_steps_are_bit_identical_to_eager_steps(
    files: Files, capture_with: Callable[[type[FakeCapture]], list[FakeCapture]], recipe: TrainingConfig
) -> None:
    made = capture_with(FakeCapture)
    captured = run_training(files, recipe, "captured")
    eager = run_training(files, recipe, "eager", graphs="off")
    (capture,) = made
    # One input shape without the teacher's batch, one with it.
    assert (capture.captures, capture.replays) == (2, 30 - 2 * (CAPTURE_AT - 1))
    for which in ("last", "best"):
        assert equal(weights(captured, which), weights(eager, which))
    assert captured.final.terms == eager.final.terms
    assert captured.best == eager.best


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("first", ["auto", "off"])
def test_a_checkpoint_of_captured_steps_is_resumed_by_eager_steps_and_vice_versa(
    files: Files,
    capture_with: Callable[[type[FakeCapture]], list[FakeCapture]],
    monkeypatch: pytest.MonkeyPatch,
    recipe: TrainingConfig,
    first: str,
) -> None:
    recipe = change(recipe, optim={"steps": 14})
    uninterrupted = run_training(files, recipe, "uninterrupted", graphs="off")
    capture_with(FakeCapture)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_should_stop", lambda self, requested, step: step == 7)
        with pytest.raises(Stopped):
            run_training(files, recipe, "stopped", graphs=first)
    checkpoint = RunFolder(files.data.parent / "stopped").resume
    state = read_state(checkpoint.read_bytes(), str(checkpoint))
    assert all(isinstance(group["lr"], float) for group in state["optimizer"]["param_groups"])
    second = "off" if first == "auto" else "auto"
    resumed = run_training(files, recipe, "stopped", graphs=second, resume="required")
    assert equal(weights(resumed), weights(uninterrupted))


def test_after_a_failed_capture_training_continues_eagerly_with_one_warning(
    files: Files, capture_with: Callable[[type[FakeCapture]], list[FakeCapture]]
) -> None:
    eager = run_training(files, SGD, "eager", graphs="off")
    made, warnings = capture_with(FailingCapture), []
    done = run_training(files, SGD, "failing", on_warning=warnings.append)
    assert made[0].captures == 1
    assert [text for text in warnings if "CUDA graphs" in text] == [
        "CUDA graphs are off, so steps are slower: a step cannot be captured "
        "(operation not permitted when stream is capturing)"
    ]
    assert equal(weights(done), weights(eager))


def make_inputs(persons: int = 3, before: int = 1, teacher: bool = False, seed: int = 0) -> StepInputs:
    """Inputs of two clips with ``persons`` in total; the first clip is labelled and has ``before`` of them."""
    x = torch.randn(persons, 4, 20, 3, generator=torch.Generator().manual_seed(seed)).permute(0, 3, 1, 2)
    stream = Stream.of(x, torch.tensor([before, persons - before]))
    batch = {"joint": stream, "motion": stream}
    pool: Batch | None = {"joint": stream} if teacher else None
    return StepInputs(batch, torch.tensor([seed]), 1, StepScalars.on(CPU), pool)


class Recorder:
    """A fake training step that records the memory address of its input `x`, and returns a sum and a label."""

    def __init__(self) -> None:
        self.optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
        self.addresses: list[int] = []

    def __call__(self, inputs: StepInputs) -> Terms:
        x = inputs.batch["joint"].x
        self.addresses.append(x.data_ptr())
        return ("loss", "label"), torch.stack((x.sum(), inputs.labels[0].float()))


def test_a_shape_is_captured_at_its_third_step_and_then_uses_the_same_addresses() -> None:
    step, capture = Recorder(), FakeCapture()
    cache = StepCache(step, capture)  # type: ignore[arg-type]
    results = []
    for seed in range(8):
        inputs = make_inputs(seed=seed)
        results.append((cache(inputs), inputs))
        assert capture.captures == (seed + 1 >= CAPTURE_AT)
        uses_input_memory = step.addresses[-1] == inputs.batch["joint"].x.data_ptr()
        assert uses_input_memory == (seed + 1 < CAPTURE_AT)
    assert len(set(step.addresses[CAPTURE_AT - 1 :])) == 1
    # Results of earlier steps remain valid, although later replays overwrite the result tensor of the graph.
    for seed, ((names, values), inputs) in enumerate(results):
        assert names == ("loss", "label")
        assert values.tolist() == [float(inputs.batch["joint"].x.sum()), seed]


def test_the_key_depends_on_shapes_and_counts_but_not_on_values() -> None:
    first = make_inputs()
    assert first.key == make_inputs(seed=5).key == first.clone().key
    others = [make_inputs(4), make_inputs(before=2), make_inputs(teacher=True), replace(first, pool=2)]
    assert len({first.key, *(other.key for other in others)}) == 5


def test_copies_have_the_same_memory_layout_and_share_only_the_scalars() -> None:
    first, second = make_inputs(teacher=True), make_inputs(seed=1, teacher=True)
    copy = first.clone()
    assert copy.scalars is first.scalars
    for own, theirs in zip(copy._tensors(), first._tensors(), strict=True):
        assert own.stride() == theirs.stride()
        assert own.data_ptr() != theirs.data_ptr()
    addresses = [x.data_ptr() for x in copy._tensors()]
    copy.copy_(second)
    assert [x.data_ptr() for x in copy._tensors()] == addresses
    assert all(
        torch.equal(own, theirs) for own, theirs in zip(copy._tensors(), second._tensors(), strict=True)
    )


def test_shapes_beyond_the_limit_run_eagerly() -> None:
    step, capture = Recorder(), FakeCapture()
    cache = StepCache(step, capture, limit=2)  # type: ignore[arg-type]
    for _ in range(5):
        for persons in (3, 4, 5):
            inputs = make_inputs(persons)
            _, (total, _) = cache(inputs)
            assert total == inputs.batch["joint"].x.sum()
    assert (cache.size, capture.captures, capture.replays) == (2, 2, 2 * (5 - CAPTURE_AT + 1))
    assert LIMIT == 64


def test_a_failed_capture_discards_all_captured_graphs() -> None:
    step, warnings = Recorder(), []
    parameter = step.optimizer.param_groups[0]["params"][0]
    cache = StepCache(step, FakeCapture(), warnings.append)  # type: ignore[arg-type]
    for _ in range(CAPTURE_AT):
        cache(make_inputs(3))
    assert cache.size == 1
    cache.capture = FailingCapture()
    parameter.grad = torch.ones(1)
    for _ in range(CAPTURE_AT + 3):
        _, (total, _) = cache(make_inputs(4))
        assert total == make_inputs(4).batch["joint"].x.sum()
    assert (cache.size, cache.capture, len(warnings), parameter.grad) == (0, None, 1, None)


def test_the_optimizer_is_capturable_only_during_capture() -> None:
    step, seen = Recorder(), []
    group = step.optimizer.param_groups[0]

    def capture(function: Run) -> Run:
        seen.append(group["capturable"])
        return function

    cache = StepCache(step, capture)  # type: ignore[arg-type]
    for _ in range(CAPTURE_AT):
        cache(make_inputs())
        assert not group["capturable"]
    assert seen == [True]


HOST_READS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "unique",
    "lift_fresh",
    "equal",
)
"""Operators that wait for the GPU or copy a constant from the host to it; neither can be captured."""


class NoHostReads(TorchDispatchMode):
    """Raises an error if an operator reads a value back to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        assert name not in HOST_READS, name
        if name in ("index", "index_put", "index_put_"):
            assert all(x is None or x.dtype != torch.bool for x in args[1]), "boolean mask"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_reads_no_value_back_to_the_host(
    monkeypatch: pytest.MonkeyPatch, recipe: TrainingConfig, precision: torch.dtype
) -> None:
    model = make_network().train()
    optimizer = build_optimizer(model, recipe.optim)
    x = torch.randn(6, 3, 4, 20, generator=torch.Generator().manual_seed(0))
    batch = {name: Stream.of(x, torch.ones(6, dtype=torch.int64)) for name in ("joint", "motion")}
    pool = {name: Stream.of(x[3:], torch.ones(3, dtype=torch.int64)) for name in batch}
    inputs = StepInputs(batch, torch.tensor([0, 1, 2]), 3, StepScalars.on(CPU), pool)
    # The number of persons comes from a tensor on the host and is part of the key.
    monkeypatch.setattr(Stream, "first_person", lambda self, clip: clip)
    inputs.scalars.set(0.01, 0.5, 0.9)
    use_learning_rate(optimizer, inputs.scalars.lr)
    teacher = Teacher(model, recipe.teacher, 10, precision)
    step = TrainStep(model, optimizer, recipe, precision, teacher)
    step(inputs)  # initializes the optimizer
    with NoHostReads():
        names, values = step(inputs)
    assert names == ("loss", "ce", "body", "part", "joint", "teacher")
    assert values.isfinite().all()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_loading_a_state_does_not_change_the_settings_of_the_optimizer(kind: str) -> None:
    settings = change(RECIPE, optim={"kind": kind, "weight_decay": 0.1}).optim
    model, lr = torch.nn.Linear(2, 3), torch.tensor(0.25)
    optimizer = build_optimizer(model, settings)
    use_learning_rate(optimizer, lr)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer_state(optimizer)
    assert [group["lr"] for group in state["param_groups"]] == [0.25]
    moments = {key: dict(value) for key, value in state["state"].items()}
    # State of an optimizer that was not fused and ran on another device.
    foreign = {**state["param_groups"][0], "lr": 3.0, "weight_decay": 7.0, "fused": None, "capturable": True}
    other = build_optimizer(torch.nn.Linear(2, 3), settings)
    use_learning_rate(other, lr)
    load_optimizer_state(other, {"state": moments, "param_groups": [foreign]})
    (group,) = other.param_groups
    assert group["lr"] is lr
    assert (group["weight_decay"], group["fused"], group.get("capturable", False)) == (0.1, True, False)
    for own, theirs in zip(other.state_dict()["state"].values(), moments.values(), strict=True):
        assert all(torch.equal(own[name], theirs[name]) for name in theirs if theirs[name] is not None)
    with pytest.raises(ValueError, match="other parameters"):
        load_optimizer_state(other, {"state": {}, "param_groups": [{**foreign, "params": [0]}]})


def test_graphs_are_used_only_by_a_single_process_on_a_gpu() -> None:
    gpu, single, several = torch.device("cuda"), SimpleNamespace(size=1), SimpleNamespace(size=2)
    assert uses_graphs("auto", gpu, single)  # type: ignore[arg-type]
    assert not uses_graphs("off", gpu, single)  # type: ignore[arg-type]
    assert not uses_graphs("auto", gpu, several)  # type: ignore[arg-type]
    assert not uses_graphs("auto", CPU, single)  # type: ignore[arg-type]
    assert graphs.CAPTURE_AT > 1  # an optimizer cannot be captured before its first step


class FakeCuda:
    """Mock of the `torch.cuda` functions used by graph capture; ``free`` is in GiB.

    Attributes:
        calls: Calls, in order.
    """

    def __init__(self, patch: pytest.MonkeyPatch, free: float) -> None:
        self.calls: list[object] = []
        generator = SimpleNamespace(
            clone_state=lambda: "clone", graphsafe_set_state=lambda state: self.calls.append(state)
        )
        numbers = {"memory_allocated": 1, "max_memory_allocated": 3, "memory_reserved": 2}
        replaced: dict[str, Any] = {
            name: (lambda device, value=value: value * 2**30) for name, value in numbers.items()
        }
        replaced |= {
            "mem_get_info": lambda device: (free * 2**30, 80 * 2**30),
            "reset_peak_memory_stats": lambda device: None,
            "graph_pool_handle": lambda: "pool",
            "current_stream": lambda device: "stream",
            "current_device": lambda: 0,
            "default_generators": [generator],
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.calls.append("replay")),
            "graph": self.graph,
        }
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value)
        end = lambda device, pool: self.calls.append(("end", device, pool))  # noqa: E731
        patch.setattr(torch._C, "_cuda_endAllocateToPool", end)

    @contextmanager
    def graph(self, graph: object, pool: object, stream: object) -> Iterator[None]:
        self.calls.append(("begin", pool, stream))
        yield


def test_gpu_captures_use_the_current_stream_and_one_memory_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, result = FakeCuda(monkeypatch, free=70), (("loss",), torch.zeros(1))
    capture = graphs.CudaCapture(torch.device("cuda"))
    first, second = capture(lambda: result), capture(lambda: result)
    assert first() is second() is result
    assert fake.calls == [("begin", "pool", "stream")] * 2 + ["replay"] * 2


def test_a_failed_capture_on_a_gpu_ends_capture_mode_and_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Terms:
        raise RuntimeError("not permitted")

    fake = FakeCuda(monkeypatch, free=70)
    with pytest.raises(RuntimeError, match="not permitted"):
        graphs.CudaCapture(torch.device("cuda"))(fail)
    assert fake.calls == [("begin", "pool", "stream"), ("end", 0, "pool"), "clone"]


def test_graphs_need_memory_in_addition_to_eager_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # An eager step takes 3 - 1 GiB, so 2.5 * 2 GiB are required; 1 GiB is reserved but unused.
    fake = FakeCuda(monkeypatch, free=3.5)
    with pytest.raises(MemoryError, match=r"4\.5 GiB of GPU memory free, 5\.0 GiB required"):
        graphs.CudaCapture(torch.device("cuda"))(lambda: (("loss",), torch.zeros(1)))
    assert fake.calls == []
    FakeCuda(monkeypatch, free=4.5)
    graphs.CudaCapture(torch.device("cuda"))(lambda: (("loss",), torch.zeros(1)))
