"""A training that kills itself without warning, asks itself to stop, or fails, in the middle of a step.

Usage: ``dying.py SIGNAL STEP train ARGUMENTS…``; SIGNAL may be ERROR; STEP counts this process's own steps, 0 lets it
live. Of several ranks, it is the second one's fate.
"""

from __future__ import annotations

import os
import signal
import sys

from psptool.cli.main import app
from psptool.common.errors import PspError
from psptool.training import step

name, at = sys.argv[1], int(sys.argv[2])
plain, taken = step.total_loss, iter(range(1, 10**6))


def total_loss(*arguments: object) -> object:
    if next(taken) == at and os.environ.get("RANK", "1") == "1":
        if name == "ERROR":
            raise PspError("this rank has had enough")
        os.kill(os.getpid(), getattr(signal, name))
    return plain(*arguments)  # type: ignore[arg-type]


step.total_loss = total_loss  # type: ignore[assignment]
app(sys.argv[3:], prog_name="psptool")
