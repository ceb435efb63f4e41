"""How much host memory do training, evaluation and embedding take on a dataset of NTU 60's size?

    python workflows/benchmarks/memory.py [--clips N]

A synthetic dataset of random positions is written (4 GB for all 56,880 clips). A few training steps of a tiny
configuration, the evaluation of the run and the features of all clips run in processes of their own. Their peak
resident memory, less that of a process that only imports the same packages, is shown as a ratio to the size of the
positions. Resident memory counts neither the file cache nor a file's pages that no process maps.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psptool.data.store.layout import KEY_COLUMNS
from psptool.data.store.writing import PackedClips, StoreWriter
from psptool.schemas.builtin import builtin_dataset
from psptool.schemas.dataset import Counts, DatasetManifest, PreparationSettings

CLIPS = 56_880
NTU60 = builtin_dataset("ntu60")
JOINTS = NTU60.topology.size
# 86 frames on average, and one clip in five with two persons.
FRAMES = (52, 121)
PACKED = 512
AT_MOST = {"train": 1.3, "evaluate": 1.3, "embed": 1.3}
TINY = (
    *(
        "optim.steps=3",
        "optim.labelled_batch=4",
        "optim.pool_batch=4",
        "sampling.frames=8",
        "precision=float32",
    ),
    *("model.channels=[8,8]", "model.qk_channels=[4,4]", "model.strides=[2,2]", "model.heads=1"),
)
CHILD = """
import re, sys
from pathlib import Path
import h5py, torch
import psptool.evaluation.api, psptool.evaluation.features, psptool.training.api, psptool.cli.train
from psptool.cli.main import main

sys.argv = ["psptool", *sys.argv[1:]]
try:
    if len(sys.argv) > 1:
        main()
except SystemExit as error:
    if error.code:
        raise
status = Path("/proc/self/status").read_text()
print("peak", re.search(r"VmHWM:\\s*(\\d+)", status)[1])
"""


def main() -> None:
    """Write the dataset, run everything and print it."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="psptool-benchmark-") as name:
        folder = Path(name)
        positions = write_dataset(folder / "ntu60.h5", arguments.clips)
        say(f"{platform.machine()}, Python {platform.python_version()}, {arguments.clips} clips")
        say(f"positions {positions / 1e6:.0f} MB")
        run(folder, "split", "--data", "ntu60.h5", "--ratio", "0.05", "--out", "split.json")
        changes = [word for change in TINY for word in ("--set", change)]
        commands = {
            "train": (
                "--data",
                "ntu60.h5",
                "--split",
                "split.json",
                "--preset",
                "fast",
                *changes,
                "--out",
                "run",
            ),
            "evaluate": ("run",),
            "embed": ("run",),
        }
        libraries = run(folder)
        say(f"packages alone {libraries / 1e6:.0f} MB")
        for command, words in commands.items():
            peak = run(folder, command, *words, "--device", "cpu")
            beyond = peak - libraries
            say(
                f"{command:9} {peak / 1e6:6.0f} MB, {beyond / 1e6:6.0f} MB beyond the packages: "
                f"{beyond / positions:.2f} of the positions  (at most {AT_MOST[command]})"
            )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips of the dataset; at most 61200")
    parser.add_argument("--folder", type=Path, help="folder for temporary files (default: the system's)")
    return parser.parse_args()


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def run(folder: Path, *words: str) -> int:
    """Run a psptool command in a process of its own: its peak resident memory in bytes."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.rsplit("peak", 1)[1]) * 1024


def write_dataset(path: Path, clips: int) -> int:
    """Write a dataset of random positions: size of its positions in bytes."""
    rng = np.random.default_rng(0)
    names = list(clip_names())[:clips]
    with StoreWriter(path, JOINTS) as writer:
        for first in range(0, len(names), PACKED):
            writer.add(pack_random(names[first : first + PACKED], rng))
        manifest = DatasetManifest(
            description=NTU60.complete(),
            settings=PreparationSettings(),
            fingerprints=writer.fingerprints(),
            counts=Counts(
                clips=writer.clips,
                frames=writer.frames,
                rows=writer.rows,
                quarantined=0,
                skipped=0,
                duplicates=0,
            ),
            tool_version="benchmark",
        )
        writer.finish(manifest)
    return writer.rows * JOINTS * 3 * 4


def clip_names() -> Iterator[str]:
    """Names of NTU 60, ascending: 17 setups of 10 subjects, of whom 7 are training subjects, as 70 % of NTU 60."""
    for s, c, p, r, a in product(range(1, 18), range(1, 4), range(13, 23), (1, 2), range(1, 61)):
        yield f"S{s:03d}C{c:03d}P{p:03d}R{r:03d}A{a:03d}"


def pack_random(names: list[str], rng: np.random.Generator) -> PackedClips:
    """Clips of random positions in which everybody is present."""
    count = len(names)
    frames, persons = rng.integers(*FRAMES, count), 1 + (rng.random(count) < 0.2)
    rows = int((frames * persons).sum())
    joint = rng.standard_normal((rows, JOINTS, 3), dtype=np.float32)
    unused = tuple(b"" for _ in names)
    return PackedClips(
        tuple(names),
        np.column_stack([keys(names), frames, persons]),
        np.zeros((count, 3)),
        np.ones(count),
        np.tile(np.eye(3), (count, 1, 1)),
        unused,
        unused,
        joint,
        np.zeros_like(joint),
        np.ones(rows, bool),
        np.full((rows, JOINTS), 2, np.uint8),
    )


def keys(names: list[str]) -> NDArray[np.int64]:
    """The numbers in the names, (n, 5)."""
    parsed = [NTU60.parse(name) for name in names]
    return np.array([[getattr(key, column) for column in KEY_COLUMNS] for key in parsed], np.int64)


if __name__ == "__main__":
    main()
