"""Speed, file size and memory of the preparation of NTU recordings.

    python workflows/benchmarks/prepare.py [--clips N]

Synthetic files of the size of NTU files (about 250 kB, one in five with two persons) are prepared by psptool on one and
two cores, prepared by a plain Python reader (`plain_reader`), and only scanned (`floor`). All of them read the same
files from the file cache, in one run and on fixed cores. The fastest of several repetitions is reported, without the
start of the worker processes (1 to 2 s, once). Peak memory is measured in separate processes that prepare N and 10 N
members of a zip archive.
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

# Set before numpy is imported: one thread per process.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
import plain_reader  # noqa: E402

from psptool.formats.synthesis.actions import NTU_ACTIONS  # noqa: E402
from psptool.formats.synthesis.recording import generator, record  # noqa: E402
from psptool.formats.synthesis.writing import skeleton_text, write_files  # noqa: E402
from psptool.schemas.builtin import builtin_dataset  # noqa: E402

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
if status.exists():  # the peak above may be that of the parent process
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
    """Run all measurements and print them."""
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
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=int, default=2000, help="number of files; the memory test also uses ten times as many"
    )
    parser.add_argument("--plain-clips", type=int, default=60, help="number of files for the plain reader")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions; the fastest is reported")
    parser.add_argument("--skip-memory", action="store_true", help="skip the memory test")
    parser.add_argument(
        "--folder", type=Path, help="working folder; needs about 2 MB per clip (default: temporary)"
    )
    return parser.parse_args()


def say(text: str) -> None:
    """Print a line and flush."""
    print(text, flush=True)


def distinct_files() -> Iterator[bytes]:
    """`DISTINCT` files of the size of NTU files, every fifth with two persons."""
    rng = generator(0, "benchmark")
    for n in range(DISTINCT):
        actions = PAIRS if n % 5 == 0 else SINGLE
        name = f"S001C{n % 3 + 1:03d}P{n % 40 + 1:03d}R001A{actions[n % len(actions)]:03d}"
        yield skeleton_text(record(name, seed=n, frames=int(rng.integers(*FRAMES))))


def numbered(contents: list[bytes], clips: int) -> Iterator[tuple[str, bytes]]:
    """``clips`` files with distinct names and contents; the first coordinate makes each content unique."""
    keys = product(range(1, 33), range(1, 4), range(1, 107), (1, 2), range(61, 64))
    names = (f"S{s:03d}C{c:03d}P{p:03d}R{r:03d}A{a:03d}" for s, c, p, r, a in keys)
    usable = (name for name in names if name not in frozenset(builtin_dataset("ntu120").missing))
    for n, name in enumerate(islice(usable, clips)):
        head, joints = contents[n % len(contents)].split(b"\r\n25\r\n", 1)
        first, rest = joints.split(b" ", 1)
        moved = b"%.7G" % (float(first) + n // len(contents) * 1e-5)
        yield f"{name}.skeleton", b"\r\n25\r\n".join((head, b" ".join((moved, rest))))


def pin(cores: int) -> None:
    """Restrict this process and its children to ``cores`` cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(ALLOWED)[:cores])


ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def best(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


def compile_times(folder: Path) -> None:
    """Time of the first preparation on a machine (with compilation) and in a process, on two cores."""
    write_files(folder / "few", [("S001C001P001R001A061.skeleton", next(distinct_files()))])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "numba")}
    cold, warm = (
        run_child(folder / "few", folder / f"{n}.h5", environment, 2)["seconds"] for n in ("cold", "warm")
    )
    say(
        f"first clip of a process: {cold:.1f} s with compilation, {warm:.2f} s from the cache (not included below)"
    )
    say(f"compilation, once per machine: {cold - warm:.1f} s  (at most 5)")


def run_child(raw: Path, out: Path, environment: dict[str, str], jobs: int = 1) -> dict[str, float]:
    """Prepare in a separate process; return clips, peak memory in kilobytes, and seconds."""
    command = [sys.executable, "-c", MEMORY_CHILD, str(raw), str(out), str(jobs)]
    environment = with_checkout(environment)
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output)
    return found


def speeds(folder: Path, raw: Path, arguments: argparse.Namespace) -> None:
    """Clips per second of the plain reader, of psptool on one and two cores, and of the lower bound."""
    import floor

    from psptool.preparation import pipeline
    from psptool.preparation.pipeline import prepare

    pipeline.WORTH_WORKERS = 0.0  # two processes, however few the clips
    files = sorted(raw.iterdir())
    megabytes = sum(path.stat().st_size for path in files) / 1e6

    def run(cores: int, name: str) -> float:
        # A new file each time: replacing a file takes additional time.
        (folder / name).unlink(missing_ok=True)
        pin(cores)
        return best(lambda: prepare("ntu", [raw], folder / name, jobs=cores), 1)

    pin(1)
    floor.scan_file(files[0])
    prepare("ntu", [files[0]], folder / "first.h5")
    some = files[:: max(len(files) // arguments.plain_clips, 1)][: arguments.plain_clips]
    plain = best(lambda: [plain_reader.prepare(path) for path in some], 1) / len(some)
    scanned = best(lambda: [floor.scan_file(path) for path in files], arguments.repeats) / len(files)
    # Alternating, so that other load on the machine affects both.
    runs = [(run(1, "one.h5"), run(2, "two.h5")) for _ in range(arguments.repeats)]
    one, two = (min(times) / len(files) for times in zip(*runs, strict=True))
    pin(len(ALLOWED))
    apart = side_by_side(folder, files, arguments.repeats) / len(files)
    rows = (
        ("plain reader", plain),
        ("psptool, 1 core", one),
        ("psptool, 2 cores", two),
        ("lower bound, 1 core", scanned),
    )
    for name, seconds in rows:
        say(f"{name:20} {1 / seconds:8.0f} clips/s {megabytes / len(files) / seconds:8.0f} MB/s")
    say(f"psptool over plain reader  {plain / one:6.1f}  (at least 25)")
    say(f"psptool / lower bound       {scanned / one:6.2f}  (at least 0.5)")
    say(f"two cores over one         {one / two:6.2f}  (at least 1.7)")
    say(f"two preparations of half the files each, side by side, over one {one / apart:.2f}")
    compare(folder, some)
    same = (folder / "one.h5").read_bytes() == (folder / "two.h5").read_bytes()
    say(f"one and two cores wrote {'the same bytes' if same else 'DIFFERENT BYTES'}")


def side_by_side(folder: Path, files: list[Path], repeats: int) -> float:
    """Seconds of two parallel processes that prepare half of the files each: the possible gain of a second core."""
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
    """A child process with text pipes."""
    environment = with_checkout(dict(os.environ))
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def with_checkout(environment: dict[str, str]) -> dict[str, str]:
    """The environment with this checkout in PYTHONPATH."""
    paths = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def compare(folder: Path, some: list[Path]) -> None:
    """Largest differences between the arrays of the plain reader and those of psptool's file."""
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
        raise SystemExit("the arrays differ, so the speeds are not comparable")


def file_size(path: Path) -> None:
    """Size of the file, relative to padded float32 arrays (N, 3, 300, 25, 2) of joint and motion stream."""
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
            f"{found['clips']} members of a zip: peak memory {found['kilobytes'] / 1e3:.0f} MB, "
            f"{found['clips'] / found['seconds']:.0f} clips/s"
        )
        archive.unlink()
        out.unlink()
    say(f"peak memory with ten times the clips, ratio {peaks[1] / peaks[0]:.3f}  (at most 1.10)")


if __name__ == "__main__":
    main()
