"""Checks and measures psptool on a GPU, in under 4 minutes.

    python workflows/benchmarks/gpu.py [--json OUT]

It runs from a copy of the repository, without installation. With ``--device cpu``, it runs what needs no GPU, with
tiny networks and a stand-in for capturing. See `gpu_checks` for the parts.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {  # by the name of the import
    "torch": "torch", "numpy": "numpy", "h5py": "h5py", "typer": "typer", "rich": "rich", "pydantic": "pydantic",
    "joblib": "joblib", "scipy": "scipy", "numba": "numba", "llvmlite": "llvmlite", "safetensors": "safetensors",
    "matplotlib": "matplotlib", "PIL": "pillow", "jinja2": "jinja2", "markupsafe": "markupsafe", "yaml": "pyyaml",
    "packaging": "packaging", "regex": "regex", "typing_extensions": "typing_extensions",
}  # fmt: skip
"""The packages that psptool needs."""


def main() -> int:
    """Run the checks; the exit code is 1 if one has failed, 2 if packages are missing."""
    missing = [package for name, package in PACKAGES.items() if find_spec(name) is None]
    if missing:
        print(f"missing packages: {' '.join(missing)}", file=sys.stderr)
        print(
            "workflows/benchmarks/README.md describes how to install them without a network.", file=sys.stderr
        )
        return 2
    sys.path.insert(0, str(ROOT))
    from gpu_checks import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
