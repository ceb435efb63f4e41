"""Running tasks in parallel with results in order and bounded memory: in local processes, or on a Dask cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Generic, Protocol, TypeVar

from joblib.executor import get_memmapping_executor

from psptool.common.errors import PspError
from psptool.preparation.slots import SharedMemoryTask, Slots

Task = TypeVar("Task")
Result = TypeVar("Result")
FutureResult = TypeVar("FutureResult", covariant=True)

AHEAD = 2
"""Tasks submitted per worker: enough that no worker is idle, few enough that all finish at about the same time."""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Future(Protocol[FutureResult]):
    """A submitted task, with the interface of `concurrent.futures.Future`."""

    def done(self) -> bool:
        """Whether the task has finished, with a result or an error."""

    def result(self) -> FutureResult:
        """Wait for the task and return its result."""


@dataclass(frozen=True)
class _WorkerPool(Generic[Task, Result]):
    """A pool of workers.

    Attributes:
        workers: Number of workers, without this process.
        submit: Function that submits a task to a worker.
        unpack: Function from a worker's return value to the result.
        works_here: Whether this process also runs tasks while it waits for a result.
    """

    workers: int
    submit: Callable[[Task], Future[Any]]
    unpack: Callable[[Any], Result]
    works_here: bool


def run_ordered(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    jobs: int,
    scheduler: str | None = None,
) -> Generator[Result, None, None]:
    """Apply ``function`` to each task and yield the results in the order of the tasks.

    The arrays of a result are valid until the next result is requested.

    Args:
        function: Must be picklable.
        tasks: Consumed a few at a time.
        jobs: Number of processes, with this one. 1 without a scheduler runs all tasks here.
        scheduler: Address of a Dask scheduler whose workers are used instead of local ones.

    Raises:
        PspError: A worker process was lost, or the scheduler cannot be used.
    """
    if jobs == 1 and scheduler is None:
        yield from map(function, tasks)
        return
    starting = _processes(function, jobs) if scheduler is None else _cluster(function, scheduler)
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
        # The next result in order is not ready: run one task here, unless too many results are waiting.
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
    """A pool of processes that is reused by the next preparation. Results are passed through shared memory.

    This process runs tasks too: writing uses a small part of its core, and its own results need no transfer.
    """
    workers = jobs - 1
    with _start_explained():
        # A process has one loky pool, which joblib reuses as configured; so it is created through joblib.
        executor = get_memmapping_executor(workers, env=_ONE_THREAD)
    # One slot per submitted task: a slot is reused only after its previous result was consumed.
    slots, shared_task, numbers = Slots(AHEAD * workers), SharedMemoryTask(function), count()

    def submit(task: Task) -> Future[Any]:
        with _start_explained():
            future: Future[Any] = executor.submit(shared_task, slots.slot(next(numbers)), task)
        return future

    try:
        yield _WorkerPool(workers, submit, slots.unpack, True)
    except BaseException:
        # The results of running tasks are no longer needed.
        executor.shutdown(wait=False, kill_workers=True)
        raise


@contextmanager
def _start_explained() -> Iterator[None]:
    """Explain errors on systems without semaphores or processes, such as containers without a writable ``/dev/shm``."""
    try:
        yield
    except (OSError, ImportError) as error:
        raise PspError(
            f"--jobs: worker processes cannot be started ({error})",
            expected="writable shared memory (on Linux /dev/shm), and a process limit that allows more processes",
            fix="Use --jobs 1, or make /dev/shm writable.",
        ) from error


@contextmanager
def _cluster(function: Callable[[Task], Result], scheduler: str) -> Iterator[_WorkerPool[Task, Result]]:
    """The workers of a Dask cluster, used without joblib: joblib's Dask backend waits forever for a lost worker, while
    Dask itself reruns the task on another one.
    """
    with _client(scheduler) as client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise PspError(
                f"--scheduler {scheduler}: the Dask scheduler has no workers",
                fix="Start workers: dask worker.",
            )
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
        f"--jobs: a worker process was lost ({type(error).__name__}); nothing was written",
        fix="The system may have killed it because memory ran out: use fewer --jobs.",
    )


def _client(scheduler: str) -> AbstractContextManager[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise PspError(
            "--scheduler: needs Dask, which is not installed",
            fix="Install it: pip install dask distributed.",
        ) from error
    try:
        client: AbstractContextManager[Any] = Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise PspError(
            f"--scheduler {scheduler}: the Dask scheduler does not respond ({error})",
            fix="Check its address and that it is running.",
        ) from error
    return client
