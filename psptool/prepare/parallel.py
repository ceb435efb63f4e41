"""Running batches in parallel with joblib, in order, with a bounded number of results waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import cycle, islice
from typing import Any, Literal, TypeVar

import joblib

from psptool.errors import PspError

Task = TypeVar("Task")
Result = TypeVar("Result")
Workers = Literal["threads", "processes"]

# joblib hands out new tasks when others end, not when their results are taken, so that a slow taker would
# meet ever more of them. So it is given a window of tasks at a time, and a second one beside it, lest the
# workers wait while the last results of the first are taken.
WINDOW = 8
"""Tasks a worker in a window."""
LANES = 2
"""Windows under way at once."""


def run_ordered(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    jobs: int,
    workers: Workers,
    scheduler: str | None = None,
) -> Generator[Result, None, None]:
    """``function`` of each task, in the order of the tasks.

    Args:
        function: Pickled where workers are processes.
        tasks: Taken a window at a time.
        jobs: Workers; 1 without a scheduler runs everything here.
        workers: What the workers of this machine are.
        scheduler: Address of a Dask scheduler whose workers are taken in their place.

    Raises:
        PspError: A worker was lost, or the scheduler cannot be used.
    """
    if jobs == 1 and scheduler is None:
        yield from map(function, tasks)
        return
    with _lost_workers_explained(scheduler), _backend(scheduler) as width, ExitStack() as stack:
        count = width or jobs
        prefer = None if scheduler else workers
        lanes = [
            stack.enter_context(
                joblib.Parallel(count, prefer=prefer, return_as="generator", batch_size=1, pre_dispatch="all")
            )
            for _ in range(LANES)
        ]
        running: deque[Generator[Result, None, None]] = deque()
        remaining, lane = iter(tasks), cycle(lanes)
        while window := list(islice(remaining, WINDOW * count)):
            if len(running) == LANES:
                yield from running.popleft()
            # The call itself hands the tasks out.
            running.append(next(lane)(joblib.delayed(function)(task) for task in window))
        while running:
            yield from running.popleft()


@contextmanager
def _lost_workers_explained(scheduler: str | None) -> Iterator[None]:
    try:
        yield
    except BrokenExecutor as error:
        raise _lost(error) from error
    except PspError:
        raise
    except Exception as error:
        if scheduler is not None and type(error).__module__.split(".")[0] in ("distributed", "dask"):
            raise _lost(error) from error
        raise


def _lost(error: Exception) -> PspError:
    return PspError(
        f"a worker process was lost ({type(error).__name__})",
        way_out="Nothing was written. Where memory ran out, the system ends workers: try fewer --jobs.",
    )


@contextmanager
def _backend(scheduler: str | None) -> Iterator[int | None]:
    """Make the scheduler's cluster joblib's backend; yields its number of threads, None for this machine."""
    if scheduler is None:
        yield None
        return
    with _client(scheduler) as client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise PspError(
                f"the Dask scheduler {scheduler} has no workers", way_out="Start some: dask worker."
            )
        with joblib.parallel_config(backend="dask", client=client):
            yield threads


def _client(scheduler: str) -> AbstractContextManager[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise PspError(
            "--scheduler needs Dask, which is not installed", way_out="pip install 'psptool[cluster]'"
        ) from error
    try:
        client: AbstractContextManager[Any] = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise PspError(
            f"the Dask scheduler {scheduler} does not answer ({error})", way_out="Check --scheduler."
        ) from error
    return client
