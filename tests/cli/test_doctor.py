"""``psptool doctor``: its output, and exit code 1 if something required is broken."""

import importlib.metadata
import json

import pytest

from psptool.cli import doctor


def test_versions_device_and_free_space_are_reported(psptool):
    found = json.loads(psptool("doctor", "--json").out)
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    assert {"python", "psptool", "numpy", "h5py", "numba"} <= found["versions"].keys()
    assert found["cores"] >= 1
    assert found["disk_free_gib"] > 0
    assert isinstance(found["cuda"], list)
    out = psptool("doctor").out
    assert "processor" in out
    assert "Next: psptool demo" in out


def test_a_missing_required_package_is_exit_code_1_with_the_command_that_fixes_it(psptool, monkeypatch):
    extras = ['no-such-extra>=2; extra == "cluster"', 'h5py>=99; extra == "cluster"']
    wanted = ["numpy>=1.26", "no-such-package>=3", "h5py>=99", *extras]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    out = psptool("doctor", code=1).out
    assert "broken: no-such-package is missing, needed: >=3. pip install 'no-such-package>=3'" in out
    assert "pip install 'h5py>=99'" in out
    assert "missing: extra cluster (no-such-extra, h5py). pip install 'no-such-extra>=2' 'h5py>=99'" in out
    assert "Next:" not in out


def test_only_a_missing_extra_is_exit_code_0(psptool, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ['no-such-extra; extra == "cluster"'])
    (finding,) = json.loads(psptool("doctor", "--json").out)["findings"]
    assert finding["needed"] is False


def test_torch_that_does_not_import_is_exit_code_1(psptool, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psptool.device", None)
    assert "torch does not work" in psptool("doctor", code=1).out


def test_numba_cache_that_cannot_be_written_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert doctor._numba_cache() == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    (finding,) = doctor._numba_cache()
    assert finding.fix.startswith("export NUMBA_CACHE_DIR=")


@pytest.mark.parametrize(
    ("text", "extra"), [("numpy>=1", None), ('x>=1; extra == "test"', "test"), ("x; extra == 'a-b'", "a-b")]
)
def test_extra_of_a_requirement(text, extra):
    assert doctor._extra(text) == extra
