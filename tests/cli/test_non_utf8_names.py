"""Files and folders whose names are not UTF-8; every command is run on them and from such a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from psptool.formats.synthesis.writing import write_ucla
from psptool.schemas.prediction import Prediction
from psptool.schemas.report import PreparationReport
from tests.cli.conftest import UCLA_NAMES

GBK, LATIN = os.fsdecode("数据".encode("gbk")), os.fsdecode("café".encode("latin-1"))
RUN = "runs/ucla-xview-0.05-s0-psp-fast"

pytestmark = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="these file systems allow only Unicode names"
)


@pytest.fixture
def here(workspace, psptool, tmp_path, monkeypatch):
    """A copy of `workspace` in a folder whose name is not UTF-8."""
    folder = tmp_path / GBK / LATIN
    shutil.copytree(workspace, folder)
    monkeypatch.chdir(folder)
    return psptool


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "prepare ucla --raw all_sqe --jobs 1 --force",
        "prepare ucla --raw all_sqe --dry-run",
        "split --ratio 0.5",
        pytest.param("train --preset fast", marks=pytest.mark.slow),
        f"evaluate {RUN}",
        f"evaluate {RUN} --json",
        f"table {RUN}",
        f"predict all_sqe --model {RUN} --out p.json",
        f"export {RUN} --safetensors",
        f"embed {RUN} --neighbours 1 --out f.npz",
        "inspect data/ucla.h5",
        "inspect data/ucla.h5 --json",
        "validate data/ucla.h5",
        "view all_sqe",
        pytest.param("view data/ucla.h5 --gif --png", marks=pytest.mark.slow),
        "export-data --format pyskl --out x.pkl",
        "import exchange/ucla.pkl --out i.h5",
        pytest.param("demo", marks=pytest.mark.slow),
        "doctor",
        "schemas",
    ],
)
def test_every_command_runs_from_a_folder_with_a_non_utf8_name(here, line):
    here(*line.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "prepare ucla --raw FOLDER/all_sqe --jobs 1 --out FOLDER/u.h5",
        "prepare ucla --raw FOLDER/all_sqe --jobs 1 --out FOLDER/u.h5 --json",
        "prepare ucla --raw FOLDER/all_sqe --out FOLDER/u.h5 --dry-run",
        "split --ratio 0.5 --data FOLDER/data/ucla.h5 --out FOLDER/s.json",
        "train --preset fast --data FOLDER/data/ucla.h5 --out FOLDER/run",
        f"evaluate FOLDER/{RUN}",
        f"table FOLDER/{RUN}",
        f"predict FOLDER/all_sqe --model FOLDER/{RUN} --out FOLDER/p.json",
        f"predict FOLDER/all_sqe --model FOLDER/{RUN} --json",
        f"export FOLDER/{RUN} --safetensors --out FOLDER/out --json",
        f"embed FOLDER/{RUN} --neighbours 1 --out FOLDER/f.npz",
        "inspect FOLDER/data/ucla.h5 --json",
        "validate FOLDER/data/ucla.h5",
        "view FOLDER/all_sqe --out FOLDER/v.html",
        f"view FOLDER/data/ucla.h5 --model FOLDER/{RUN}",
        "export-data --data FOLDER/data/ucla.h5 --format pyskl --out FOLDER/x.pkl",
        "import FOLDER/exchange/ucla.pkl --out FOLDER/i.h5",
        "demo --out FOLDER/demo",
        "schemas --out FOLDER/schemas",
    ],
)
def test_every_command_accepts_non_utf8_paths(here, line):
    shutil.copytree(".", f"../{GBK}")
    here(*line.replace("FOLDER", f"../{GBK}").split())


def test_the_report_names_a_non_utf8_source_and_the_dataset_is_current_the_next_time(psptool, tmp_path):
    folder = tmp_path / LATIN
    write_ucla(folder, UCLA_NAMES[:2])
    (folder / f"{GBK}.json").write_text("{}")
    psptool("prepare", "ucla", "--raw", folder, "--jobs", "1")
    report = PreparationReport.load(Path("data/ucla.report.json"))
    assert report.sources == (f"{tmp_path}/caf\\udce9",)
    assert [one.name for one in report.skipped] == ["\\udcca\\udcfd\\udcbe\\udcdd.json"]
    assert "already current" in psptool("prepare", "ucla", "--raw", folder, "--jobs", "1").err


def test_a_prediction_on_files_with_non_utf8_names_can_be_viewed(here, tmp_path):
    source = sorted(Path("all_sqe").iterdir())[0]
    (tmp_path / LATIN).mkdir()
    shutil.copy(source, tmp_path / LATIN / f"{GBK}.json")
    here("predict", tmp_path / LATIN, "--model", RUN, "--out", "p.json")
    (clip,) = Prediction.load(Path("p.json")).clips
    assert clip.source == f"{tmp_path}/caf\\udce9/{clip.name}.json"
    here("view", "p.json", "--out", "v.html")
    assert clip.name in Path("v.html").read_text()


def test_a_run_finds_its_dataset_with_a_non_utf8_name(here):
    Path("data/ucla.h5").rename(f"data/{LATIN}.h5")
    here("train", "--preset", "fast", "--data", f"data/{LATIN}.h5", "--out", "mine")
    here("evaluate", "mine")


@pytest.mark.slow
def test_non_utf8_names_are_printed_in_a_separate_process(psptool, tmp_path):
    write_ucla(tmp_path / LATIN, UCLA_NAMES[:2])
    command = [
        sys.executable,
        "-m",
        "psptool",
        "prepare",
        "ucla",
        "--raw",
        LATIN,
        "--out",
        f"{GBK}.h5",
        "--json",
    ]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["file"] == f"{GBK}.h5"
    assert os.path.exists(os.fsencode(tmp_path) + b"/" + "数据".encode("gbk") + b".h5")  # noqa: PTH110
