"""How fast, how large and how hungry is the preparation of NTU recordings? One command, one table of ratios.

    python workflows/benchmarks/prepare.py [--clips N]

Synthetic files of NTU's size (about 250 kB, one in five with two persons) are prepared by psptool on one and
two cores, by a plain reader in the field's manner (`plain_reader`), and scanned without any treatment
(`floor`). All of it reads warm files from one folder, in one run, on cores that the process is pinned to; the
best of some repeats counts, so that starting the two worker processes (a second or two, once) is left out.
Peak memory is that of separate processes that prepare N and 10 N members of a zip archive.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path

# Before numpy: one core is one thread.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
import plain_reader  # noqa: E402

from psptool.data.skeletons.missing import missing_clips  # noqa: E402
from psptool.formats.synthesis.actions import NTU_ACTIONS  # noqa: E402
from psptool.formats.synthesis.recording import generator, record  # noqa: E402
from psptool.formats.synthesis.writing import skeleton_text, write_files  # noqa: E402

SINGLE = [number for number, action in NTU_ACTIONS.items() if action.persons == 1]
PAIRS = [number for number, action in NTU_ACTIONS.items() if action.persons == 2]
DISTINCT = 100
# 77 frames on average, which make 250 kB; NTU 120 has 71.
FRAMES = (40, 115)
PADDED_BYTES = 3 * 300 * 25 * 2 * 4 * 2
MEMORY_CHILD = """
import json, re, sys, time
from pathlib import Path
from psptool.common.machine import peak_memory
from psptool.preparation.pipeline import prepare
result = prepare("ntu", [Path(sys.argv[1])], Path(sys.argv[2]), jobs=int(sys.argv[3]))
peak = (peak_memory() or 0) // 1024
status = Path("/proc/self/status")
if status.exists():  # there the peak above may be that of the process that started this one
    peak = int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1])
print(json.dumps({"clips": result.report.counts.clips, "kilobytes": peak, "seconds": result.seconds}))
"""
HALF_CHILD = """
import os, sys, time
from pathlib import Path
core, raw, out, repeats = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [core])
from psptool.preparation.pipeline import prepare
files = sorted(raw.iterdir())
prepare("ntu", files[:1], out)
print("ready", flush=True)
sys.stdin.readline()
times = []
for _ in range(repeats):
    out.unlink()
    begin = time.perf_counter()
    prepare("ntu", [raw], out)
    times.append(time.perf_counter() - begin)
print(min(times))
"""


def main() -> None:
    """Run everything and print it."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="psptool-benchmark-") as name:
        folder = Path(name)
        say(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        compile_times(folder)
        contents = list(distinct_files())
        raw = folder / "raw"
        write_files(raw, numbered(contents, arguments.clips))
        sizes = [path.stat().st_size for path in raw.iterdir()]
        say(f"{len(sizes)} files of {np.mean(sizes) / 1e3:.0f} kB on average, {DISTINCT} distinct movements")
        speeds(folder, raw, arguments)
        file_size(folder / "one.h5")
        if not arguments.skip_memory:
            memory(folder, contents, arguments.clips)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=int, default=2000, help="files; the memory test goes to ten times as many"
    )
    parser.add_argument(
        "--plain-clips", type=int, default=60, help="files that the plain reader is measured on"
    )
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--skip-memory", action="store_true", help="leave out the archives")
    parser.add_argument(
        "--folder", type=Path, help="where to work; about 2 MB a clip is needed (default: temporary)"
    )
    return parser.parse_args()


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def distinct_files() -> Iterator[bytes]:
    """`DISTINCT` files of NTU's size, every fifth with two persons."""
    rng = generator(0, "benchmark")
    for n in range(DISTINCT):
        actions = PAIRS if n % 5 == 0 else SINGLE
        name = f"S001C{n % 3 + 1:03d}P{n % 40 + 1:03d}R001A{actions[n % len(actions)]:03d}"
        yield skeleton_text(record(name, seed=n, frames=int(rng.integers(*FRAMES))))


def numbered(contents: list[bytes], clips: int) -> Iterator[tuple[str, bytes]]:
    """``clips`` files with names of their own, none equal to another: the first coordinate counts them."""
    keys = product(range(1, 33), range(1, 4), range(1, 107), (1, 2), range(61, 64))
    names = (f"S{s:03d}C{c:03d}P{p:03d}R{r:03d}A{a:03d}" for s, c, p, r, a in keys)
    usable = (name for name in names if name not in missing_clips("ntu120"))
    for n, name in enumerate(islice(usable, clips)):
        head, joints = contents[n % len(contents)].split(b"\r\n25\r\n", 1)
        first, rest = joints.split(b" ", 1)
        moved = b"%.7G" % (float(first) + n // len(contents) * 1e-5)
        yield f"{name}.skeleton", b"\r\n25\r\n".join((head, b" ".join((moved, rest))))


def pin(cores: int) -> None:
    """Keep this process, and those that it starts, on so many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(ALLOWED)[:cores])


ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def best(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the quickest call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


def compile_times(folder: Path) -> None:
    """What the first preparation on a machine, and the first in a process, take, with two cores."""
    write_files(folder / "few", [("S001C001P001R001A061.skeleton", next(distinct_files()))])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "numba")}
    cold, warm = (
        run_child(folder / "few", folder / f"{n}.h5", environment, 2)["seconds"] for n in ("cold", "warm")
    )
    say(f"first clip of a process: {cold:.1f} s with compilation, {warm:.2f} s once cached (left out below)")
    say(f"compilation, once per machine: {cold - warm:.1f} s  (at most 5)")


def run_child(raw: Path, out: Path, environment: dict[str, str], jobs: int = 1) -> dict[str, float]:
    """Prepare in a process of its own: clips, kilobytes of peak memory, seconds."""
    command = [sys.executable, "-c", MEMORY_CHILD, str(raw), str(out), str(jobs)]
    environment = with_checkout(environment)
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output)
    return found


def speeds(folder: Path, raw: Path, arguments: argparse.Namespace) -> None:
    """Clips a second of the plain reader, of psptool on one and two cores, and of the floor."""
    import floor

    from psptool.preparation.pipeline import prepare

    files = sorted(raw.iterdir())
    megabytes = sum(path.stat().st_size for path in files) / 1e6

    def run(cores: int, name: str) -> float:
        # Anew each time: taking an old file's place also takes removing it.
        (folder / name).unlink(missing_ok=True)
        pin(cores)
        return best(lambda: prepare("ntu", [raw], folder / name, jobs=cores, workers="processes"), 1)

    pin(1)
    floor.scan_file(files[0])
    prepare("ntu", [files[0]], folder / "first.h5")
    some = files[:: max(len(files) // arguments.plain_clips, 1)][: arguments.plain_clips]
    plain = best(lambda: [plain_reader.prepare(path) for path in some], 1) / len(some)
    scanned = best(lambda: [floor.scan_file(path) for path in files], arguments.repeats) / len(files)
    # In turn, so that a machine that others slow down for a while slows down both.
    runs = [(run(1, "one.h5"), run(2, "two.h5")) for _ in range(arguments.repeats)]
    one, two = (min(times) / len(files) for times in zip(*runs, strict=True))
    pin(len(ALLOWED))
    apart = side_by_side(folder, files, arguments.repeats) / len(files)
    rows = (
        ("plain reader", plain),
        ("psptool, 1 core", one),
        ("psptool, 2 cores", two),
        ("floor, 1 core", scanned),
    )
    for name, seconds in rows:
        say(f"{name:18} {1 / seconds:8.0f} clips/s {megabytes / len(files) / seconds:8.0f} MB/s")
    say(f"psptool over plain reader  {plain / one:6.1f}  (at least 25)")
    say(f"psptool over floor         {scanned / one:6.2f}  (at least 0.5)")
    say(f"two cores over one         {one / two:6.2f}  (at least 1.7)")
    say(f"two preparations of half the files each, side by side, over one {one / apart:.2f}")
    compare(folder, some)
    same = (folder / "one.h5").read_bytes() == (folder / "two.h5").read_bytes()
    say(f"one and two cores wrote {'the same bytes' if same else 'DIFFERENT BYTES'}")


def side_by_side(folder: Path, files: list[Path], repeats: int) -> float:
    """Seconds of two processes that prepare half of the files each at once: what the machine's second core can give."""
    children = []
    for core, half in zip(sorted(ALLOWED), (files[::2], files[1::2]), strict=False):
        raw = folder / f"half-{core}"
        raw.mkdir()
        for path in half:
            (raw / path.name).hardlink_to(path)
        command = [sys.executable, "-c", HALF_CHILD, str(core), str(raw), str(folder / f"half-{core}.h5")]
        children.append(start([*command, str(repeats)]))
    for child in children:
        child.stdout.readline()
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    return max(float(child.communicate()[0]) for child in children)


def start(command: list[str]) -> subprocess.Popen[str]:
    """A child that takes and gives lines of text."""
    environment = with_checkout(dict(os.environ))
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def with_checkout(environment: dict[str, str]) -> dict[str, str]:
    """The environment with the package of this checkout, also where psptool is not installed."""
    paths = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def compare(folder: Path, some: list[Path]) -> None:
    """Largest differences between the plain reader's arrays and the file's."""
    from psptool.data.store.reading import open_store

    largest = {"joint": 0.0, "motion": 0.0, "recorded": 0.0}
    with open_store(folder / "one.h5") as store:
        for path in some:
            recorded, joint, motion = plain_reader.prepare(path)
            clip = store.clip(path.stem)
            if clip.joint.shape != joint.shape:
                raise SystemExit(f"{path.stem}: shape {clip.joint.shape}, the plain reader's {joint.shape}")
            back = np.where(clip.present[..., None, None], clip.recorded(), 0)
            pairs = {
                "joint": (clip.joint, joint),
                "motion": (clip.motion, motion),
                "recorded": (back, recorded),
            }
            for name, (ours, plain) in pairs.items():
                largest[name] = max(largest[name], float(np.abs(ours - plain).max()))
    say(
        f"against the plain reader on {len(some)} clips, at most: joint {largest['joint']:.1e}, motion "
        f"{largest['motion']:.1e} (units), recorded {largest['recorded']:.1e} m"
    )
    if max(largest.values()) > 1e-5:
        raise SystemExit("the arrays differ: the comparison of speeds means nothing")


def file_size(path: Path) -> None:
    """The file against the field's padded float32 arrays (N, 3, 300, 25, 2) of both streams."""
    from psptool.data.store.reading import open_store

    with open_store(path) as store:
        padded = len(store) * PADDED_BYTES
    size = path.stat().st_size
    say(f"file size {size / 1e6:.0f} MB, padded {padded / 1e6:.0f} MB: {size / padded:.3f}  (under 0.2)")


def memory(folder: Path, contents: list[bytes], clips: int) -> None:
    """Peak memory of N and 10 N members of a zip archive."""
    peaks = []
    for count in (clips, 10 * clips):
        archive, out = folder / f"{count}.zip", folder / f"{count}.h5"
        write_files(archive, numbered(contents, count))
        found = run_child(archive, out, dict(os.environ))
        peaks.append(found["kilobytes"])
        say(
            f"{found['clips']} members of a zip: {found['kilobytes'] / 1e3:.0f} MB at most, "
            f"{found['clips'] / found['seconds']:.0f} clips/s"
        )
        archive.unlink()
        out.unlink()
    say(f"peak memory, ten times the clips over one {peaks[1] / peaks[0]:.3f}  (at most 1.10)")


if __name__ == "__main__":
    main()
