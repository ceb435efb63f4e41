"""Distributed training equals training in one process on the same global batch, and all processes stop together."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from psptool.common.distributed import SINGLE, ProcessGroup, init_distributed, local_device
from psptool.common.errors import PspError
from psptool.data.batches.streams import Batch, Stream
from psptool.model.synced_norm import SyncedNorm, synchronize_norms
from psptool.schemas.training import TeacherSettings, TrainingConfig
from psptool.training.api import Trained, train
from psptool.training.loop import Loop
from psptool.training.step import StepInputs, StepScalars, Terms

from ..stores import make_clip, write_ucla
from ..streams import two
from ..trained import make_split
from .distributed_norms import CASES
from .tiny import NAMES, PARTS, RECIPE, change

STEPS = 50
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
ROOT = Path(__file__).parents[2]


def run(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=check,
        env=environment,
        cwd=ROOT,
        timeout=300,
    )


class CustomNorm(nn.Module):
    """A user-defined norm whose statistics have the usual name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Clips of one, two or three persons, some of them absent in some frames, so that shards are of unequal size."""
    folder = tmp_path_factory.mktemp("ranks")
    two, three = ((True,) * 6, (True, False) * 3), ((True,) * 6, (False, True) * 3, (True,) * 6)
    clips = [
        make_clip(name, seed, (((True,) * 6,), two, three)[seed % 3], lift=float(name[1:3]))
        for seed, name in enumerate(NAMES)
    ]
    make_split(folder / "s0.json", write_ucla(folder / "ucla.h5", clips), PARTS)
    return folder / "ucla.h5", folder / "s0.json"


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_process_on_the_same_global_batch(
    files: tuple[Path, Path],
) -> None:
    out = files[0].with_name("losses")
    script = ("-m", "tests.train.distributed_training", *files, out, STEPS)
    run(sys.executable, *script)
    run(*TORCHRUN, 2, *script)
    one, first, second = (
        json.loads(out.with_name(f"losses-{which}.json").read_text()) for which in ("0of1", "0of2", "1of2")
    )
    assert len(one["losses"]) == STEPS
    assert any(a != b for a, b in zip(first["persons"], second["persons"], strict=True))
    for rank in (first, second):
        worst = max(
            abs(value - expected[name]) / abs(expected[name])
            for expected, found in zip(one["losses"], rank["losses"], strict=True)
            for name, value in found.items()
        )
        assert worst < 1e-5
        assert rank["state"].keys() == one["state"].keys()
        assert all(
            rank["state"][name] == pytest.approx(x, rel=1e-6, abs=1e-9) for name, x in one["state"].items()
        )
    print(f"largest relative difference of a loss term: {worst:.2g}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [("SIGKILL", "process 0 of 2 lost the connection"), ("ERROR", "injected error")],
)
def test_if_one_process_fails_all_processes_stop_with_one_message(
    files: tuple[Path, Path], tmp_path: Path, fault: str, message: str
) -> None:
    train = ["train", "--data", files[0], "--split", files[1], "--out", tmp_path / "run", "--device", "cpu"]
    recipe = RECIPE.model_dump(mode="json") | {"checkpoint_every": 2}
    recipe["optim"]["steps"] = 1000
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    script = ("-m", "tests.train.fault_injection", fault, 25, *train, "--config", tmp_path / "recipe.yaml")
    ran = run(*TORCHRUN, 2, *script, check=False)
    assert ran.returncode != 0
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ran.stderr
    assert message in errors[0]
    assert "in psptool/" not in ran.stderr  # torchrun may print its own traceback
    assert {path.name for path in (tmp_path / "run").iterdir()} > {"config.json", "log.jsonl", "resume.pt"}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("labelled", "pool"), [(1, 0), (1, 4), (3, 4), (4, 4), (7, 9), (9, 90)])
def test_every_clip_is_in_exactly_one_shard_and_shards_are_of_similar_size(
    size: int, labelled: int, pool: int
) -> None:
    ranks = [ProcessGroup(number, size) for number in range(size)]
    shards = [
        [*range(labelled)[rank.shard()], *range(labelled, labelled + pool)[rank.shard(backwards=True)]]
        for rank in ranks
    ]
    assert sorted(clip for shard in shards for clip in shard) == list(range(labelled + pool))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(
    ("recipe", "clips", "expected"),
    [
        (change(method="supervised"), 3, r"3 clips per step.*raise optim\.labelled_batch"),
        (RECIPE, 7, r"7 clips per step.*raise optim\.labelled_batch"),
        (
            change(teacher=TeacherSettings(weight=1)),
            4,
            r"4 clips of the pool per step, expected at least one clip of the pool.*raise optim\.pool_batch",
        ),
    ],
)
def test_each_process_needs_a_clip_and_with_a_teacher_a_clip_of_the_pool(
    files: tuple[Path, Path], tmp_path: Path, recipe: TrainingConfig, clips: int, expected: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(PspError, match=f"found {clips + 1} processes, {expected}"):
        train(*files, recipe, device=torch.device("cpu"), out=out, ranks=ProcessGroup(0, clips + 1))
    assert not out.exists()


def test_only_rank_0_reads_the_log_of_a_finished_run(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []

    def broadcast(values: list[Any], **options: object) -> None:
        """From the first to the second of two processes, which run one after the other."""
        if values == [None]:
            values[:] = pickle.loads(sent.pop(0))
        else:
            sent.append(pickle.dumps(values))

    def again(rank: int) -> Trained:
        cpu = torch.device("cpu")
        return train(
            *files, RECIPE, device=cpu, out=tmp_path / "run", resume="auto", ranks=ProcessGroup(rank, 2)
        )

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    first = train(*files, RECIPE, device=torch.device("cpu"), out=tmp_path / "run")
    assert again(0) == first
    shutil.rmtree(tmp_path / "run")  # the second machine does not have the disk of the first one
    assert again(1) == first
    assert not sent


def test_without_torchrun_there_is_a_single_process() -> None:
    with init_distributed() as ranks:
        assert ranks == SINGLE
    assert local_device(torch.device("cpu"), SINGLE) == torch.device("cpu")
    assert SINGLE.any(True)
    assert not SINGLE.any(False)


def bare_loop(ranks: object) -> Loop:
    """A loop without model and data, to test single methods."""
    config = change(model=RECIPE.model.model_copy(update={"dropout": 0.2}))
    return Loop(None, None, None, config, 0, torch.float32, ranks)  # type: ignore[arg-type]


def test_dropout_differs_between_ranks_and_steps_and_is_reproducible_for_each() -> None:
    stream = Stream(torch.zeros(4, 3, 2, 20), torch.eye(4))

    def random_numbers(rank: int, step: int) -> tuple[float, ...]:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            bare_loop(ProcessGroup(rank, 2))._shard(two(stream, stream), torch.tensor([0, 1]), step)
            return tuple(torch.rand(4).tolist())

    assert random_numbers(1, 5) == random_numbers(1, 5)
    assert len({random_numbers(rank, step) for rank in (0, 1) for step in (5, 6)}) == 4


def numbered_batch(numbers: Tensor, *_: object) -> Batch:
    """A batch of one person per clip, whose positions are the clip's number."""
    stream = Stream(numbers.float()[:, None, None, None].expand(-1, 3, 2, 20), torch.eye(len(numbers)))
    return two(stream, stream)


def numbers_of(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [int(x) for x in batch["joint"].x[:, 0, 0, 0]]


def test_the_teacher_predicts_the_clips_of_the_pool_of_its_process_and_labels_are_those_of_its_clips() -> (
    None
):
    chosen = torch.tensor([5, 2, 9, 14, 11, 18, 13])  # 3 labelled clips, 4 of the pool
    clips = SimpleNamespace(label=100 + torch.arange(20), device=torch.device("cpu"))
    batcher = SimpleNamespace(clips=clips, train=numbered_batch, test=numbered_batch)
    teacher = SimpleNamespace(weight=lambda step: 1.0, momentum=lambda step: 0.5)
    state: Any = SimpleNamespace(teacher=teacher, generator=None, step=0)
    found: list[list[int]] = []
    steps: list[StepInputs] = []

    def record(inputs: StepInputs) -> Terms:
        steps.append(inputs)
        return (), torch.empty(0)

    for rank in (0, 1):
        fake: Any = (None, batcher, None, RECIPE, 0, torch.float32, ProcessGroup(rank, 2))
        Loop(*fake)._step(record, StepScalars.on(clips.device), chosen, state)
        own, labels = numbers_of(steps[-1].batch), (steps[-1].labels - 100).tolist()
        assert labels == own[: len(labels)]
        assert numbers_of(steps[-1].teacher_batch) == own[len(labels) :]
        found.append(own)
    assert found == [[5, 9, 11, 13], [2, 14, 18]]


def test_all_processes_stop_at_the_same_log_step_if_any_receives_a_stop_request() -> None:
    requests: list[bool] = []
    ranks = SimpleNamespace(size=2, any=lambda own: requests.append(own) or True)
    found = [step for step in range(1, 31) if bare_loop(ranks)._should_stop(lambda: False, step)]
    assert found == [10, 20, 30]
    assert requests == [False] * 3  # processes synchronize at these steps only


@pytest.mark.slow
def test_every_kind_of_batch_norm_over_two_processes_equals_one_process(tmp_path: Path) -> None:
    script = ("-m", "tests.train.distributed_norms", tmp_path)
    run(sys.executable, *script)
    run(*TORCHRUN, 2, *script)
    one = torch.load(tmp_path / "0of1.pt")
    parts = [torch.load(tmp_path / f"{rank}of2.pt") for rank in (0, 1)]
    assert one.keys() == CASES.keys()
    for case, reference in one.items():
        for rank, part in enumerate(parts):
            for name in ("out", "gradient"):
                expected = reference[name][ProcessGroup(rank, 2).shard()]
                torch.testing.assert_close(
                    part[case][name], expected, msg=lambda text, at=(case, name): f"{at}: {text}"
                )
            # Gradients of the parameters, running statistics and outputs in evaluation.
            for name in reference.keys() - {"out", "gradient"}:
                torch.testing.assert_close(
                    part[case][name], reference[name], msg=lambda text, at=(case, name): f"{at}: {text}"
                )


@pytest.mark.parametrize(
    "norm",
    [
        nn.SyncBatchNorm(3),
        nn.InstanceNorm1d(3, track_running_stats=True),
        nn.LazyBatchNorm1d(),
        nn.BatchNorm1d(3, track_running_stats=False),
        CustomNorm(),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_a_norm_whose_statistics_cannot_be_synchronized_is_an_error_with_its_name(norm: nn.Module) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ModuleDict({"own": norm}))
    with pytest.raises(PspError, match=rf"module 1\.own cannot be synchronized: found {type(norm).__name__}"):
        synchronize_norms(model)


def test_norms_without_statistics_are_not_replaced() -> None:
    model = nn.Sequential(nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm1d(3))
    kinds = [*map(type, model)]
    synchronize_norms(model)
    assert [*map(type, model)] == kinds


def test_batch_norms_are_replaced_by_synced_norms_with_the_same_state() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(nn.BatchNorm2d(3)))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    parameters = [*model.parameters()]
    synchronize_norms(model)
    synchronize_norms(model)
    assert isinstance(copy.deepcopy(model)[1][0], SyncedNorm)  # type: ignore[index]
    assert isinstance(model[1][0], SyncedNorm)  # type: ignore[index]
    assert [*map(id, model.parameters())] == [*map(id, parameters)]
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert math.isclose(
        float(model.eval()(torch.zeros(1, 2, 1, 1)).detach().sum()),
        float(before["0.bias"].sum()),
        rel_tol=1e-3,
    )
