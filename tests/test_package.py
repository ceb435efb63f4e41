"""Packaging: every dependency is declared, and every file is installed."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import psptool

SOURCE = Path(psptool.__file__).parent
PROJECT = SOURCE.parent / "pyproject.toml"
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "triton": "torch"}
"""Distribution names of modules that have another name, or are part of another distribution where they are needed."""


def imported():
    """Top-level modules outside the standard library that the package imports, each with a file that imports it."""
    found = {}
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            for module in modules:
                found.setdefault(module.split(".")[0], file)
    return {name: file for name, file in found.items() if name not in {*sys.stdlib_module_names, "psptool"}}


def declared():
    """Distributions that pyproject.toml declares, except those of the ``test`` extra."""
    text = PROJECT.read_text(encoding="utf-8")
    tables = [re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)[1]]
    extras = re.search(r"^\[project\.optional-dependencies\]\n(.*?)\n\n", text, re.S | re.M)[1]
    tables += [line for line in extras.splitlines() if not line.startswith("test ")]
    found = [Requirement(item).name for table in tables for item in re.findall(r'"([^"]+)"', table)]
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


@pytest.mark.skipif(not PROJECT.exists(), reason="needs a source checkout")
def test_every_module_that_is_imported_is_declared():
    names = {name: DISTRIBUTIONS.get(name, name).replace("_", "-").lower() for name in imported()}
    assert {"torch", "numpy", "llvmlite"} <= names.keys()
    assert {name for name, distribution in names.items() if distribution not in declared()} == set()


def test_the_package_is_marked_as_typed():
    assert (SOURCE / "py.typed").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not PROJECT.exists(), reason="needs a source checkout")
def test_a_wheel_contains_every_file_of_the_package(tmp_path):
    pytest.importorskip("hatchling")
    build = "from hatchling.build import build_wheel; import sys; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=PROJECT.parent, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    contained = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(file.relative_to(SOURCE.parent))
        for file in SOURCE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert "psptool/py.typed" in expected
    assert expected <= contained


@pytest.mark.skipif(not PROJECT.exists(), reason="needs a source checkout")
def test_every_package_is_in_a_layer_that_ci_checks():
    text = PROJECT.read_text(encoding="utf-8")
    layers = re.search(r"^\[\[tool\.importlinter\.contracts\]\].*?^\]", text, re.S | re.M)[0]
    checked = set(re.findall(r"psptool(?:\.\w+)+", layers))
    modules = {
        ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in SOURCE.rglob("*.py")
    }
    missing = {name for name in modules if not any(f"{name}.".startswith(f"{layer}.") for layer in checked)}
    assert missing == {"psptool", "psptool.data", "psptool.formats"}
