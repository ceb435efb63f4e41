"""``psptool train --dry-run``: all checks before the first step, the resolved configuration, and its sizes."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psptool.cli.config import as_yaml
from psptool.cli.console import note, say, say_json, table, warn
from psptool.cli.overrides import epoch_of

if TYPE_CHECKING:
    import torch

    from psptool.common.distributed import ProcessGroup
    from psptool.schemas.run import RunConfig
    from psptool.schemas.split import Split
    from psptool.schemas.training import TrainingConfig


class _Begins(Exception):
    """Raised instead of the first training step."""


def dry_run(
    data: Path,
    split_path: Path,
    recipe: TrainingConfig,
    device: torch.device,
    ranks: ProcessGroup,
    as_json: bool,
) -> None:
    """Print the resolved configuration and its sizes without training.

    A training is started in a temporary folder and ended before its first step, so that checks, warnings and errors are
    those of a real training.

    Raises:
        PspError: As `psptool.training.api.train`.
    """
    from psptool.schemas.split import Split
    from psptool.training import api

    found: list[RunConfig] = []

    def stop(folder: Path, config: RunConfig) -> None:
        found.append(config)
        raise _Begins

    with tempfile.TemporaryDirectory(prefix="psptool-dry-run-") as folder:
        run = Path(folder) / "run"
        with suppress(_Begins):
            api.train(
                data, split_path, recipe, device=device, out=run, ranks=ranks, on_start=stop,
                on_message=note, on_warning=warn,
            )  # fmt: skip
    (config,) = found
    sizes = _sizes(config, Split.load(split_path))
    if as_json:
        say_json({**sizes, "training": config.training.model_dump(mode="json")})
        return
    table("", [(key.replace("_", " "), value) for key, value in sizes.items()])
    say("\n" + as_yaml(config.training).rstrip())
    note("Nothing was written (--dry-run). Next: the same without --dry-run")


def _sizes(config: RunConfig, split: Split) -> dict[str, Any]:
    recipe = config.training
    clips, batch, what = epoch_of(recipe, split)
    return {
        "dataset": config.latest.data_path,
        "split": config.latest.split_path,
        "device": config.latest.device,
        "precision": config.precision,
        "seed": config.seed,
        "labelled_clips": len(split.labelled),
        "unlabelled_clips": len(split.unlabelled),
        "validation_clips": len(split.validation),
        "test_clips": len(split.test),
        "labelled_clips_per_step": recipe.optim.labelled_batch,
        "pool_clips_per_step": batch if recipe.needs_pool else 0,
        "steps": recipe.optim.steps,
        f"passes_over_the_{what}_clips": round(recipe.optim.steps * batch / max(1, clips), 1),
        "parameters": _parameters(config),
    }


def _parameters(config: RunConfig) -> int:
    """Number of parameters of the network, including those used only in training."""
    import torch

    from psptool.model.build import build_model

    with torch.device("meta"):
        model = build_model(config.training, config.topology, len(config.class_names))
    return sum(weight.numel() for weight in model.parameters())
