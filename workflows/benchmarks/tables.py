"""Speed of the preparation of CSV files.

    python workflows/benchmarks/tables.py [--clips N]

N clips of 100 frames of 25 joints are written as CSV files, in wide and in long form, with 6 decimals and with 17
digits as NumPy and pandas write them. One core reads and prepares them from the file cache, without writing a dataset.
The fastest of three repetitions is reported, in processor time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

# Set before numpy is imported: one thread.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from psptool.formats.readers.sources import find_clips  # noqa: E402
from psptool.formats.readers.table import TableReader  # noqa: E402
from psptool.preparation.compiling import load_kernels  # noqa: E402
from psptool.preparation.worker import prepare_task, tasks  # noqa: E402
from psptool.schemas.dataset import PreparationSettings  # noqa: E402
from psptool.schemas.formats import TableOptions  # noqa: E402
from psptool.skeletons.topology import JointGroup, Topology  # noqa: E402

FRAMES, JOINTS, REPEATS = 100, 25, 3
NAMES = tuple(f"joint {number:02}" for number in range(JOINTS))
ALL = (JointGroup("body", tuple(range(JOINTS))),)
CHAIN = Topology(
    name="chain25",
    joints=NAMES,
    bones=tuple((v, v + 1) for v in range(JOINTS - 1)),
    parts=ALL,
    regions=ALL,
    mirror=tuple(range(JOINTS)),
    center=0,
    spine=(0, 1),
    shoulders=(2, 3),
    ankles=(0, 0),
    released_across=(2, 3),
)


def table(xyz: NDArray[np.float64], form: str, style: str) -> str:
    """A CSV file of positions (T, V, 3)."""
    if form == "wide":
        lines = [",".join(["frame", *(f"{name}_{axis}" for name in NAMES for axis in "xyz")])]
        lines += [",".join([str(t), *(format(v, style) for v in xyz[t].ravel())]) for t in range(len(xyz))]
    else:
        lines = ["frame,person,joint,x,y,z"]
        lines += [
            f"{t},1,{name},{','.join(format(v, style) for v in xyz[t, j])}"
            for t in range(len(xyz))
            for j, name in enumerate(NAMES)
        ]
    return "\n".join(lines) + "\n"


def clips_per_second(folder: Path, form: str) -> float:
    """Clips per second of processor time, the fastest of `REPEATS`."""
    reader = TableReader(CHAIN, TableOptions(reader="table", form=form), None)  # type: ignore[arg-type]
    load_kernels(reader, 1)
    sources, _ = find_clips([folder], reader)
    best = 0.0
    for _ in range(REPEATS):
        began = time.process_time()
        for task in tasks([(source,) for source in sources]):
            outcomes = prepare_task(task, reader, PreparationSettings())
            assert not any(outcome.left_out for outcome in outcomes)
        best = max(best, len(sources) / (time.process_time() - began))
    return best


def main() -> None:
    """Print one line per kind of file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=int, default=2000, metavar="N", help="number of clips (default: 2000)"
    )
    clips = parser.parse_args().clips
    rng = np.random.default_rng(0)
    body = rng.normal(size=(JOINTS, 3)) + np.array((0, 0, 3))
    for form in ("wide", "long"):
        for style in (".6f", ".17g"):
            with tempfile.TemporaryDirectory() as name:
                folder, size = Path(name), 0
                for number in range(clips):
                    text = table(body + 0.02 * rng.normal(size=(FRAMES, JOINTS, 3)), form, style)
                    size += (folder / f"clip{number:05}.csv").write_text(text)
                speed = clips_per_second(folder, form)
            print(f"{form} form, {size / clips / 1e3:4.0f} kB per clip: {speed:6.0f} clips/s per core")


if __name__ == "__main__":
    main()
