"""Running tasks in parallel, in order, with a bounded number of results waiting: joblib here, Dask on a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count, cycle, islice
from typing import Any, Literal, TypeVar

import joblib

from psptool.errors import PspError
from psptool.prepare.slots import Shipping, Slots

Task = TypeVar("Task")
Result = TypeVar("Result")
Workers = Literal["threads", "processes"]
HandOut = Callable[[list[Task]], Iterator[Result]]
"""Hands a window of tasks out at once, and gives their results in order."""

# joblib hands out new tasks when others end, not when their results are taken, so that a slow taker would
# meet ever more of them. So it is given a window of tasks at a time, and a second one beside it, lest the
# workers wait while the last results of the first are taken.
WINDOW = 2
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

    A result's arrays may change once the next result is asked for.

    Raises:
        PspError: A worker was lost, or the scheduler cannot be used.
    """
    if jobs == 1 and scheduler is None:
        yield from map(function, tasks)
        return
    here = scheduler is None
    pool = _on_this_machine(function, jobs, workers) if here else _on_a_cluster(function, str(scheduler))
    with _lost_workers_explained(scheduler), pool as (width, hand_out):
        running: deque[Iterator[Result]] = deque()
        remaining = iter(tasks)
        while window := list(islice(remaining, WINDOW * width)):
            if len(running) == LANES:
                yield from running.popleft()
            running.append(hand_out(window))
        while running:
            yield from running.popleft()


@contextmanager
def _on_this_machine(
    function: Callable[[Task], Result], jobs: int, workers: Workers
) -> Iterator[tuple[int, HandOut[Task, Result]]]:
    """Joblib's workers; the results of processes come through shared memory."""
    with ExitStack() as stack:
        lanes = cycle(
            [
                stack.enter_context(
                    joblib.Parallel(
                        jobs, prefer=workers, return_as="generator", batch_size=1, pre_dispatch="all"
                    )
                )
                for _ in range(LANES)
            ]
        )
        if workers == "threads":
            yield jobs, lambda window: next(lanes)(joblib.delayed(function)(task) for task in window)
            return
        shipping, numbers = Shipping(function), count()
        # A slot is filled anew two windows later, when the results of its own have all been taken.
        slots = Slots(LANES * WINDOW * jobs)

        def hand_out(window: list[Task]) -> Iterator[Result]:
            calls = (joblib.delayed(shipping)(slots.slot(next(numbers)), task) for task in window)
            return map(slots.unpack, next(lanes)(calls))

        yield jobs, hand_out


@contextmanager
def _on_a_cluster(
    function: Callable[[Task], Result], scheduler: str
) -> Iterator[tuple[int, HandOut[Task, Result]]]:
    """A Dask cluster's workers, asked without joblib: its Dask backend waits for ever for a worker that is lost,
    where Dask itself lets another one do the task.
    """
    with _client(scheduler) as client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise PspError(
                f"the Dask scheduler {scheduler} has no workers", way_out="Start some: dask worker."
            )

        def hand_out(window: list[Task]) -> Iterator[Result]:
            futures = [client.submit(function, task, pure=False) for task in window]
            return (future.result() for future in futures)

        yield threads, hand_out


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
