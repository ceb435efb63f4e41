"""Where a training stands: all that decides its next step, as bytes that a file can keep.

The streams of clip numbers are not in it: they follow from the seed and the number of steps done.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from psptool.training.runs.state import FORMAT, damaged
from psptool.training.teacher import Teacher


@dataclass
class TrainState:
    """One training between two steps.

    Attributes:
        model: With its weights and the statistics of its batch norms.
        optimizer: With its momentum.
        generator: Of frames, augmentations and noise, on the host; that of another device is seeded from it.
        step: Steps done.
        seconds: Spent on them, pauses left out.
        best: The best accuracy on the validation clips so far; -1 where none was taken.
        best_step: Steps done when it was taken; 0 where none was.
        window: The loss and its terms, (terms,), a step since the last word; on the device.
        teacher: With its weights and mean label; None where there is none.
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
        """All of it, for `unpack` in another process."""
        file = io.BytesIO()
        state = {
            "format": FORMAT,
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "best_step": self.best_step,
            "window": torch.stack(self.window) if self.window else torch.zeros(0, 0),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "teacher": {} if self.teacher is None else self.teacher.state_dict(),
            "random": self._random_states(),
        }
        torch.save(state, file)
        return file.getvalue()

    def unpack(self, state: Mapping[str, Any], source: str = "resume.pt") -> None:
        """Stand where another process stood when it packed, on this device or another.

        Args:
            state: As `psptool.training.runs.state.read_state` gives it.
            source: The file's path, for the error.

        Raises:
            PspError: The state is another network's, or lacks something.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.teacher is not None:
                self.teacher.load_state_dict(state["teacher"])
            self._set_random_states(state["random"], state["step"])
            self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
            # States of earlier versions do not say it.
            self.best_step = state.get("best_step", 0)
            self.window = list(state["window"].to(self._device).unbind())
        except Exception as error:  # Damaged states end in errors of any kind.
            raise damaged(source, error) from error

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _set_random_states(self, kept: Sequence[Tensor], step: int) -> None:
        """Restore the generators; those that the other device had and this one lacks are left out.

        A generator that the other device lacked is seeded by the step, so that it does not repeat its first numbers.
        """
        for number, generator in enumerate(self._generators()):
            if number < len(kept):
                generator.set_state(kept[number])
            else:
                generator.manual_seed(step)

    def _random_states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators()]

    def _generators(self) -> list[torch.Generator]:
        """The device's own generators come after the training's: dropout draws from them."""
        generators = [self.generator, torch.default_generator]
        if self._device.type == "cuda":
            number = self._device.index
            index = torch.cuda.current_device() if number is None else number
            generators.append(torch.cuda.default_generators[index])
        return generators
