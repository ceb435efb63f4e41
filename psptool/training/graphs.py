"""CUDA graphs of training steps, one per shape of the batch.

A step launches some thousand kernels from Python, which takes longer than the kernels. A CUDA graph launches all of
them at once. It always reads and writes the same addresses, so the inputs are copied into fixed tensors first.

`StepCache` is independent of CUDA: it gets a `Capture`, which turns a function without arguments into one that
repeats it. That of a GPU is `CudaCapture`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from psptool.common.distributed import ProcessGroup
from psptool.training.step import StepInputs, Terms, TrainStep

Graphs = Literal["auto", "off"]
"""``auto``: CUDA graphs if one process trains on a GPU; ``off``: never."""
CAPTURE_AT = 3
"""Occurrence of a shape at which it is captured. Earlier ones run eagerly, and initialize optimizer and libraries."""
LIMIT = 64
"""Largest number of captured shapes. Capturing takes about as long as ten steps, so rare shapes are not worth it."""
MEMORY_FACTOR = 2.5
"""Required free memory, as a multiple of an eager step's: for eager steps, for graphs, and for larger shapes."""

Run = Callable[[], Terms]
Capture = Callable[[Run], Run]
"""Records the operations of a function, without executing them, and returns a function that executes them.

The result of that function is valid until its next call, or the next call of another captured function. If the
function cannot be recorded, an error is raised and nothing has been executed.
"""


@dataclass(frozen=True)
class _Captured:
    """A captured step and the inputs that it reads."""

    inputs: StepInputs
    replay: Run


@dataclass
class StepCache:
    """Runs training steps, those of frequent shapes as captured functions.

    Attributes:
        step: The step.
        capture: How to capture it; None if steps run eagerly, also after capturing has failed.
        on_warning: Called once, if capturing fails.
        limit: Largest number of captured shapes.
    """

    step: TrainStep
    capture: Capture | None
    on_warning: Callable[[str], None] = lambda warning: None
    limit: int = LIMIT
    _captured: dict[Hashable, _Captured] = field(default_factory=dict, init=False)
    _seen: Counter[Hashable] = field(default_factory=Counter, init=False)

    def __call__(self, inputs: StepInputs) -> Terms:
        """One step; see `TrainStep`."""
        if self.capture is None:
            return self.step(inputs)
        captured = self._find(inputs, self.capture)
        if captured is None:
            return self.step(inputs)
        captured.inputs.copy_(inputs)
        names, values = captured.replay()
        return names, values.clone()  # the next replay overwrites them

    @property
    def size(self) -> int:
        """Number of captured shapes."""
        return len(self._captured)

    def _find(self, inputs: StepInputs, capture: Capture) -> _Captured | None:
        """The captured step for ``inputs``; captures it if it is time to. None if the step must run eagerly."""
        key = inputs.key
        if key in self._captured or len(self._captured) >= self.limit:
            return self._captured.get(key)
        self._seen[key] += 1
        if self._seen[key] < CAPTURE_AT:
            return None
        # Outside of the capture: the memory of tensors made within it is reused by other graphs.
        fixed = inputs.clone()
        try:
            with _capturable(self.step.optimizer):
                self._captured[key] = _Captured(fixed, capture(lambda: self.step(fixed)))
        except (
            Exception
        ) as error:  # The same step has run eagerly before: the capture is at fault, not the step.
            self._turn_off(error)
            return None
        return self._captured[key]

    def _turn_off(self, error: Exception) -> None:
        """Run all further steps eagerly, and free the memory of the graphs."""
        self.capture = None
        self._captured.clear()
        self.step.optimizer.zero_grad(set_to_none=True)  # gradients of the failed capture
        torch.cuda.empty_cache()  # does nothing without CUDA
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        self.on_warning(f"CUDA graphs are off, so steps are slower: a step cannot be captured ({reason})")


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Context in which ``optimizer`` may be captured.

    AdamW refuses to be captured without the flag, and warns about every other step with it. The fused optimizers
    compute the same with and without.
    """
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["capturable"] = value


class CudaCapture:
    """Captures functions as CUDA graphs that share one memory pool.

    All captures and replays, and the eager runs in between, must be in one `side_stream`. Graphs of one pool use the
    same memory for their temporary tensors and results, so the result of a replay must be copied before the next.

    Args:
        device: A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()
        self.captures = 0
        torch.cuda.reset_peak_memory_stats(device)

    def __call__(self, function: Run) -> Run:
        """See `Capture`."""
        if not self.captures:
            self._check_memory()
        graph = torch.cuda.CUDAGraph()
        try:
            # Registers the default generator of the GPU: dropout draws the same numbers as in eager steps.
            with torch.cuda.graph(graph, pool=self.pool, stream=torch.cuda.current_stream(self.device)):
                result = function()
        except Exception:
            _leave_capture(self.device, self.pool)
            raise
        self.captures += 1

        def replay() -> Terms:
            graph.replay()
            return result

        return replay

    def _check_memory(self) -> None:
        """Raise an error if graphs would leave eager steps too little memory."""
        allocated = torch.cuda.memory_allocated(self.device)
        needed = MEMORY_FACTOR * (torch.cuda.max_memory_allocated(self.device) - allocated)
        # Memory that the allocator holds but does not use is free too.
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device) - allocated
        if free < needed:
            raise MemoryError(f"{free / 2**30:.1f} GiB of GPU memory free, {needed / 2**30:.1f} GiB required")


def _leave_capture(device: torch.device, pool: Any) -> None:
    """Let allocator and random generator of ``device`` work normally again after a failed capture.

    If a capture is invalidated, `torch.cuda.graph` ends the capture of the stream, but leaves these two in capture
    mode. The allocator would then not free cached memory when memory runs out, and the next dropout would raise an
    error.

    Args:
        device: The current GPU.
        pool: Memory pool of the capture.
    """
    number = torch.cuda.current_device() if device.index is None else device.index
    with suppress(Exception):  # an error if the allocator has left it already
        torch._C._cuda_endAllocateToPool(number, pool)
    # A copy of the generator's state has the same seed and offset, and is not in capture mode.
    generator = torch.cuda.default_generators[number]
    generator.graphsafe_set_state(generator.clone_state())


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Context in which ``device`` works in a stream other than the default stream, which cannot be captured.

    Work that was queued before is finished first, and later work waits for that of the context.
    """
    before = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        try:
            yield
        finally:
            before.wait_stream(stream)


def uses_graphs(graphs: Graphs, device: torch.device, ranks: ProcessGroup) -> bool:
    """Whether a training on ``device`` captures its steps. Collective operations of several ranks are not captured."""
    return graphs == "auto" and device.type == "cuda" and ranks.size == 1
