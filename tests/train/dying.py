"""A training that kills itself without warning, or asks itself to stop, in the middle of a step.

Usage: ``dying.py SIGNAL STEP train ARGUMENTS…``; STEP counts this process's own steps, 0 lets it live.
"""

from __future__ import annotations

import os
import signal
import sys

from psptool.cli.main import app
from psptool.train import loop

number, at = getattr(signal, sys.argv[1]), int(sys.argv[2])
plain, taken = loop.objective, iter(range(1, 10**6))


def objective(*arguments: object) -> object:
    if next(taken) == at:
        os.kill(os.getpid(), number)
    return plain(*arguments)  # type: ignore[arg-type]


loop.objective = objective  # type: ignore[assignment]
app(sys.argv[3:], prog_name="psptool")
