"""Mutated datasets, JSON files, checkpoints and weights: a command that reads one succeeds or reports an error.

Time and memory are bounded.

`PSPTOOL_FUZZ_MUTATIONS=5000` sets how many mutations each target tries; seeds start at `PSPTOOL_FUZZ_SEED`.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load

from psptool.common.machine import peak_memory
from psptool.data.store.layout import NORMALIZATION, ROW_ARRAYS, TABLE_COLUMNS
from psptool.training import loop
from psptool.training.runs.state import MAGIC, seal
from psptool.training.runs.weights import weights_bytes
from tests.cli.conftest import Psptool
from tests.stores import set_manifest

COUNT = int(os.environ.get("PSPTOOL_FUZZ_MUTATIONS", "200"))
FIRST = int(os.environ.get("PSPTOOL_FUZZ_SEED", "0"))
MAX_SECONDS, MAX_BYTES = 10.0, 10**9
RUN = "runs/ucla-xview-0.05-s0-psp-fast"
SPLIT = "splits/ucla-xview-0.05-s0.json"
SECRET = "the content of another file "

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ARRAYS = [*ROW_ARRAYS, *(f"clips/{name}" for name in ("name", *TABLE_COLUMNS, *NORMALIZATION))]
NUMBERS = [0, 1, -1, 2, 3, 255, 2**31 - 1, 2**32, 2**53, 2**62, 2**63 - 1, -(2**63)]
TYPES: list[Any] = [
    *("<f4", ">f4", "<f8", "<f2", "?", "u1", "i1", "<i8", ">i8", "<u8", "<i4", "c8", "S5", "V3"),
    *(h5py.string_dtype("utf-8"), h5py.string_dtype("ascii"), h5py.string_dtype("utf-8", 7)),
    *(h5py.vlen_dtype("<i8"), h5py.enum_dtype({"A": 1}), h5py.ref_dtype),
    *(np.dtype([("x", "<f4"), ("y", "<i8")]), np.dtype(("<f4", (2,)))),
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**53, 2**63, 2**64, 10**30, 0.5, -0.5, 1e308, -1e308, 1e-300),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "x" * 1000,
        "../../x",
        "/dev/zero",
        "\x1b[2J",
        "\x00",
        "\n",
        "\u202e",
    ),
    *("a01_s01_e00_v01", "ntu60", "ntu25", "xsub", "0" * 64, "1e5", "null", [], {}, [[]], [None], {"": None}),
    *([1] * 1000, {"a": {"b": 1}}, [["a", "b"]], "\ud800"),
]
TOKENS = ["", "[" * 50_000, "9" * 5000, "1e999", '"', "}", ",", "\\ud800", "NaN", "-", "{" * 300, "\x00"]


class Watch:
    """Runs commands; fails if one ends without a result or an error, or exceeds the limits of time and memory."""

    def __init__(self, psptool: Psptool) -> None:
        self.psptool = psptool
        self.codes: dict[int, int] = {}
        self.slowest, self.before = 0.0, peak_memory() or 0

    def __call__(self, seed: int, command: str) -> None:
        started = time.process_time()
        ran = self.psptool(*command.split(), code=None)
        self.slowest = max(self.slowest, time.process_time() - started)
        where = f"seed {seed}: {command}"
        assert ran.code in ((0, 1, 2) if command.startswith(("validate", "split --check")) else (0, 2)), (
            where,
            ran,
        )
        assert ran.code == 0 or ran.err or ran.out, where
        assert SECRET not in ran.out + ran.err, where
        assert self.slowest < MAX_SECONDS, where
        assert (peak_memory() or 0) - self.before < MAX_BYTES, where
        self.codes[ran.code] = self.codes.get(ran.code, 0) + 1

    def check(self) -> None:
        """Check that both outcomes are frequent; otherwise the mutations do not reach the code under test."""
        grown = ((peak_memory() or 0) - self.before) / 1e6
        print(f"{self.codes} at most {self.slowest:.2f} s; memory grew by {grown:.0f} MB")
        total = sum(self.codes.values())
        assert 0.02 * total < self.codes.get(0, 0) < 0.9 * total


@pytest.fixture
def here(workspace: Path, psptool: Psptool) -> Psptool:
    """A folder with a dataset, splits, runs, a prediction and a table."""
    shutil.copytree(workspace, ".", dirs_exist_ok=True)
    psptool("evaluate", RUN)
    psptool("predict", "all_sqe", "--model", RUN, "--out", "p.json")
    psptool("table", RUN, "--format", "json", "--out", "t.json")
    Path("secret").write_text(SECRET * 1000)
    return psptool


# --- the structure of the HDF5 file


def other_values(file: Any, rng: random.Random) -> None:
    array = file[rng.choice([name for name in ARRAYS if name != "clips/name"])]
    place = tuple(rng.randrange(size) for size in array.shape)
    if array.dtype.kind == "f":
        array[place] = rng.choice((np.nan, np.inf, 0, -1, 1e30, 1e-30))
    else:
        array[place] = rng.choice([n for n in NUMBERS if array.dtype != np.uint8 or 0 <= n < 256]) % 2**63


def raw_bytes(file: Any, rng: random.Random) -> None:
    """Bytes that are invalid for the type, such as 7 for a boolean."""
    array = file[rng.choice(list(ROW_ARRAYS))]
    _, chunk = array.id.read_direct_chunk((0,) * array.ndim)
    found = bytearray(chunk)
    found[rng.randrange(len(found))] = rng.randrange(256)
    array.id.write_direct_chunk((0,) * array.ndim, bytes(found))


def other_lengths(file: Any, rng: random.Random) -> None:
    names = ARRAYS if rng.random() < 0.3 else rng.sample(ARRAYS, rng.randrange(1, 4))
    names = list(ROW_ARRAYS) if rng.random() < 0.2 else names
    size = rng.choice((0, 1, 7, 10**6, 10**12, 2**40, 2**62))
    for name in names:
        file[name].resize(size, axis=0)


def wrapping_sizes(file: Any, rng: random.Random) -> None:
    place = rng.randrange(len(file["clips/frames"]))
    file["clips/frames"][place] = rng.choice(NUMBERS)
    file["clips/persons"][place] = rng.choice(NUMBERS)
    if rng.random() < 0.5:
        sizes = file["clips/frames"][:] * file["clips/persons"][:]
        file["clips/first_row"][:] = np.cumsum(sizes) - sizes


def another_dataset(file: Any, rng: random.Random) -> None:
    name = rng.choice(ARRAYS)
    old = file[name][:]
    del file[name]
    dtype, shape = (
        rng.choice((old.dtype, *TYPES)),
        rng.choice((old.shape, (), (0,), (3, 0), (2, 2, 2), old.shape[:1])),
    )
    options: dict[str, Any] = {}
    if shape and 0 not in shape and rng.random() < 0.8:
        options["chunks"] = tuple(rng.choice((1, size)) for size in shape)
        for key, choices in (
            ("compression", (None, "gzip", "lzf")), ("shuffle", (False, True)), ("fletcher32", (False, True)),
        ):  # fmt: skip
            options[key] = rng.choice(choices)
    try:
        made = file.create_dataset(name, shape, dtype, **options)
        if made.dtype == old.dtype and made.shape == old.shape and rng.random() < 0.8:
            made[...] = old
    except (TypeError, ValueError, OSError):
        file.create_group(name) if name not in file else None


def stored_elsewhere(file: Any, rng: random.Random) -> None:
    name = rng.choice([name for name in ARRAYS if name != "clips/name"])
    shape, dtype = file[name].shape, file[name].dtype
    other = Path(file.filename).with_name("other.h5")
    shutil.copy(file.filename, other)
    del file[name]
    if rng.random() < 0.5:
        file.create_dataset(
            name, shape, dtype, external=[(str(Path("secret").resolve()), 0, h5py.h5f.UNLIMITED)]
        )
    else:
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(str(other), name, shape)
        file.create_virtual_dataset(name, layout)


def another_link(file: Any, rng: random.Random) -> None:
    name = rng.choice((*ARRAYS, "clips"))
    del file[name]
    target = rng.choice((*ARRAYS, "clips", "/", "nowhere"))
    kind = rng.randrange(3)
    if kind == 0:
        file[name] = h5py.SoftLink(target if target.startswith("/") else f"/{target}")
    elif kind == 1:
        file[name] = h5py.ExternalLink(
            rng.choice(("other.h5", "secret", "/dev/zero", "x" * 500)), f"/{target}"
        )
    elif target in file:
        file[name] = file[target]


def another_object(file: Any, rng: random.Random) -> None:
    name = rng.choice((*ARRAYS, "clips", "more", "clips/more", "\x1b[2J", "clips/" + "x" * 300))
    if name in file:
        del file[name]
    what = rng.randrange(4)
    if what == 0:
        file.create_group(name)
    elif what == 1:
        file[name] = np.dtype("<i8")
    elif what == 2:
        file[name] = h5py.Empty("<f4")


def other_names(file: Any, rng: random.Random) -> None:
    names = file["clips/name"]
    names[rng.randrange(len(names))] = rng.choice(
        (
            b"",
            b"../../x",
            b"\xff\xfe",
            b"a" * 10**6,
            "\x1b[2J",
            "a01_s01_e00_v01",
            "a01_s01_e00_v99",
            "\n",
            "数据",
        )
    )


def another_manifest(file: Any, rng: random.Random) -> None:
    text = file.attrs["manifest"]
    what = rng.randrange(6)
    if what == 0:
        del file.attrs["manifest"]
    elif what == 1:
        set_manifest(file, rng.choice((3, [text, text], np.bytes_(text), h5py.Empty("S1"), [], b"\xff" * 9)))
    elif what == 2:
        set_manifest(file, text + " " * 2**21)
    elif what == 3:
        file.attrs["more"] = text
    else:
        set_manifest(file, mutated_json(json.loads(text), rng).replace("\x00", ""))


HDF5_MUTATIONS: list[Callable[[Any, random.Random], None]] = [
    other_values, raw_bytes, other_lengths, wrapping_sizes, another_dataset, stored_elsewhere, another_link,
    another_object, other_names, another_manifest, another_manifest,
]  # fmt: skip
DATASET_COMMANDS = (
    "inspect data/ucla.h5",
    "inspect data/ucla.h5 --json",
    "validate data/ucla.h5",
    "split --ratio 0.5 --data data/ucla.h5 --out s.json",
    "view data/ucla.h5 --out v.html",
    "export-data --data data/ucla.h5 --format pyskl --out x.pkl --force",
    "export-data --data data/ucla.h5 --format stgcn --out x --force",
    f"train --data data/ucla.h5 --split {SPLIT} --dry-run",
    f"evaluate {RUN}",
    f"embed {RUN} --neighbours 1 --out f.npz",
)
WEIGHTS = (6, 2, 6, 3, 3, 3, 1, 1, 1, 1)


def test_a_mutated_dataset_is_read_or_refused(here):
    watch, path = Watch(here), Path("data/ucla.h5")
    good = path.read_bytes()
    for seed in range(FIRST, FIRST + COUNT):
        rng = random.Random(seed)
        path.write_bytes(good)
        try:
            with h5py.File(path, "a") as file:
                for _ in range(rng.choice((1, 1, 1, 2, 3))):
                    rng.choice(HDF5_MUTATIONS)(file, rng)
        except (
            KeyError,
            ValueError,
            TypeError,
            OSError,
            RuntimeError,
            AttributeError,
            OverflowError,
            MemoryError,
            IndexError,
        ):
            pass  # A later mutation did not fit an earlier one; the file is tested as it is.
        for line in rng.choices(DATASET_COMMANDS, WEIGHTS, k=2):
            Path("v.html").unlink(missing_ok=True)
            watch(seed, line)
            if Path("v.html").exists():
                assert SECRET not in Path("v.html").read_text(), seed
    watch.check()


# --- JSON files


def places(values: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a tree."""
    found = [here] if here else []
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in items:
        found += places(value, (*here, key))
    return found


def mutated_json(values: Any, rng: random.Random) -> str:
    """JSON text of ``values`` with one to three changes to the values, keys or text."""
    values = copy.deepcopy(values)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value_paths = places(values)
        if not value_paths:
            break
        # The depth is chosen first, so that short paths are as likely as long ones, which are more frequent.
        depth = rng.choice(sorted({len(place) for place in value_paths}))
        *path, last = rng.choice([place for place in value_paths if len(place) == depth])
        parent = values
        for key in path:
            parent = parent[key]
        what = rng.random()
        if what < 0.7:
            parent[last] = copy.deepcopy(rng.choice(VALUES))
        elif what < 0.8:
            del parent[last]
        elif isinstance(parent, dict):
            parent[rng.choice(("more", "", "\x1b[2J", last))] = copy.deepcopy(rng.choice(VALUES))
        else:
            parent.insert(last, copy.deepcopy(rng.choice((*VALUES, parent[last]))))
    text = json.dumps(values)
    if rng.random() < 0.15:
        place = rng.randrange(len(text))
        new = rng.choice(
            ("", "[" * 50_000, "9" * 5000, "1e999", '"', "}", ",", "\\ud800", "NaN", "-", "{" * 300, "\x00")
        )
        text = text[:place] + new + text[place + rng.choice((0, 1, 30)) :]
    return text


JSON_FILES = {
    SPLIT: (f"inspect {SPLIT}", f"validate {SPLIT}", f"split --check {SPLIT}", f"train --split {SPLIT} --dry-run"),
    "data/ucla.report.json": (
        "inspect data/ucla.report.json", "validate data/ucla.report.json",
        "prepare ucla --raw all_sqe --jobs 1 --dry-run",
    ),
    f"{RUN}/config.json": (
        f"inspect {RUN}", f"inspect {RUN} --json", f"validate {RUN}", "runs", "runs --json",
        f"train --like {RUN} --dry-run", f"evaluate {RUN}",
    ),
    f"{RUN}/scores.json": (f"inspect {RUN}/scores.json", f"validate {RUN}", f"table {RUN}", "runs"),
    f"{RUN}/log.jsonl": ("runs", f"validate {RUN}", f"evaluate {RUN}", f"train --out {RUN}"),
    "p.json": ("inspect p.json", "validate p.json", "view p.json --out v.html"),
    "t.json": ("inspect t.json", "validate t.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_FILES, ids=[Path(name).name for name in JSON_FILES])
def test_a_mutated_json_file_is_read_or_refused(here, name):
    watch, path = Watch(here), Path(name)
    good = path.read_text()
    for seed in range(FIRST, FIRST + max(1, COUNT // len(JSON_FILES))):
        rng = random.Random(seed)
        if path.suffix == ".jsonl":
            lines = good.splitlines()
            place = rng.randrange(len(lines))
            lines[place] = mutated_json(json.loads(lines[place]), rng)
            text = "\n".join(lines) + "\n"
        else:
            text = mutated_json(json.loads(good), rng)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        watch(seed, rng.choice(JSON_FILES[name]))
    if COUNT >= 200:
        watch.check()


# --- checkpoints and weights


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to three changed, removed or repeated ranges of bytes, or a truncated file."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        place, length = rng.randrange(len(found) + 1), rng.choice((1, 1, 4, 100))
        what = rng.randrange(4)
        if what == 0:
            found[place : place + length] = rng.randbytes(length)
        elif what == 1:
            del found[place : place + length]
        elif what == 2:
            found[place:place] = found[place : place + length]
        else:
            del found[place:]
    return bytes(found)


def tensor_like(x: torch.Tensor, rng: random.Random) -> Any:
    """Another tensor or value in place of ``x``."""
    return rng.choice(
        (
            lambda: x.double(),
            lambda: x.reshape(-1)[:1],
            lambda: x[None],
            lambda: x.new_zeros(0),
            lambda: x.reshape(-1)[:1].expand(10**12),
            lambda: x.to(torch.complex64),
            lambda: torch.full_like(x, rng.choice((0, 1, 255))),
            lambda: torch.sparse_coo_tensor(size=tuple(x.shape)),
            lambda: rng.choice(VALUES),
        )
    )()


def mutate_tree(values: Any, rng: random.Random) -> None:
    """Change one value, key or tensor somewhere in nested dicts and lists."""
    parent = values
    while True:
        keys: list[Any] = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(parent[key], (dict, list)) and len(parent[key]) and rng.random() < 0.8:
            parent = parent[key]
            continue
        break
    old, what = parent[key], rng.random()
    if what < 0.7:
        parent[key] = tensor_like(old, rng) if isinstance(old, torch.Tensor) else rng.choice(VALUES)
    elif what < 0.85:
        del parent[key]
    elif isinstance(parent, dict):
        parent[rng.choice(("more", "", 7, key))] = rng.choice(VALUES)
    else:
        parent.append(rng.choice(VALUES))


def mutated_checkpoint(data: bytes, rng: random.Random) -> bytes:
    """A checkpoint with mutated fields and a correct digest, or with mutated bytes."""
    if rng.random() < 0.4:
        return mutated_bytes(data, rng)
    state = torch.load(io.BytesIO(data[len(MAGIC) + 32 :]), weights_only=True)
    state = {key: dict(value) if isinstance(value, dict) else value for key, value in state.items()}
    for _ in range(rng.choice((0, 1, 1, 2))):
        mutate_tree(state, rng)
    file = io.BytesIO()
    torch.save(state, file)
    return seal(file.getvalue())


def mutated_weights(data: bytes, rng: random.Random) -> bytes:
    """Weights with a mutated header, with mutated tensors and a correct digest, or with mutated bytes."""
    what = rng.random()
    if what < 0.4:
        return mutated_bytes(data, rng)
    if what < 0.7:
        size = int.from_bytes(data[:8], "little")
        header = mutated_json(json.loads(data[8 : 8 + size]), rng).encode("utf-8", "surrogatepass")
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    tensors = load(data)
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choice(sorted(tensors))
        other = tensor_like(tensors[name], rng)
        if isinstance(other, torch.Tensor) and other.layout == torch.strided and other.numel() < 10**6:
            tensors[name] = other.contiguous()
        else:
            del tensors[name]
    return weights_bytes(tensors)


STOPPED = "runs/stopped"
BINARY_FILES = {
    f"{STOPPED}/resume.pt": (
        mutated_checkpoint,
        (f"train --out {STOPPED}", f"train --out {STOPPED} --resume required", "runs", f"evaluate {STOPPED}"),
    ),
    f"{RUN}/last.safetensors": (
        mutated_weights,
        (f"evaluate {RUN}", f"validate {RUN}", f"embed {RUN} --neighbours 1 --out f.npz", "runs"),
    ),
}


@pytest.mark.parametrize("name", BINARY_FILES, ids=[Path(name).name for name in BINARY_FILES])
def test_a_mutated_checkpoint_is_read_or_refused(here, monkeypatch, name):
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_should_stop", lambda *_: True)
        here("train", "--split", SPLIT, "--preset", "fast", "--out", STOPPED, code=130)
    mutate, commands = BINARY_FILES[name]
    watch, path = Watch(here), Path(name)
    good = path.read_bytes()
    shutil.copytree(path.parent, "good")
    for seed in range(FIRST, FIRST + COUNT):
        rng = random.Random(seed)
        shutil.rmtree(path.parent)
        shutil.copytree("good", path.parent)
        path.write_bytes(mutate(good, rng))
        watch(seed, rng.choice(commands))
    watch.check()
