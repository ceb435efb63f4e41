"""Ctrl-C and SIGTERM while a training runs: it ends its step, saves, and says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A training that was asked to stop and has saved where it stands.

    Args:
        folder: The run's.
        step: Steps done.
        steps: Steps in all.
    """

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        super().__init__(f"Stopped after step {step} of {steps}; saved in {folder}.")
        self.folder, self.step, self.steps = folder, step, steps


@contextmanager
def requests(processes: int = 1) -> Iterator[Callable[[], bool]]:
    """Whether the process was asked to stop, as a function; a second Ctrl-C stops at once.

    SIGTERM is what Slurm and torchrun send before they kill. Outside the main thread, which alone may change what
    signals do, nothing is caught.

    Args:
        processes: The number of training processes. If there are several and this one ends with an error, it ignores
            SIGTERM from then on: torchrun sends it as soon as one process is dead, and it must not cut off the error
            message of another.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    except Exception:
        if processes > 1:
            before[signal.SIGTERM] = signal.SIG_IGN
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
