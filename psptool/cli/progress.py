"""Progress of a longer piece of work on stderr: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from typing_extensions import Self

from psptool.cli import console

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

LINE_SECONDS = 30.0
"""Seconds after which a line is due where stderr is not a terminal."""
_BAR = 12


class ProgressReport:
    """Shows how far one piece of work is; silent with ``--quiet``. Use it as a context manager.

    The bar appears with the first call, so that messages before it stand on lines of their own.

    Args:
        label: What is done, such as ``preparing``; ``step`` for a training.
        unit: What is counted, for the rate; empty for no rate.
    """

    def __init__(self, label: str, unit: str = "") -> None:
        self.label, self.unit = label, unit
        self._first: int | None = None  # the count of the first call: a resumed training does not begin at 0
        self._began = self._last_line = time.monotonic()
        self._detail = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            console.attach(None)

    def __call__(
        self, done: int, total: int | None = None, detail: str | None = None, due: bool = False
    ) -> None:
        """Show that ``done`` of ``total`` are done.

        Args:
            done: The count.
            total: The count at the end; None if unknown.
            detail: Further text; by default that of the call before.
            due: Write a line now where stderr is not a terminal, even if the last one was less than
                `LINE_SECONDS` ago.
        """
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = done, now
        self._detail = self._detail if detail is None else detail
        if console.is_quiet():
            return
        if console.on_terminal():
            self._show_bar(done, total)
        elif due or now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            console.note(self.line(done, total, now - self._began))

    def line(self, done: int, total: int | None, seconds: float) -> str:
        """The progress as text, such as ``step 120/600  loss 3.21  lr 0.08  2.1 steps/s  ETA 3:48``."""
        parts = [f"{self.label} {_count(done, total)}", self._detail, *self._speed(done, total, seconds)]
        return "  ".join(part for part in parts if part)

    def _speed(self, done: int, total: int | None, seconds: float) -> list[str]:
        """The rate, and the time that is left or, where that is unknown, the time so far."""
        since = done - (self._first or 0)
        if since <= 0 or seconds <= 0:
            return []
        rate = since / seconds
        shown = (
            [f"{rate:.2g} {self.unit}/s" if rate < 1 else f"{rate:.1f} {self.unit}/s"] if self.unit else []
        )
        if total is None:
            return [*shown, f"{duration(seconds)} so far"]
        return [*shown, f"ETA {duration(max(0, total - done) / rate)}"]

    def _show_bar(self, done: int, total: int | None) -> None:
        if self._bar is None:
            self._bar = _new_bar()
            console.attach(self._bar.console)
            self._task = self._bar.add_task(self.label, total=total, count="", rest="")
            self._bar.start()
        assert self._task is not None
        # Time left first: on a narrow terminal the end is cut.
        *rate, left = self._speed(done, total, time.monotonic() - self._began) or ["ETA -:--"]
        rest = "  ".join(part for part in (left, *rate, self._detail) if part)
        self._bar.update(self._task, completed=done, total=total, count=_count(done, total), rest=rest)


def duration(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _count(done: int, total: int | None) -> str:
    return str(done) if total is None else f"{done}/{total}"


def _new_bar() -> Progress:
    """A bar that fits into one line of the terminal; of the columns only the last one gives way."""
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Rest(ProgressColumn):
        """The text after the count, cut where the terminal ends."""

        def render(self, task: Task) -> Text:
            return Text(task.fields["rest"], no_wrap=True, overflow="ellipsis")

    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(_BAR, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
        Rest(),
    )
    return Progress(*columns, console=console.stderr_console(), transient=True)
