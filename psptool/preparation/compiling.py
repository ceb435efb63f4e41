"""Compiling the kernels, once per machine: the scanner of the reader in this process, the others in a second one.

numba keeps compiled code on disk. It compiles one function at a time per process, so two processes halve the time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from numba.core import event

from psptool.formats.readers.base import Reader

MessageCallback = Callable[[str], None]
"""A function called with a message for the user."""

MESSAGE = "compiling for this machine (some seconds, only the first time)"
_COMPILE_OTHERS = "from psptool.preparation.kernel import call_each; call_each()"
_WITHOUT_WORKING_DIRECTORY = "import sys; sys.path[:] = filter(None, sys.path); "
"""Code that removes the working directory, which ``python -c`` searches first: its modules must not be executed."""


class _OnFirstCompilation(event.Listener):
    """Calls a function once, before numba compiles a function that is not in its cache."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function

    def on_start(self, _event: Any) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()

    def on_end(self, _event: Any) -> None:
        """Do nothing; a listener must have this method."""


def load_kernels(reader: Reader, jobs: int, on_message: MessageCallback | None = None) -> None:
    """Load the kernels from numba's cache, or compile them.

    Args:
        reader: The reader of the recordings. One with compiled functions has a method ``compile``.
        jobs: Number of processes that may run; with one, all kernels are compiled here.
        on_message: Called with `MESSAGE` before the first compilation, and not if all kernels are in the cache.
    """
    from psptool.preparation import kernel

    compile_reader = getattr(reader, "compile", None)
    with ExitStack() as stack:

        def on_compilation() -> None:
            if on_message is not None:
                on_message(MESSAGE)
            if jobs > 1 and compile_reader is not None:
                _start_compiling_others(stack)

        with event.install_listener("numba:compile", _OnFirstCompilation(on_compilation)):
            if compile_reader is not None:
                compile_reader()
            # Wait for the second process, whose results are then in the cache. If it failed, they are compiled here.
            stack.close()
            kernel.call_each()


def _start_compiling_others(stack: ExitStack) -> None:
    """Start a process that compiles the other kernels; the stack waits for it, or ends it after an error here."""
    with suppress(OSError):
        # The last one is for a psptool that was found in the working directory.
        folders = [*filter(None, sys.path), str(Path(__file__).absolute().parents[2])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
        command = [sys.executable, "-c", _WITHOUT_WORKING_DIRECTORY + _COMPILE_OTHERS]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)

        def stop(kind: type[BaseException] | None, *_: object) -> None:
            if kind is not None:
                process.kill()
            process.wait()

        stack.push(stop)
