"""Where a training stands: all that decides its next step, as bytes that a file can keep.

The streams of clip numbers are not in it: they follow from the seed and the number of steps done.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from psptool.errors import PspError
from psptool.train.teacher import Teacher

FORMAT = 2


@dataclass
class Standing:
    """One training between two steps.

    Attributes:
        model: With its weights and the statistics of its batch norms.
        optimizer: With its momentum.
        generator: Of frames, augmentations and noise, on the host; that of another device is seeded from it.
        step: Steps done.
        seconds: Spent on them, pauses left out.
        best: The best accuracy on the validation clips so far; -1 where none was taken.
        window: The loss and its terms, (terms,), a step since the last word; on the device.
        teacher: With its weights and mean label; None where there is none.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
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
            "window": torch.stack(self.window) if self.window else torch.zeros(0, 0),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "teacher": {} if self.teacher is None else self.teacher.state_dict(),
            "random": self._random_states(),
        }
        torch.save(state, file)
        return file.getvalue()

    def unpack(self, data: bytes) -> None:
        """Stand where another process stood when it packed.

        Raises:
            PspError: The bytes are damaged, or another network's. They are read as tensors and numbers, never as code.
        """
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']}")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.teacher is not None:
                self.teacher.load_state_dict(state["teacher"])
            for generator, kept in zip(self._generators(), state["random"], strict=True):
                generator.set_state(kept)
        except Exception as error:  # Damaged bytes end in errors of any kind.
            # Of code in a file PyTorch says at length how to run it.
            is_code = isinstance(error, pickle.UnpicklingError)
            why = "more than tensors and numbers" if is_code else " ".join(str(error).split())[:200]
            raise PspError(
                f"resume.pt: damaged, or not of this training ({why})",
                way_out="Train anew with --resume off.",
            ) from error
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.window = list(state["window"].to(self._device).unbind())

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

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
