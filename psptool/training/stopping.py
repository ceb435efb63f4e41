"""Ctrl-C and SIGTERM during training: finish the step, save a checkpoint, and stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The training was interrupted, and its checkpoint is saved.

    Args:
        folder: The run folder.
        step: Number of completed steps.
        steps: Number of steps of the training.
    """

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        super().__init__(f"Stopped after step {step} of {steps}; saved in {folder}.")
        self.folder, self.step, self.steps = folder, step, steps


@contextmanager
def stop_requests(processes: int = 1) -> Iterator[Callable[[], bool]]:
    """Context that handles SIGINT (Ctrl-C) and SIGTERM; yields a function that returns whether one was received.

    A second Ctrl-C raises `KeyboardInterrupt` immediately. Slurm and torchrun send SIGTERM before they kill a process.
    Outside the main thread, signals are not handled: Python allows signal handlers only there.

    Args:
        processes: Number of training processes. If there are several and this one ends with an error, it ignores
            SIGTERM from then on: torchrun sends SIGTERM as soon as one process has ended, which must not cut off the
            error message of another process.
    """
    requested = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    except Exception:
        if processes > 1:
            previous[signal.SIGTERM] = signal.SIG_IGN
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
