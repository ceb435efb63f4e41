"""Running tasks in parallel, in order, with a bounded number of results waiting: processes or threads here, Dask on a
cluster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Generic, Literal, Protocol, TypeVar

from joblib.executor import get_memmapping_executor

from psptool.common.errors import PspError
from psptool.preparation.slots import SharedMemoryTask, Slots

Task = TypeVar("Task")
Result = TypeVar("Result")
FutureResult = TypeVar("FutureResult", covariant=True)
Workers = Literal["threads", "processes"]

AHEAD = 2
"""Tasks that each worker has: enough that none waits, few enough that all end at about the same time."""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Future(Protocol[FutureResult]):
    """A submitted task, with the interface of `concurrent.futures.Future`."""

    def done(self) -> bool:
        """Whether there is a result, or an error."""

    def result(self) -> FutureResult:
        """The result; waits for it."""


@dataclass(frozen=True)
class _WorkerPool(Generic[Task, Result]):
    """Who works.

    Attributes:
        workers: How many beside this process.
        submit: Gives one of them a task.
        unpack: Makes a result of what comes back.
        works_here: Whether this process does tasks too while it has no result to take.
    """

    workers: int
    submit: Callable[[Task], Future[Any]]
    unpack: Callable[[Any], Result]
    works_here: bool


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
        tasks: Taken a few at a time.
        jobs: Workers, this process among them where they are processes; 1 without a scheduler runs everything here.
        workers: What the workers of this machine are.
        scheduler: Address of a Dask scheduler whose workers are taken in their place.

    A result's arrays may change once the next result is asked for.

    Raises:
        PspError: A worker was lost, or the scheduler cannot be used.
    """
    if jobs == 1 and scheduler is None:
        yield from map(function, tasks)
        return
    if scheduler is not None:
        starting = _cluster(function, scheduler)
    else:
        starting = _processes(function, jobs) if workers == "processes" else _threads(function, jobs)
    with _lost_workers_explained(scheduler), starting as pool:
        yield from _in_order(function, iter(tasks), pool)


def _in_order(
    function: Callable[[Task], Result], remaining: Iterator[Task], pool: _WorkerPool[Task, Result]
) -> Iterator[Result]:
    most, away = AHEAD * pool.workers, 0
    # Each entry is (future, None), or (None, result) for a task that this process ran itself.
    waiting: deque[tuple[Future[Any] | None, Any]] = deque()
    while True:
        for task in islice(remaining, most - away):
            waiting.append((pool.submit(task), None))
            away += 1
        if not waiting:
            return
        future, own = waiting[0]
        if pool.works_here and future is not None and not future.done() and len(waiting) < 2 * most:
            done_here = [(None, function(task)) for task in islice(remaining, 1)]
            waiting.extend(done_here)
            if done_here:
                continue
        waiting.popleft()
        if future is not None:
            away -= 1
        yield own if future is None else pool.unpack(future.result())


@contextmanager
def _processes(function: Callable[[Task], Result], jobs: int) -> Iterator[_WorkerPool[Task, Result]]:
    """Processes that live on for the next preparation; their results come through shared memory.

    This one is among them: it writes, which leaves it most of a core to work with, and what it does itself it need not
    be sent.
    """
    workers = jobs - 1
    with _start_explained():
        # joblib's own, since a process has one pool of loky's, and joblib takes it as it finds it.
        executor = get_memmapping_executor(workers, env=_ONE_THREAD)
    # As many as tasks are out at once: a slot is filled anew only after its last result was taken.
    slots, shared_task, numbers = Slots(AHEAD * workers), SharedMemoryTask(function), count()

    def submit(task: Task) -> Future[Any]:
        with _start_explained():
            future: Future[Any] = executor.submit(shared_task, slots.slot(next(numbers)), task)
        return future

    try:
        yield _WorkerPool(workers, submit, slots.unpack, True)
    except BaseException:
        # Nobody waits any more for what they are at.
        executor.shutdown(wait=False, kill_workers=True)
        raise


@contextmanager
def _start_explained() -> Iterator[None]:
    """Name what helps where the system gives no semaphores or processes, as without a writable ``/dev/shm``."""
    try:
        yield
    except (OSError, ImportError) as error:
        raise PspError(
            f"worker processes cannot be started ({error})",
            expected="shared memory that can be written (on Linux /dev/shm), and room for more processes",
            fix="Say --jobs 1, or make /dev/shm writable.",
        ) from error


@contextmanager
def _threads(function: Callable[[Task], Result], jobs: int) -> Iterator[_WorkerPool[Task, Result]]:
    with ThreadPoolExecutor(jobs) as executor:
        try:
            yield _WorkerPool(jobs, lambda task: executor.submit(function, task), _unchanged, False)
        finally:
            executor.shutdown(cancel_futures=True)


@contextmanager
def _cluster(function: Callable[[Task], Result], scheduler: str) -> Iterator[_WorkerPool[Task, Result]]:
    """A Dask cluster's workers, asked without joblib: its Dask backend waits for ever for a worker that is lost,
    where Dask itself lets another one do the task.
    """
    with _client(scheduler) as client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise PspError(f"the Dask scheduler {scheduler} has no workers", fix="Start some: dask worker.")
        yield _WorkerPool(threads, lambda task: client.submit(function, task, pure=False), _unchanged, False)


def _unchanged(result: Result) -> Result:
    return result


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
        fix="Nothing was written. Where memory ran out, the system ends workers: try fewer --jobs.",
    )


def _client(scheduler: str) -> AbstractContextManager[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise PspError(
            "--scheduler needs Dask, which is not installed", fix="pip install 'psptool[cluster]'"
        ) from error
    try:
        client: AbstractContextManager[Any] = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise PspError(
            f"the Dask scheduler {scheduler} does not answer ({error})", fix="Check --scheduler."
        ) from error
    return client
