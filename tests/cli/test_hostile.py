"""Files made to do harm, through the command line: a clear error or the quarantine, and nothing done."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from psptool.synthesis.recording import record
from psptool.synthesis.writing import skeleton_text
from tests.cli.conftest import files

GOOD, EVIL = "S001C001P001R001A007", "S001C001P002R001A007"
TEN_GB = 10 * 10**9
RUN = Path("runs/ucla-xview-0.05-s0-psp-small")


class Harm:
    """Unpickling makes a file."""

    def __reduce__(self):
        return Path.touch, (Path("owned"),)


def zeros_deflated(size: int) -> bytes:
    """A deflate stream of zero bytes, put together from one block again and again, so that it takes no time."""
    block = 2**26
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    return once * (size // block + 1) + packer.flush()


def bomb(path: Path, stated: int) -> None:
    """A zip archive with a good clip and one whose file unpacks to 10 GB, whatever size is stated."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{GOOD}.skeleton", skeleton_text(record(GOOD)))
        archive.writestr(f"{EVIL}.skeleton", zeros_deflated(TEN_GB))
    packed = zipfile.ZipFile(path).getinfo(f"{EVIL}.skeleton")
    blob = bytearray(path.read_bytes())
    listed = blob.rindex(b"PK\x01\x02", 0, blob.rindex(EVIL.encode()))
    # Both headers are told that what was stored is deflated: the method, and the size unpacked.
    for method, size in ((packed.header_offset + 8, packed.header_offset + 22), (listed + 10, listed + 24)):
        assert struct.unpack_from("<L", blob, size)[0] == packed.file_size
        struct.pack_into("<H", blob, method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<L", blob, size, stated)
    path.write_bytes(blob)


def test_zip_member_that_climbs_out_is_skipped_and_writes_nothing_outside(psptool, tmp_path):
    with zipfile.ZipFile("raw.zip", "w") as archive:
        archive.writestr(f"{GOOD}.skeleton", skeleton_text(record(GOOD)))
        archive.writestr(f"../../{EVIL}.skeleton", skeleton_text(record(EVIL)))
    ran = psptool("prepare", "ntu", "--raw", "raw.zip", "--jobs", "1")
    assert re.search(r"its name points out of the archive +1\b", ran.out)
    report = json.loads(Path("data/ntu60.report.json").read_text())
    assert EVIL in report["skipped"][0]["name"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    assert files() == ["data/ntu60.h5", "data/ntu60.report.json", "raw.zip"]


@pytest.mark.parametrize(
    ("stated", "reason"),
    # What says it is small is unpacked that far, and then its checksum is wrong.
    [(2**32 - 2, "too large"), (1000, "damaged in the archive")],
    ids=["says it is huge", "says it is small"],
)
def test_zip_bomb_of_10_gb_is_quarantined_in_little_memory(tmp_path, stated, reason):
    bomb(tmp_path / "raw.zip", stated)
    # In a process of its own, whose peak of memory can be told.
    code = (
        "import resource, sys\nfrom psptool.cli.main import main\n"
        "try: main()\n"
        "finally: print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "prepare", "ntu", "--raw", "raw.zip", "--jobs", "1"],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "1 clip was quarantined" in ran.stderr
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


@pytest.mark.parametrize("text", ["[" * 20_000, "{a: " * 20_000], ids=["lists", "mappings"])
def test_yaml_nested_deeper_than_the_stack_is_refused(psptool, text):
    Path("deep.yaml").write_text(text)
    assert "deep.yaml" in psptool("train", "--config", "deep.yaml", code=2).err


def test_weights_with_code_in_them_are_refused_unread(worked_in, psptool):
    shutil.copytree(worked_in, ".", dirs_exist_ok=True)
    for write in (lambda path: path.write_bytes(pickle.dumps(Harm())), lambda path: torch.save(Harm(), path)):
        write(RUN / "last.safetensors")
        ran = psptool("evaluate", RUN, code=2)
        assert f"{RUN}/last.safetensors: cannot be read as safetensors" in ran.err
        assert not Path("owned").exists()


@pytest.mark.parametrize("name", ["scores.json", "x.json"])
def test_json_nested_deeper_than_the_stack_is_refused(psptool, name):
    Path(name).write_text("[" * 100_000)
    assert f"{name}: not a valid Scores file" in psptool("table", name, code=2).err
