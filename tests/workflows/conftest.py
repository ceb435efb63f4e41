"""Import of ``workflows/grid.py``, which is beside the Snakefile and in no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

WORKFLOWS = Path(__file__).parents[2] / "workflows"


@pytest.fixture(scope="session")
def grids() -> ModuleType:
    """The module ``workflows/grid.py``."""
    spec = importlib.util.spec_from_file_location("grid", WORKFLOWS / "grid.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["grid"] = module
    spec.loader.exec_module(module)
    return module
