"""Options of ``psptool train`` for single values of the training configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from psptool.cli.console import choice, note
from psptool.common.errors import PspError
from psptool.common.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psptool.schemas.split import Split
    from psptool.schemas.training import TrainingConfig


@dataclass(frozen=True)
class Shorthands:
    """Values given by an option of their own; None where the option was left out.

    Attributes:
        lr: Of ``optim.lr``.
        steps: Of ``optim.steps``.
        epochs: Passes over the training clips, converted to ``optim.steps``.
        batch_size: Of ``optim.labelled_batch``.
        precision: Of ``precision``.
    """

    lr: float | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    precision: str | None = None

    def changes(self, others: Sequence[str]) -> list[str]:
        """The values as ``key=value`` changes, after those of ``--set``.

        Args:
            others: The changes given with ``--set``.

        Raises:
            PspError: A key is given twice, or a value does not fit.
        """
        from psptool.schemas.training import Precision

        if self.precision is not None:
            choice(self.precision, get_args(Precision), "--precision")
        if self.epochs is not None and not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise PspError("--epochs", str(self.epochs), "a number over 0")
        named = {
            "optim.lr": ("--lr", self.lr),
            "optim.steps": ("--steps", self.steps),
            "optim.labelled_batch": ("--batch-size", self.batch_size),
            "precision": ("--precision", self.precision),
        }
        given = {key: (option, value) for key, (option, value) in named.items() if value is not None}
        by_set = {change.partition("=")[0] for change in others}
        twice = [f"{option} and --set {key}" for key, (option, _) in given.items() if key in by_set]
        if self.epochs is not None and ("optim.steps" in by_set or self.steps is not None):
            twice.append("--epochs and " + ("--steps" if self.steps is not None else "--set optim.steps"))
        if twice:
            raise PspError(f"one value given twice: {'; '.join(twice)}", fix="Leave out one of them.")
        return [*others, *(f"{key}={value}" for key, (_, value) in given.items())]

    def with_epochs(self, recipe: TrainingConfig, split: Split) -> TrainingConfig:
        """The configuration with the number of steps that ``--epochs`` means for this split."""
        if self.epochs is None:
            return recipe
        clips, batch, what = epoch_of(recipe, split)
        steps = max(1, math.ceil(self.epochs * clips / batch))
        passes = "1 pass" if self.epochs == 1 else f"{self.epochs:g} passes"
        note(
            f"--epochs {self.epochs:g}: {passes} over {counted(clips, f'{what} clip')}, "
            f"{batch} per step = {counted(steps, 'step')} (optim.steps={steps})"
        )
        return recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"steps": steps})})


def epoch_of(recipe: TrainingConfig, split: Split) -> tuple[int, int, str]:
    """The clips of one pass, how many of them one step sees, and which clips these are.

    A pass is over the pool (the clips seen without labels); over the labelled clips where there is no pool.
    """
    if not recipe.needs_pool:
        return len(split.labelled), recipe.optim.labelled_batch, "labelled"
    pool = len(split.pool(recipe.loss.contrast_labelled))
    return pool, max(1, min(recipe.optim.pool_batch, pool)), "pool"
