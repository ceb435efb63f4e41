"""Malicious files on the command line: a clear error or an excluded clip, and no side effect."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from psptool.common import paths
from psptool.formats.synthesis.recording import record
from psptool.formats.synthesis.writing import skeleton_text
from psptool.training.runs.state import seal
from tests.cli.conftest import files

GOOD, EVIL = "S001C001P001R001A007", "S001C001P002R001A007"
TEN_GB = 10 * 10**9
RUN = Path("runs/ucla-xview-0.05-s0-psp-fast")
SPLIT = "splits/ucla-xview-0.05-s0.json"


class Harm:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("owned"),)


@cache
def zeros_deflated(size: int) -> bytes:
    """A deflate stream of zero bytes, built by repeating one compressed block, which takes little time."""
    block = 2**26
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    return once * (size // block + 1) + packer.flush()


def bomb(path: Path, stated: int, evil: str = f"{EVIL}.skeleton") -> None:
    """A zip archive with a good clip and one that unpacks to 10 GB, although its headers state another size."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{GOOD}.skeleton", skeleton_text(record(GOOD)))
        archive.writestr(evil, zeros_deflated(TEN_GB))
    packed = zipfile.ZipFile(path).getinfo(evil)
    blob = bytearray(path.read_bytes())
    listed = blob.rindex(b"PK\x01\x02", 0, blob.rindex(evil.encode()))
    # Change both headers of the stored member: the method to deflate, and the uncompressed size to `stated`.
    for method, size in ((packed.header_offset + 8, packed.header_offset + 22), (listed + 10, listed + 24)):
        assert struct.unpack_from("<L", blob, size)[0] == packed.file_size
        struct.pack_into("<H", blob, method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<L", blob, size, stated)
    path.write_bytes(blob)


def test_a_zip_member_with_a_path_outside_of_the_archive_is_skipped_and_not_written(psptool, tmp_path):
    with zipfile.ZipFile("raw.zip", "w") as archive:
        archive.writestr(f"{GOOD}.skeleton", skeleton_text(record(GOOD)))
        archive.writestr(f"../../{EVIL}.skeleton", skeleton_text(record(EVIL)))
    ran = psptool("prepare", "ntu", "--raw", "raw.zip", "--jobs", "1")
    assert re.search(r"member name with a path outside of the archive +1\b", ran.out)
    report = json.loads(Path("data/ntu60.report.json").read_text())
    assert EVIL in report["skipped"][0]["name"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    assert files() == ["data/ntu60.h5", "data/ntu60.report.json", "raw.zip"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stated", "reason"),
    # A member with a small stated size is unpacked up to that size; then its checksum is wrong.
    [(2**32 - 2, "too large"), (1000, "damaged in the archive")],
    ids=["huge stated size", "small stated size"],
)
def test_a_zip_bomb_of_10_gb_is_excluded_within_little_memory(tmp_path, stated, reason):
    bomb(tmp_path / "raw.zip", stated)
    # In a separate process, to measure its peak memory.
    code = (
        "import sys\nfrom psptool.cli.main import main\nfrom psptool.common.machine import peak_memory\n"
        "try: main()\n"
        "finally: print('peak', peak_memory() // 2**20, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "prepare", "ntu", "--raw", "raw.zip", "--jobs", "1"],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "1 clip excluded (malformed)" in ran.stderr
    (clip,) = json.loads((tmp_path / "data" / "ntu60.report.json").read_text())["quarantined"]
    assert (clip["name"], clip["reason"]) == (EVIL, reason)
    assert "raw.zip" in clip["detail"]
    assert int(ran.stderr.split("peak")[1]) < 1500  # MiB; PyTorch and numba alone take a few hundred


@pytest.mark.parametrize(
    "text",
    [
        "optim: !!python/object/apply:pathlib.Path.touch [owned]",
        "optim: !!python/object/new:os.system ['touch owned']",
        "!!python/module:os",
    ],
)
def test_yaml_with_python_tags_is_refused(psptool, text):
    Path("evil.yaml").write_text(text)
    ran = psptool("train", "--config", "evil.yaml", code=2)
    assert "evil.yaml: not plain YAML" in ran.err
    assert "Write key: value lines only." in ran.err
    assert files() == ["evil.yaml"]


@pytest.mark.parametrize("text", ["[" * 3_000, "{a: " * 3_000], ids=["lists", "mappings"])
def test_yaml_nested_deeper_than_the_stack_is_refused(psptool, text):
    Path("deep.yaml").write_text(text)
    assert "deep.yaml" in psptool("train", "--config", "deep.yaml", code=2).err


HARMFUL = {
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Harm())),
    "a PyTorch file": lambda path: torch.save(Harm(), path),
}


@pytest.mark.parametrize("write", HARMFUL.values(), ids=HARMFUL)
@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", RUN),
        ("predict", "all_sqe", "--model", RUN),
        ("predict", "all_sqe", "--model", RUN / "last.safetensors"),
        ("export", RUN, "--safetensors"),
        ("embed", RUN),
        ("view", "data/ucla.h5", "--model", RUN),
    ],
    ids=lambda command: command[0],
)
def test_weights_that_contain_code_are_refused_without_unpickling(here, command, write):
    write(RUN / "last.safetensors")
    before = files()
    ran = here(*command, code=2)
    assert f"{RUN}/last.safetensors: cannot be read as safetensors" in ran.err
    assert files() == before


def test_a_checkpoint_that_contains_code_is_refused_without_unpickling(here):
    (RUN / "last.safetensors").unlink()
    harm = io.BytesIO()
    torch.save({"model": Harm()}, harm)
    (RUN / "resume.pt").write_bytes(seal(harm.getvalue()))
    before = files()
    ran = here("train", "--out", RUN, "--resume", "required", code=2)
    assert (
        "resume.pt: damaged, or of another training (contains other objects than tensors and numbers)"
        in ran.err
    )
    assert files() == before


def hostile_exchange(kind):
    """Write files of an exchange format that contain code; return the path to import and the expected message."""
    array = np.ones((1, 3, 4, 20, 2), np.float32)
    unpickled = f"{Path.__module__}.Path"  # Of pathlib._local in Python 3.13.
    if kind == "pyskl":
        Path("x.pkl").write_bytes(pickle.dumps({"annotations": [{"frame_dir": "a", "keypoint": Harm()}]}))
        return "x.pkl", f"refused: found a pickle with {unpickled}"
    if kind == "stgcn":
        Path("x").mkdir()
        np.save("x/train_data.npy", array)
        Path("x/train_label.pkl").write_bytes(pickle.dumps((["a01_s01_e00_v01"], [Harm()])))
        return "x", f"x/train_label.pkl: refused: found a pickle with {unpickled}"
    if kind == "stgcn's array":
        Path("x").mkdir()
        np.save("x/train_data.npy", np.array([Harm()], dtype=object), allow_pickle=True)
        return "x", "x/train_data.npy: refused: found an array of object"
    np.savez("x.npz", x_train=np.array([Harm()], dtype=object), y_train=np.eye(2))
    return "x.npz", "x.npz:x_train.npy: refused: found an array of object"


@pytest.mark.parametrize("kind", ["pyskl", "ctrgcn", "stgcn", "stgcn's array"])
def test_an_exchange_file_that_contains_code_is_refused(psptool, kind):
    path, expected = hostile_exchange(kind)
    before = files()
    assert expected in psptool("import", path, code=2).err
    assert files() == before


@pytest.mark.parametrize(
    "command", [("prepare", "ucla", "--raw"), ("predict",), ("view",)], ids=lambda command: command[0]
)
def test_an_archive_whose_only_member_has_a_path_outside_of_it_is_an_error(here, command):
    with zipfile.ZipFile("raw.zip", "w") as archive:
        archive.write("all_sqe/a01_s01_e00_v01.json", "../../a01_s01_e09_v01.json")
    before = files()
    ran = here(*command, "raw.zip", code=2)
    assert "a path outside of the archive" in ran.err
    assert files() == before


@pytest.mark.parametrize(
    ("command", "evil"),
    # predict uses the format of its model, NW-UCLA; view uses the format of the good clip.
    [(("predict", "raw.zip"), "a01_s01_e09_v01.json"), (("view", "raw.zip", EVIL), f"{EVIL}.skeleton")],
    ids=["predict", "view"],
)
@pytest.mark.parametrize("stated", [2**32 - 2, 1000], ids=["huge stated size", "small stated size"])
def test_a_zip_bomb_is_an_error_in_commands_that_read_single_clips(here, command, evil, stated):
    bomb(Path("raw.zip"), stated, evil)
    before = files()
    assert re.search("too large|damaged in the archive", here(*command, code=2).err)
    assert files() == before


@pytest.mark.parametrize("name", ["scores.json", "x.json"])
def test_json_nested_deeper_than_the_stack_is_refused(psptool, name):
    Path(name).write_text("[" * 100_000)
    assert f"{name}: not a valid Scores file" in psptool("table", name, code=2).err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(), MemoryError("Unable to allocate 20.0 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"),
    ],
    ids=["Python", "NumPy", "PyTorch", "CUDA"],
)  # fmt: skip
def test_running_out_of_memory_is_an_error_without_a_traceback(here, monkeypatch, error):
    from psptool.data.store.reading import Store

    def read(*arguments):
        raise error

    monkeypatch.setattr(Store, "positions", read)
    assert "error: out of memory" in here("evaluate", RUN, code=2).err


def test_a_dataset_with_external_storage_is_refused(here):
    secret = b"secret of another file"
    Path("secret").write_bytes(secret * 1000)
    with h5py.File("data/ucla.h5", "a") as file:
        shape = file["state"].shape
        del file["state"]
        file.create_dataset(
            "state", shape, "u1", external=[(str(Path("secret").resolve()), 0, h5py.h5f.UNLIMITED)]
        )
    for command in (
        ("view", "data/ucla.h5", "--out", "v.html"),
        ("export-data", "--data", "data/ucla.h5", "--format", "pyskl", "--out", "x.pkl"),
        ("inspect", "data/ucla.h5"),
    ):
        assert "/state: found external storage" in here(*command, code=2).err
    assert "/state: found external storage" in here("validate", "data/ucla.h5", code=1).out
    assert not Path("v.html").exists()


PIPES = [
    ("c.yaml", ("train", "--split", SPLIT, "--config", "c.yaml", "--dry-run")),
    (SPLIT, ("train", "--split", SPLIT, "--dry-run")),
    (SPLIT, ("split", "--ratio", 0.05, "--out", SPLIT)),
    (RUN / "config.json", ("evaluate", RUN)),
    (RUN / "scores.json", ("table", RUN)),
    (RUN / "resume.pt", ("train", "--out", RUN, "--resume", "required")),
    ("data/ucla.h5", ("inspect", "data/ucla.h5")),
    ("p.json", ("view", "p.json")),
    ("raw.zip", ("view", "raw.zip")),
    ("raw.tar.gz", ("prepare", "ucla", "--raw", "raw.tar.gz")),
    ("x.pkl", ("import", "x.pkl")),
    ("x.npz", ("import", "x.npz")),
    ("exchange/ucla/train_data.npy", ("import", "exchange/ucla")),
]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize(
    ("name", "command"), PIPES, ids=[f"{line[0]} {Path(name).name}" for name, line in PIPES]
)
def test_a_pipe_without_a_writer_is_an_error(here, monkeypatch, name, command):
    monkeypatch.setattr(paths, "PIPE_WAIT", 0.05)
    path = Path(name)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if path.name == "resume.pt":
        (RUN / "last.safetensors").unlink()
    assert re.search("a pipe without data|not a regular file|not a file, folder", here(*command, code=2).err)
    assert path.is_fifo()


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd")
def test_a_configuration_may_be_the_output_of_a_command(here):
    output, end = os.pipe()  # as in --config <(echo 'optim: {lr: 0.07}')
    os.write(end, b"optim: {lr: 0.07}")
    os.close(end)
    ran = here("train", "--split", SPLIT, "--dry-run", "--config", f"/dev/fd/{output}")
    os.close(output)
    assert "lr: 0.07" in ran.out
