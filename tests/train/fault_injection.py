"""Run ``psptool`` with a fault in the middle of a training step: a signal to itself or an error.

Usage: ``fault_injection.py SIGNAL STEP train ARGUMENTS…``

SIGNAL is the name of a signal, or ERROR. STEP is the 1-based number of the step in this process; 0 injects no fault.
In a distributed training, the fault is injected into rank 1 only.
"""

from __future__ import annotations

import os
import signal
import sys

from psptool.cli.main import app
from psptool.common.errors import PspError
from psptool.training import step

name, fault_step = sys.argv[1], int(sys.argv[2])
original, steps = step.total_loss, iter(range(1, 10**6))


def total_loss(*arguments: object) -> object:
    if next(steps) == fault_step and os.environ.get("RANK", "1") == "1":
        if name == "ERROR":
            raise PspError("injected error")
        os.kill(os.getpid(), getattr(signal, name))
    return original(*arguments)  # type: ignore[arg-type]


step.total_loss = total_loss  # type: ignore[assignment]
app(sys.argv[3:], prog_name="psptool")
