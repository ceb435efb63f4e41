"""Time and memory of a training step, and the effect of each optimization.

    python workflows/benchmarks/train.py [--labelled 2 --unlabelled 20] [--json OUT]

Preset `paper` (T 50, 25 joints, every fifth clip with two persons) on synthetic clips. The batch is 9 labelled and 90
unlabelled clips on a GPU, and a reduced one on a CPU. Starting from a plain implementation (`plain_engine`), each row
adds one optimization of psptool. All rows alternate in one process, and the median step is reported. Before, both
implementations must give the same loss on the same batch. In addition, the benchmark computes a lower bound from
operations and bytes of a step and measured rates of the device, and measures peak memory in separate processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_engine import PaddedClips, PlainNet, feed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from psptool.common import machine
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.device import PRECISIONS, choose_device, choose_precision
from psptool.losses.total import total_loss
from psptool.model.build import build_model
from psptool.model.encoder import Block, Encoder
from psptool.model.network import Network
from psptool.schemas.builtin_skeletons import builtin_skeleton
from psptool.schemas.recipes import resolve
from psptool.schemas.training import SamplingSettings, TrainingConfig
from psptool.skeletons.topology import Topology
from psptool.training.optimization import build_optimizer

NTU25 = builtin_skeleton("ntu25").topology
UCLA20 = builtin_skeleton("kinect20").topology

CLASSES, SEED = 60, 0
TOPOLOGY = {25: NTU25, 20: UCLA20}
Step = Callable[[], Tensor]


def main() -> None:
    """Run all measurements, print them, and write them to ``--json``."""
    arguments = parse_arguments()
    if arguments.memory_child:
        print(json.dumps(peak_memory(*map(int, arguments.memory_child.split(",")), arguments.device)))
        return
    device = choose_device(arguments.device)
    labelled = arguments.labelled or (9 if device.type == "cuda" else 2)
    unlabelled = arguments.unlabelled or (90 if device.type == "cuda" else 20)
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    found: dict[str, Any] = {
        "device": what,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch": [labelled, unlabelled],
    }
    print(f"{what}, {found['threads']} threads, torch {torch.__version__}; {labelled} + {unlabelled} clips")
    found["losses"] = compare(labelled, unlabelled, device)
    found["ladder"] = ladder(labelled, unlabelled, device, arguments)
    found["floor"] = floor(labelled, unlabelled, device, found["ladder"][-1]["seconds"])
    if not arguments.skip_memory:
        found["memory"] = memory(labelled + unlabelled, arguments.device)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--labelled", type=int, help="labelled clips per step")
    parser.add_argument("--unlabelled", type=int, help="unlabelled clips per step")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps per row; the median is reported")
    parser.add_argument("--workers", type=int, default=2, help="DataLoader processes of the plain engine")
    parser.add_argument("--skip-memory", action="store_true", help="skip the memory test")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--memory-child", help=argparse.SUPPRESS)
    return parser.parse_args()


def make_clips(count: int, joints: int, device: torch.device) -> RaggedClips:
    """``count`` smooth random walks of 60 to 120 frames, every fifth of two persons."""
    rng = np.random.default_rng(SEED)
    frames, persons = rng.integers(60, 121, count), np.where(np.arange(count) % 5 == 0, 2, 1)
    sizes = frames * persons
    joint = torch.as_tensor(rng.normal(size=(int(sizes.sum()), joints, 3)).cumsum(0) * 0.02).float()
    numbers = [torch.as_tensor(x) for x in (rng.integers(0, CLASSES, count), sizes.cumsum() - sizes)]
    return RaggedClips(
        joint=joint.to(device),
        device=device,
        present=torch.ones(len(joint), dtype=torch.bool),
        label=numbers[0],
        first_row=numbers[1],
        frames=torch.as_tensor(frames),
        persons=torch.as_tensor(persons),
        visible=torch.as_tensor(np.concatenate([np.arange(n) for n in frames])),
        first_visible=torch.as_tensor(frames.cumsum() - frames),
        visible_count=torch.as_tensor(frames),
        topology=TOPOLOGY[joints],
    )


def padded(clips: RaggedClips, frames: int) -> PaddedClips:
    """The same clips as padded arrays for the plain engine."""
    arrays: list[list[np.ndarray]] = [[], []]
    for first, length, persons in zip(
        clips.first_row.tolist(), clips.frames.tolist(), clips.persons.tolist(), strict=True
    ):
        joint = np.zeros((2, length, *clips.joint.shape[1:]), dtype=np.float32)
        rows = clips.joint[first : first + length * persons].cpu().numpy()
        joint[:persons] = rows.reshape(persons, length, *rows.shape[1:])
        motion = np.zeros_like(joint)
        motion[:, :-1] = joint[:, 1:] - joint[:, :-1]
        arrays[0].append(joint)
        arrays[1].append(motion)
    return PaddedClips(arrays[0], arrays[1], clips.label.tolist(), frames)


def recipe(frames: int = 50, absent: str = "skip") -> TrainingConfig:
    """Preset `paper` with this number of frames and treatment of absent persons."""
    return resolve(preset="paper", changes=[f"sampling.frames={frames}", f"model.absent_persons={absent}"])


def network(config: TrainingConfig, topology: Topology, device: torch.device) -> Network:
    """The network with the initial weights of `SEED`."""
    torch.manual_seed(SEED)
    return build_model(config, topology, CLASSES).to(device).train()


def engine_step(
    clips: RaggedClips, labelled: int, batch: int, absent: str, precision: str, frames: int = 50
) -> tuple[Step, Network]:
    """A training step of psptool, and its model."""
    config = recipe(frames, absent)
    model = network(config, clips.topology, clips.device)
    optimizer = build_optimizer(model, config.optim)
    batcher = Batcher.of(clips, config)
    generator = torch.Generator().manual_seed(SEED)
    taken = 0

    def step() -> Tensor:
        nonlocal taken
        # Consecutive clips: one fifth of every batch has two persons.
        chosen = (torch.arange(batch) + taken) % len(clips.label)
        taken += batch
        labels = clips.label[chosen[:labelled]].to(clips.device, non_blocking=True)
        streams = batcher.train(chosen, generator)
        loss = total_loss(model, streams, labels, config, PRECISIONS[precision])["loss"]
        return descend(loss, optimizer)

    return step, model


def plain_step(
    clips: RaggedClips, labelled: int, batch: int, workers: int | None, by_index: bool
) -> tuple[Step, PlainNet]:
    """A training step of the plain engine; without workers, with one precomputed batch."""
    config = recipe()
    model = PlainNet(config.model, NTU25, CLASSES, by_index).to(clips.device).train()
    model.load_state_dict(network(config, NTU25, clips.device).state_dict())
    optimizer = build_optimizer(model, config.optim)
    batches = feed(padded(clips, config.sampling.frames), batch, workers or 0)
    fixed = None if workers else [x.to(clips.device) for x in next(batches)]

    def step() -> Tensor:
        joint, motion, label = fixed or [x.to(clips.device) for x in next(batches)]
        return descend(model.loss(joint, motion, label, labelled), optimizer)

    return step, model


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """Backward pass and optimizer step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def compare(labelled: int, unlabelled: int, device: torch.device) -> dict[str, float]:
    """Loss of both implementations on one batch in float32, with absent persons; exits if they differ."""
    clips = make_clips(labelled + unlabelled, 25, device)
    config = recipe(absent="zeros")
    model = network(config, NTU25, device)
    plain = PlainNet(config.model, NTU25, CLASSES).to(device).train()
    plain.load_state_dict(model.state_dict())
    batch = Batcher(clips, SamplingSettings(frames=50), absent_persons="zeros").test(
        torch.arange(len(clips.label))
    )
    labels = clips.label.to(device)
    ours = float(total_loss(model, batch, labels[:labelled], config, torch.float32)["loss"].detach())
    joint, motion = (x.unflatten(0, (-1, 2)) for x in (stream.x for stream in batch.values()))
    theirs = float(plain.loss(joint, motion, labels, labelled).detach())
    print(f"loss on one batch: psptool {ours:.6f}, plain {theirs:.6f}")
    if abs(ours - theirs) > 1e-3 * abs(theirs):
        raise SystemExit("the losses differ, so the speeds are not comparable")
    return {"psptool": ours, "plain": theirs}


def ladder(
    labelled: int, unlabelled: int, device: torch.device, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Seconds per step from the plain engine to psptool, one optimization per row; rows alternate."""
    batch = labelled + unlabelled
    clips = make_clips(max(5 * batch, 100), 25, device)
    rungs: list[tuple[str, Step]] = [
        ("plain engine", plain_step(clips, labelled, batch, arguments.workers, False)[0]),
        ("batches precomputed, no DataLoader", plain_step(clips, labelled, batch, None, False)[0]),
        ("maps by index_select", plain_step(clips, labelled, batch, None, True)[0]),
        ("psptool, absent persons computed", engine_step(clips, labelled, batch, "zeros", "float32")[0]),
        ("psptool, present persons only", engine_step(clips, labelled, batch, "skip", "float32")[0]),
    ]
    if choose_precision("auto", device) == "bfloat16":
        rungs.append(("psptool, bfloat16", engine_step(clips, labelled, batch, "skip", "bfloat16")[0]))
    times: dict[str, list[float]] = {name: [] for name, _ in rungs}
    for number in range(arguments.rounds + 1):
        for name, step in rungs:
            seconds = timed(step, device)
            if number:  # the first round is a warm-up
                times[name].append(seconds)
    found: list[dict[str, Any]] = []
    for name, _ in rungs:
        seconds = statistics.median(times[name])
        over_plain = found[0]["seconds"] / seconds if found else 1.0
        over_last = found[-1]["seconds"] / seconds if found else 1.0
        found.append({"rung": name, "seconds": seconds, "over_plain": over_plain, "over_last": over_last})
        print(
            f"{name:34} {seconds:7.3f} s  {1 / seconds:7.3f} steps/s  x {over_last:5.2f}  in all x {over_plain:5.2f}"
        )
    print("(at least x 1.5 in float32 and x 3 with bfloat16 on a CPU; x 10 on a GPU)")
    return found


def timed(step: Step, device: torch.device) -> float:
    """Seconds of one step, with synchronization of the device."""
    begin = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def floor(labelled: int, unlabelled: int, device: torch.device, seconds: float) -> dict[str, float]:
    """Lower bound of a step: operations and minimum memory traffic, divided by measured rates of the device."""
    batch = labelled + unlabelled
    precision = choose_precision("auto", device)
    step, model = engine_step(make_clips(batch, 25, device), labelled, batch, "skip", precision)
    elements: list[int] = []
    first_norms = {encoder.input_projection[1] for encoder in model.modules() if isinstance(encoder, Encoder)}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, out: elements.append(out.numel()))
        for module in model.modules()
        if isinstance(module, (Block, nn.BatchNorm2d))
        and (isinstance(module, Block) or module in first_norms)
    ]
    with FlopCounterMode(display=False) as counter:
        step()
    for hook in hooks:
        hook.remove()
    width = PRECISIONS[precision].itemsize
    # Forward weights, backward weights, gradients out and in, momentum in and out, weights out.
    weights = 7 * 4 * sum(parameter.numel() for parameter in model.parameters())
    # A block's output is written, read by the next block, and read again by the backward pass.
    moved = weights + 3 * width * sum(elements)
    flops, rate, copy = counter.get_total_flops(), product_rate(device, precision), copy_rate(device)
    least = max(flops / rate, moved / copy)
    print(
        f"a step: {flops / 1e9:.0f} GFLOP, {moved / 1e6:.0f} MB at least; {precision} product "
        f"{rate / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s"
    )
    print(
        f"lower bound {least:.3f} s; a step takes {seconds / least:.1f} times as long, "
        f"{flops / seconds / rate:.2f} of the peak"
    )
    return {"flops": flops, "bytes": moved, "product": rate, "copy": copy, "floor": least}


def product_rate(device: torch.device, precision: str) -> float:
    """Floating-point operations per second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    x = torch.randn(size, size, device=device, dtype=PRECISIONS[precision])
    return 2 * size**3 / min(timed(lambda: x @ x, device) for _ in range(6))


def copy_rate(device: torch.device) -> float:
    """Bytes per second of a large copy, read plus written."""
    x = torch.zeros(2**26, device=device)
    y = torch.ones_like(x)
    return 2 * x.nbytes / min(timed(lambda: y.copy_(x), device) for _ in range(6))


def memory(batch: int, device: str) -> list[dict[str, float]]:
    """Peak memory of a step by batch size, frames and joints, each in a separate process."""
    rows = [(batch, 50, 25), (2 * batch, 50, 25), (batch, 100, 25), (batch, 50, 20)]
    found: list[dict[str, float]] = []
    print("clips   T   V   MB of a step   over the first")
    for row in rows:
        command = [sys.executable, __file__, "--device", device, "--memory-child", ",".join(map(str, row))]
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        taken = json.loads(output)["bytes"]
        ratio = taken / found[0]["bytes"] if found else 1.0
        found.append({"clips": row[0], "frames": row[1], "joints": row[2], "bytes": taken, "ratio": ratio})
        print(f"{row[0]:5} {row[1]:3} {row[2]:3} {taken / 1e6:14.0f} {ratio:16.2f}")
    return found


def peak_memory(batch: int, frames: int, joints: int, name: str) -> dict[str, float]:
    """Peak memory of two steps in bytes, without clips, libraries and weights."""
    device = choose_device(name)
    labelled = max(1, batch // 11)
    clips = make_clips(batch, joints, device)
    step, _ = engine_step(clips, labelled, batch, "skip", choose_precision("auto", device), frames)
    begin = _peak(device)
    step()
    step()
    return {"bytes": _peak(device) - begin}


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # On Linux, ru_maxrss is inherited from the parent; VmHWM is that of this process.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return machine.peak_memory() or 0


if __name__ == "__main__":
    main()
