"""The parts of `gpu.py`. Each can fail without ending the others.

- Gradients with Triton kernels and with PyTorch's operations, in both precisions.
- Losses of captured and eager steps, in both precisions, with teacher, dropout and gradient clipping.
- Time, launches, GPU time, memory and lower bound of a step of each preset: eager, as a CUDA graph, and as a CUDA graph
  without Triton kernels (`paper`) or with them for tensors of any size (`best`).
- A training through the command line that is stopped, resumed and evaluated.
- The tests marked ``gpu``.

Synthetic clips have the sizes of NTU RGB+D for preset `paper` (every fifth clip of two persons), and those of NW-UCLA
for the others. The labelled clips are as many as in a batch, and so are those of the pool: every batch has the same
shape.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from psptool.common.machine import cpu_name
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.store.reading import Rows
from psptool.device import PRECISIONS, choose_device, choose_precision
from psptool.formats.synthesis.names import DEMO_ACTIONS, clip_names
from psptool.formats.synthesis.writing import write_ntu
from psptool.losses.total import total_loss
from psptool.model import kernels
from psptool.model.build import build_model
from psptool.schemas.builtin_skeletons import builtin_skeleton
from psptool.schemas.recipes import resolve
from psptool.schemas.training import TrainingConfig
from psptool.training.graphs import CAPTURE_AT, Capture, CudaCapture, side_stream
from psptool.training.loop import Loop, Pools
from psptool.training.optimization import build_optimizer, use_learning_rate
from psptool.training.profiling import count_work
from psptool.training.state import TrainState
from psptool.training.step import StepInputs, StepScalars, Terms, TrainStep

ROOT = Path(__file__).resolve().parents[2]
CLASSES, SEED = 60, 0
PRESETS: dict[str, float] = {"paper": math.inf, "best": 0}
"""For comparison with the default: the size from which on tensors are computed by Triton kernels."""
WARM_UP = CAPTURE_AT + 3
"""Steps before the timed ones: libraries are initialized, and the step is captured."""
EQUAL_STEPS = 12
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}
"""Largest relative difference of the losses, or three times that of two eager runs: some kernels of a GPU add in
varying order, and steps amplify that.
"""
TINY = (
    "model.channels=[8,8]", "model.qk_channels=[2,2]", "model.strides=[1,2]", "model.heads=2", "sampling.frames=8",
    "optim.labelled_batch=3", "optim.pool_batch=6",
)  # fmt: skip
"""Changes of a preset for a CPU."""
STOPPING = """
import sys
from psptool.cli.main import main
from psptool.training.loop import Loop

Loop._should_stop = lambda self, requested, step: step == 10
sys.exit(main())
"""
"""The command line, which behaves after step 10 as if Ctrl-C was pressed."""


@dataclass
class Report:
    """Results so far.

    Attributes:
        path: A JSON file that is written after each part; may be None.
        values: Facts of the machine, and the results by part.
    """

    path: Path | None
    values: dict[str, Any] = field(default_factory=lambda: {"checks": [], "steps": []})
    began: float = field(default_factory=time.perf_counter)

    def check(self, name: str, function: Callable[[], tuple[bool | None, str]]) -> None:
        """Run a check, which returns whether it passes (None: skipped) and a text. An error is a failure."""
        try:
            passed, detail = function()
        except Exception as error:
            passed, detail = False, f"{type(error).__name__}: {' '.join(str(error).split())[-400:]}"
        self._add("checks", {"check": name, "passed": passed, "detail": detail})

    def measure(self, name: str, function: Callable[[], dict[str, Any]]) -> None:
        """Run a measurement; an error is a failed check."""
        try:
            self._add("steps", function())
        except Exception as error:
            detail = f"{type(error).__name__}: {' '.join(str(error).split())[-400:]}"
            self._add("checks", {"check": name, "passed": False, "detail": detail})

    def _add(self, part: str, entry: dict[str, Any]) -> None:
        self.values[part].append(entry)
        self.values["seconds"] = round(time.perf_counter() - self.began, 1)
        print(f"{self.values['seconds']:6.1f} s  {json.dumps(entry)}", file=sys.stderr, flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.values, indent=2) + "\n", encoding="utf-8")

    @property
    def failed(self) -> int:
        """Number of failed checks."""
        return sum(entry["passed"] is False for entry in self.values["checks"])


@dataclass
class RecordedLoop(Loop):
    """A training loop that keeps the loss of every step, as 0-d tensors on the device."""

    losses: list[Tensor] = field(default_factory=list, init=False)

    def _step(self, *arguments: Any) -> Terms:
        names, values = super()._step(*arguments)
        self.losses.append(values[names.index("loss")])
        return names, values


def main() -> int:
    """Run all parts, print one table, and write ``--json``; the exit code is 1 if a check has failed."""
    arguments = parse_arguments()
    device = choose_device(arguments.device)
    report = Report(arguments.json)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name() or platform.machine()
    report.values |= {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda}
    tflops = product_rate(device)
    report.values["product_tflops"] = round(tflops, 2)
    for preset in PRESETS:
        report.check(
            f"gradients of {preset} with kernels equal those without",
            lambda preset=preset: agreement(preset, device),
        )
    for precision in TOLERANCES:
        for preset in PRESETS:
            label = f"captured {preset} steps equal eager ones, {precision}"
            report.check(
                label, lambda preset=preset, precision=precision: equality(preset, precision, device)
            )
    default = kernels.LEAST_VALUES
    for preset in PRESETS:
        for captured, from_size in ((False, default), (True, default), (True, PRESETS[preset])):
            if device.type == "cpu" and from_size != default:
                continue
            with kernels.from_size(from_size):
                report.measure(
                    f"time of {preset}",
                    lambda preset=preset, captured=captured, from_size=from_size: {
                        **measure(preset, captured, device, arguments.steps, tflops),
                        "kernels_from_size": str(from_size),
                    },
                )
    if not arguments.skip_commands:
        report.check("20 steps, resumed after 10, and evaluated", lambda: command_line(arguments.device))
        report.check("tests marked gpu", lambda: marked_tests(device))
    print_table(report)
    return int(report.failed > 0)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each preset")
    parser.add_argument("--skip-commands", action="store_true", help="no command line and no tests")
    parser.add_argument("--json", type=Path, help="also write the results to this file, after each part")
    return parser.parse_args()


def configuration(
    preset: str, device: torch.device, steps: int, changes: Iterable[str] = ()
) -> TrainingConfig:
    """A preset of ``steps`` steps, with the teacher's loss in all of them; tiny on a CPU."""
    tiny: tuple[str, ...] = TINY if device.type == "cpu" else ()
    if tiny and preset == "best":
        tiny = (*tiny, "model.pose_width=8")
    always = ("teacher.start=0", "teacher.ramp=0", f"optim.steps={steps}")
    return resolve(preset=preset, changes=[*always, *tiny, *changes])


def make_clips(count: int, ntu: bool, device: torch.device) -> RaggedClips:
    """``count`` smooth random walks of NTU's or NW-UCLA's size; with ``ntu``, every fifth clip has two persons."""
    rng = np.random.default_rng(SEED)
    topology = builtin_skeleton("ntu25" if ntu else "kinect20").topology
    frames = rng.integers(60, 121, count) if ntu else rng.integers(20, 81, count)
    persons = np.where(np.arange(count) % 5 == 0, 2, 1) if ntu else np.ones(count, dtype=np.int64)
    rows = int((frames * persons).sum())
    walk = rng.normal(size=(rows, topology.size, 3)).cumsum(0) * 0.02
    joint = (walk - walk.mean(0)).astype(np.float32)
    label = rng.integers(0, CLASSES, count)
    return RaggedClips.from_rows(Rows(joint, np.ones(rows, bool)), label, frames, persons, topology, device)


def make_loop(config: TrainingConfig, precision: str, device: torch.device, captured: bool) -> RecordedLoop:
    """A training loop with initial weights of `SEED`."""
    labelled = config.optim.labelled_batch
    count = labelled + config.optim.pool_batch
    clips = make_clips(count, config.preset == "paper", device)
    torch.manual_seed(SEED)
    model = build_model(config, clips.topology, CLASSES).to(device)
    numbers = torch.arange(count)
    pools = Pools(numbers[:labelled], numbers[labelled:], numbers[:0])

    def give_up(warning: str) -> None:
        raise RuntimeError(warning)

    batcher = Batcher.of(clips, config)
    capture = make_capture(device) if captured else None
    return RecordedLoop(
        model, batcher, pools, config, SEED, PRECISIONS[precision], capture=capture, on_warning=give_up
    )


def make_capture(device: torch.device) -> Capture:
    """That of CUDA; on a CPU a stand-in that runs the function again."""
    return CudaCapture(device) if device.type == "cuda" else lambda function: function


def run_loop(loop: Loop, device: torch.device, on_step: Callable[[int], None] = lambda step: None) -> None:
    """Run all steps; with captures in a side stream."""
    with side_stream(device) if loop.capture and device.type == "cuda" else nullcontext():
        loop.run(lambda progress: None, on_step=on_step)


def equality(preset: str, precision: str, device: torch.device) -> tuple[bool, str]:
    """Losses of captured and of eager steps from the same weights, with dropout and gradient clipping."""
    changes = ("model.dropout=0.2", "optim.clip_norm=5")
    config = configuration(preset, device, EQUAL_STEPS, changes)

    def losses(captured: bool) -> Tensor:
        loop = make_loop(config, precision, device, captured)
        run_loop(loop, device)
        return torch.stack(loop.losses).double().cpu()

    eager, again, captured = losses(False), losses(False), losses(True)

    def difference(found: Tensor) -> float:
        return float(((found - eager) / eager).abs().max())

    found, usual = difference(captured), difference(again)
    text = f"difference {found:.1e} (of two eager runs {usual:.1e}), loss {eager[0]:.2f} to {eager[-1]:.2f}"
    return found <= max(TOLERANCES[precision], 3 * usual), text


def agreement(preset: str, device: torch.device) -> tuple[bool | None, str]:
    """Gradients of all weights in one step, with kernels and with PyTorch's operations.

    In bfloat16, both are compared with those of PyTorch's operations in float32.
    """
    if not kernels.usable(torch.zeros(1, device=device).expand(kernels.LEAST_VALUES)):
        return None, kernels.problem(device) or "they are for NVIDIA GPUs"

    def gradients(precision: str, with_kernels: bool) -> Tensor:
        config = configuration(preset, device, 1)
        loop = make_loop(config, precision, device, captured=False)
        chosen = torch.cat((loop.pools.labelled, loop.pools.pool))
        batch = loop.batcher.train(chosen, torch.Generator().manual_seed(SEED))
        labels = loop.batcher.clips.label[loop.pools.labelled].to(device)
        with kernels.from_size(0 if with_kernels else math.inf):
            terms = total_loss(
                loop.model.train(), batch, labels, config, PRECISIONS[precision], pool=len(loop.pools.pool)
            )
            terms["loss"].backward()
        found = [x.grad.flatten() for x in loop.model.parameters() if x.grad is not None]
        return torch.cat(found).double()

    # Convolutions with 10 significant bits, PyTorch's default, would hide errors of the kernels.
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        exact, single = gradients("float32", False), gradients("float32", True)
    finally:
        torch.backends.cudnn.allow_tf32 = tf32

    def error(found: Tensor) -> float:
        return float((found - exact).norm() / exact.norm())

    difference, own, other = map(error, (single, gradients("bfloat16", True), gradients("bfloat16", False)))
    text = f"relative difference {difference:.1e} in float32; "
    text += f"error in bfloat16 {own:.1e}, without kernels {other:.1e}"
    return difference < 5e-3 and own < 1.3 * other, text


def measure(preset: str, captured: bool, device: torch.device, steps: int, tflops: float) -> dict[str, Any]:
    """Time, kernels, GPU time and memory of a step."""
    profiled = min(5, steps)
    begin, end, last = WARM_UP, WARM_UP + steps, WARM_UP + steps + profiled
    precision = choose_precision("auto", device)
    config = configuration(preset, device, last)
    free_memory(device)
    loop = make_loop(config, precision, device, captured)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    profiler, times = profile(activities=activities), {}

    def on_step(step: int) -> None:
        if step in (begin, end, last):
            synchronize(device)
            times[step] = time.perf_counter()
        if step == end:
            profiler.start()
        if step == last:
            profiler.stop()

    run_loop(loop, device, on_step)
    launches, busy = count_work(profiler.key_averages(), device)
    seconds = (times[end] - times[begin]) / steps
    entry: dict[str, Any] = {
        "preset": preset,
        "captured": captured,
        "precision": precision,
        "ms": round(1e3 * seconds, 2),
        # A replay has no operators of the CPU.
        "launches": round(launches / profiled),
        "gpu_busy_ms": None if busy is None else round(busy / profiled, 2),
    }
    if device.type == "cuda":
        entry["allocated_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
        entry["reserved_gb"] = round(torch.cuda.max_memory_reserved(device) / 1e9, 2)
    if not captured:
        flop = count_flop(config, precision, device)
        entry |= {"gflop": round(flop / 1e9, 1), "floor_ms": round(flop / tflops / 1e9, 3)}
    return entry


def count_flop(config: TrainingConfig, precision: str, device: torch.device) -> float:
    """Floating-point operations of the products and convolutions of one step."""
    loop = make_loop(config, precision, device, captured=False)
    model, scalars = loop.model.train(), StepScalars.on(device)
    optimizer = build_optimizer(model, config.optim)
    use_learning_rate(optimizer, scalars.lr)
    state = TrainState(model, optimizer, torch.Generator().manual_seed(SEED), teacher=loop._build_teacher())
    step = TrainStep(model, optimizer, config, PRECISIONS[precision], state.teacher)
    counter = FlopCounterMode(display=False)

    def counted(inputs: StepInputs) -> Terms:
        # Products of Triton kernels are not counted.
        with counter, kernels.from_size(math.inf):
            return step(inputs)

    loop._step(counted, scalars, torch.cat((loop.pools.labelled, loop.pools.pool)), state)
    return float(counter.get_total_flops())


def product_rate(device: torch.device) -> float:
    """TFLOP/s of a large square matrix product in the default precision of the device."""
    size = 8192 if device.type == "cuda" else 512
    dtype = PRECISIONS[choose_precision("auto", device)]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        synchronize(device)
        begin = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best / 1e12


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> None:
    """Free memory of earlier measurements, and restart the statistics of memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def command_line(device: str) -> tuple[bool, str]:
    """Prepare, split, train, stop after 10 of 20 steps, resume and evaluate, each as a command."""
    with tempfile.TemporaryDirectory(prefix="psptool-gpu-") as folder:
        there = Path(folder)
        names = clip_names(actions=DEMO_ACTIONS[:3], train_subjects=4, test_subjects=2, repetitions=(1,))
        write_ntu(there / "raw", names, SEED)
        data, split, run = there / "data.h5", there / "split.json", there / "run"
        psptool(there, "prepare", "ntu", "--raw", there / "raw", "--out", data)
        psptool(there, "split", "--data", data, "--ratio", "0.2", "--out", split)
        values = ("optim.labelled_batch=6", "optim.pool_batch=12") if device != "cpu" else TINY
        values = ("optim.steps=20", "checkpoint_every=5", *values)
        options = [part for value in values for part in ("--set", value)]
        training = (
            "train",
            "--data",
            data,
            "--split",
            split,
            "--preset",
            "best",
            "--device",
            device,
            "--out",
            run,
        )
        psptool(there, *training, *options, code=130, program=("-c", STOPPING))
        psptool(there, "train", "--resume", "required", "--out", run, "--device", device)
        psptool(there, "evaluate", run, "--device", device)
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        parts = [part["from_step"] for part in config["provenance"]]
        entries = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
        steps = json.loads(entries[-1])["step"]
        top1 = json.loads((run / "scores.json").read_text(encoding="utf-8"))["top1"]
    return parts == [0, 10] and steps == 20, f"parts from steps {parts}, {steps} steps, top-1 {top1:.2f}"


def psptool(
    folder: Path, *arguments: object, code: int = 0, program: tuple[str, ...] = ("-m", "psptool")
) -> None:
    """Run the command line in ``folder``; an error names its last lines if it does not end with ``code``."""
    command = [sys.executable, *program, *map(str, arguments)]
    ran = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=150, check=False
    )
    if ran.returncode != code:
        raise RuntimeError(f"{arguments[0]} ended with {ran.returncode}: {ran.stderr[-400:]}")


def environment() -> dict[str, str]:
    """The environment in which a process finds the packages of this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


def marked_tests(device: torch.device) -> tuple[bool | None, str]:
    """The tests marked ``gpu``, in another process."""
    if device.type != "cuda":
        return None, "they need a GPU"
    if importlib.util.find_spec("pytest") is None:
        return None, "pytest is not installed"
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "tests/train/test_gpu.py",
        "tests/model/test_kernels.py",
    ]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=150, check=False
    )
    lines = ran.stdout.strip().splitlines() or [""]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
    if ran.returncode not in (0, 1):  # such as a crash of the interpreter
        failures.append(f"exit code {ran.returncode}: {ran.stderr.strip()[:400]}")
    return ran.returncode == 0, "; ".join([lines[-1], *failures])[:1500]


def print_table(report: Report) -> None:
    """All results as one table."""
    values = report.values
    print(f"\n{values['device']}, torch {values['torch']}, product {values['product_tflops']} TFLOP/s")
    unit = "operators" if values["cuda"] is None else "launches"
    columns = ("step", "ms", unit, "GPU busy ms", "allocated GB", "reserved GB", "floor ms")
    keys = ("ms", "launches", "gpu_busy_ms", "allocated_gb", "reserved_gb", "floor_ms")
    rows = [columns]
    for entry in values["steps"]:
        how = "captured" if entry["captured"] else "eager"
        how += {"inf": ", no Triton kernels", "0": ", all Triton kernels"}.get(entry["kernels_from_size"], "")
        found = ("" if entry.get(key) is None else str(entry[key]) for key in keys)
        rows.append((f"{entry['preset']}, {entry['precision']}, {how}", *found))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    words = {True: "passed", False: "FAILED", None: "skipped"}
    for entry in values["checks"]:
        print(f"{words[entry['passed']]:8}{entry['check']}: {entry['detail']}")
    print(f"{report.failed} of {len(values['checks'])} checks failed, {values['seconds']} s")
