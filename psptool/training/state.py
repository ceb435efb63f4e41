"""The state of a training between two steps, and its checkpoint as bytes.

The order of clips is not part of it: it follows from the seed and the number of completed steps.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from psptool.training.checkpoint import check_optimizer, check_tensors
from psptool.training.optimization import load_optimizer_state, optimizer_state
from psptool.training.runs.state import damaged, seal
from psptool.training.teacher import Teacher


@dataclass
class TrainState:
    """State of a training between two steps.

    Attributes:
        model: Its weights and batch norm statistics are saved.
        optimizer: Its momentum is saved.
        generator: Random generator of frames, augmentation and noise, on the host. It seeds that of the device.
        step: Number of completed steps.
        seconds: Time of these steps, without interruptions.
        best: Highest accuracy on the validation clips so far; -1 before the first validation.
        best_step: Number of completed steps at that validation; 0 before the first one.
        window: Loss and its terms of each step since the last log entry, (terms,) each, on the device.
        teacher: Its weights and mean label are saved; None without a teacher.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_step: int = 0
    window: list[Tensor] = field(default_factory=list)
    teacher: Teacher | None = None

    def pack(self) -> bytes:
        """The state as bytes, for `unpack` in another process."""
        file = io.BytesIO()
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "best_step": self.best_step,
            "window": torch.stack(self.window) if self.window else torch.zeros(0, 0),
            "model": self.model.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "teacher": {} if self.teacher is None else self.teacher.state_dict(),
            "random": self._random_states(),
        }
        torch.save(state, file)
        return seal(file.getvalue())

    def unpack(self, state: Mapping[str, Any], source: str = "resume.pt") -> None:
        """Restore a packed state, also on another device.

        Args:
            state: As returned by `psptool.training.runs.state.read_state`.
            source: The path of the file, for errors.

        Raises:
            PspError: The state is of another network, or incomplete.
        """
        try:
            check_tensors("model", state["model"], self.model.state_dict())
            check_optimizer(state["optimizer"], self.optimizer)
            check_tensors(
                "teacher", state["teacher"], {} if self.teacher is None else self.teacher.state_dict()
            )
            self.model.load_state_dict(state["model"])
            load_optimizer_state(self.optimizer, state["optimizer"])
            if self.teacher is not None:
                self.teacher.load_state_dict(state["teacher"])
            self._set_random_states(state["random"], state["step"])
            self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
            self.best_step = state["best_step"]
            # (steps, terms) -> one tensor (terms,) per step
            self.window = list(state["window"].to(self._device).unbind())
        except Exception as error:  # A damaged state may raise any error.
            raise damaged(source, error) from error

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _set_random_states(self, states: Sequence[Tensor], step: int) -> None:
        """Restore the random generators. States of generators that this device does not have are ignored.

        A generator without a saved state is seeded with ``step``, so that it does not repeat its first numbers.
        """
        for number, generator in enumerate(self._generators()):
            if number < len(states):
                generator.set_state(states[number])
            else:
                generator.manual_seed(step)

    def _random_states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators()]

    def _generators(self) -> list[torch.Generator]:
        """Generator of the training, then PyTorch's default generators of host and GPU, which dropout uses."""
        generators = [self.generator, torch.default_generator]
        if self._device.type == "cuda":
            number = self._device.index
            index = torch.cuda.current_device() if number is None else number
            generators.append(torch.cuda.default_generators[index])
        return generators
