"""Information about the machine and the installation, for the provenance of results; None where unavailable."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from psptool.common.text import counted


def cpu_name() -> str:
    """The processor model, or the architecture if the model is unknown."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Number of CPU cores that this process may use; a scheduler or container may restrict them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> tuple[int, int] | None:
    """Available memory and total memory, in bytes."""
    with suppress(OSError, ValueError, IndexError, KeyError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kilobytes = {key: int(value.split()[0]) for key, value in (line.split(":", 1) for line in lines)}
        return 1024 * kilobytes["MemAvailable"], 1024 * kilobytes["MemTotal"]
    return None


def peak_memory() -> int | None:
    """Peak resident memory of this process, in bytes."""
    try:
        import resource
    except ImportError:  # The resource module does not exist on Windows.
        return None
    # getrusage(2): KiB on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def commit() -> str | None:
    """The git commit of the source tree in use, followed by ``+`` if tracked files were modified.

    None for an installed package (its version identifies it) and without git.
    """
    source = Path(__file__).parents[2]
    if not (source / ".git").exists():
        return None
    try:
        head = _git(source, "rev-parse", "HEAD")
        changed = _git(source, "status", "--porcelain", "--untracked-files=no", "--", "psptool")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def hardware(device: str) -> str:
    """The hardware behind a PyTorch device: the GPU model, or the processor model and the number of threads."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {counted(torch.get_num_threads(), 'thread')}"


def _git(source: Path, *arguments: str) -> str:
    ran = subprocess.run(
        ("git", "-C", str(source), *arguments), capture_output=True, text=True, check=True, timeout=10
    )
    return ran.stdout.strip()
