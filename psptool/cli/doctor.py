"""``psptool doctor``: versions and devices of this installation, what is missing, and the command that fixes it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psptool.cli.console import FOUND, examples, next_step, say, say_json, table

if TYPE_CHECKING:
    from packaging.requirements import Requirement

EXAMPLES = examples("psptool doctor", "psptool doctor --json")
_LEAST_FREE = 2**30


@dataclass(frozen=True)
class Check:
    """A problem of the installation.

    Attributes:
        what: The problem.
        fix: The command or step that fixes it.
        needed: Whether commands fail because of it; False for a missing extra.
    """

    what: str
    fix: str
    needed: bool


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check the installation: versions, devices, disk space."""
    versions, findings = _packages()
    values: dict[str, Any] = {"versions": versions, **_machine()}
    findings += _broken_torch(values) + _space(values) + _numba_cache()
    if as_json:
        say_json({**values, "findings": [asdict(finding) for finding in findings]})
    else:
        table("", [(f"{key} {name}".strip(), value) for key, name, value in _rows(values)])
        for finding in findings:
            say(f"{'broken' if finding.needed else 'missing'}: {finding.what}. {finding.fix}")
    if any(finding.needed for finding in findings):
        raise typer.Exit(FOUND)
    if not as_json:
        next_step("psptool demo")


def _rows(values: dict[str, Any]) -> list[tuple[str, str, object]]:
    rows: list[tuple[str, str, object]] = [
        ("", name, version) for name, version in values["versions"].items()
    ]
    for key, value in values.items():
        if key == "cuda":
            rows += [("GPU", "", gpu) for gpu in value] or [("GPU", "", "none")]
        elif key != "versions":
            rows.append((key.replace("_", " "), "", value))
    return rows


def _packages() -> tuple[dict[str, str], list[Check]]:
    """Installed versions of the required packages; findings for missing packages and extras."""
    from packaging.requirements import Requirement

    versions = {"python": platform.python_version()}
    findings: list[Check] = []
    absent: dict[str, list[Requirement]] = {}
    try:
        versions["psptool"] = importlib.metadata.version("psptool")
        wanted = importlib.metadata.requires("psptool") or []
    except importlib.metadata.PackageNotFoundError:
        return versions, [Check("psptool is not installed as a package", "pip install .", True)]
    for text in wanted:
        requirement = Requirement(text)
        extra = _extra(text)
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found = ""
        fits = bool(found) and requirement.specifier.contains(found, prereleases=True)
        if extra is None:
            versions[requirement.name] = found or "missing"
            if not fits:
                what = f"{requirement.name} {found or 'is missing'}, needed: {requirement.specifier}"
                findings.append(Check(what, _install(requirement), True))
        elif not fits:
            absent.setdefault(extra, []).append(requirement)
    findings += [
        Check(f"extra {extra} ({', '.join(one.name for one in some)})", _install(*some), False)
        for extra, some in absent.items()
    ]
    return versions, findings


def _install(*requirements: Requirement) -> str:
    """The command that installs packages, or upgrades those that are too old."""
    return " ".join(("pip install", *(f"'{one.name}{one.specifier}'" for one in requirements)))


def _extra(requirement: str) -> str | None:
    """The extra that a requirement belongs to; its metadata reads ``name>=1; extra == 'test'``."""
    _, found, rest = requirement.partition("extra ==")
    return rest.strip(" \"')") if found else None


def _machine() -> dict[str, Any]:
    from psptool.common.machine import commit, cpu_name, memory, usable_cores

    sizes = memory()
    return {
        "commit": commit(),
        "processor": cpu_name(),
        "cores": usable_cores(),
        "memory_free_gib": None if sizes is None else _gib(sizes[0]),
        "memory_gib": None if sizes is None else _gib(sizes[1]),
        "disk_free_gib": _gib(shutil.disk_usage(Path.cwd()).free),
    }


def _broken_torch(values: dict[str, Any]) -> list[Check]:
    """Add the devices that PyTorch finds to ``values``. Returns findings if it cannot be imported or finds no GPU."""
    try:
        import torch

        from psptool.device import choose_precision
        from psptool.model import kernels

        cpu = choose_precision("auto", torch.device("cpu"))
        values["bfloat16_on_processor"] = (
            "in hardware" if cpu == "bfloat16" else "emulated, so float32 is used"
        )
        values["cuda"] = [
            f"cuda:{n} {torch.cuda.get_device_name(n)}, {_gib(torch.cuda.get_device_properties(n).total_memory)} GiB"
            for n in range(torch.cuda.device_count())
        ]
        devices = [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
        problems = {found for device in devices if (found := kernels.problem(device)) is not None}
    except (ImportError, OSError, RuntimeError) as error:
        values["cuda"] = []
        return [Check(f"torch does not work: {error}", "pip install --force-reinstall torch", True)]
    if not values["cuda"] and shutil.which("nvidia-smi"):
        what = f"an NVIDIA driver is installed, but torch {torch.__version__} finds no CUDA device"
        return [Check(what, "Install a CUDA build: https://pytorch.org/get-started/locally/", False)]
    return [
        Check(
            f"the GPU kernels ({found}), so steps of large networks are slower",
            "Install Triton and a C compiler.",
            False,
        )
        for found in sorted(problems)
    ]


def _space(values: dict[str, Any]) -> list[Check]:
    findings = []
    if not os.access(Path.cwd(), os.W_OK):
        findings.append(Check("this folder is not writable", "Use another folder.", True))
    if values["disk_free_gib"] * 2**30 < _LEAST_FREE:
        findings.append(
            Check(
                "less than 1 GiB of disk space is free here", "Free disk space, or use another disk.", False
            )
        )
    return findings


def _numba_cache() -> list[Check]:
    """Findings if numba can cache compiled functions neither beside the package nor in the user's cache folder."""
    import psptool

    named = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(named)] if named else [Path(psptool.__file__).parent, Path.home() / ".cache", Path.home()]
    if any(_writable(place) for place in places):
        return []
    places_said = ", ".join(map(str, places))
    fix = f"export NUMBA_CACHE_DIR={Path(tempfile.gettempdir()) / 'numba'}"
    return [Check(f"numba cannot cache compiled code ({places_said})", fix, False)]


def _writable(folder: Path) -> bool:
    if not folder.exists():
        return folder != folder.parent and _writable(folder.parent)
    return folder.is_dir() and os.access(folder, os.W_OK)


def _gib(size: int) -> float:
    return round(size / 2**30, 1)
