"""A run folder's ``config.json``: what was trained, with which resolved recipe, and what it ran on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from psptool.schemas.base import Artefact, Strict, flat
from psptool.schemas.dataset import DatasetName, PreparationSettings
from psptool.schemas.training import TrainingConfig

_PLACES = ("data_path", "split_path")
_NO_IDENTITY = ("format_version", "preset", "seed", "precision", "checkpoint_every")
"""Values of the recipe that do not determine a run's result: names, how often it is saved, and the seed and the
precision, which stand resolved beside the recipe."""


class Provenance(Strict):
    """What a training ran on, from one step on. It does not determine the run, except for rounding errors."""

    from_step: int = Field(0, ge=0, description="Steps done before; 0 where the training began")
    device: str
    hardware: str | None = Field(None, description="The processor with the threads used, or the GPU")
    processes: int | None = Field(None, ge=1, description="How many trained together; null if not recorded")
    clips_on: Literal["device", "host"] = Field(
        "device",
        description="Where the clips lay: on the device, or in host memory where they did not fit there",
    )
    data_path: str = Field(description="Where the dataset lay")
    split_path: str = Field(description="Where the split lay")
    tool_version: str
    torch_version: str | None = Field(None, description="Of PyTorch; null if not recorded")
    commit: str | None = Field(
        None, description="Of psptool's source, + where it was changed; null for an installed package"
    )

    @property
    def computed_on(self) -> str:
        """The hardware, or the device where the hardware is not recorded."""
        return self.hardware or self.device

    def changes(self, now: Provenance) -> dict[str, str]:
        """What differs in ``now``, as ``old -> new`` by key; values that were not recorded are no difference."""
        found = {}
        for key in type(self).model_fields:
            old, new = getattr(self, key), getattr(now, key)
            # cuda:0 draws what cuda:1 draws.
            same = old.partition(":")[0] == new.partition(":")[0] if key == "device" else old == new
            unknown = old is None and key in ("hardware", "processes", "torch_version")
            if key != "from_step" and not same and not unknown:
                found[key] = f"{old or 'none'} -> {new or 'none'}"
        return found


class RunConfig(Artefact):
    """Written before the first step; a run is bound to its dataset's content and its split by fingerprints.

    All but `provenance` is fixed when the run begins; each resume appends to that.
    """

    format_version: Literal[2] = 2
    dataset: DatasetName
    topology: str
    class_names: tuple[str, ...]
    preparation: PreparationSettings = Field(
        description="How the dataset's clips were prepared, so that new recordings get the same treatment"
    )
    split_name: str = Field(description="The split's file name without its ending")
    split_digest: str = Field(
        description="Of the names in the split's parts: evaluation refuses another draw",
        pattern=r"^[0-9a-f]{64}$",
    )
    clips_fingerprint: str
    content_fingerprint: str
    seed: int = Field(description="The training's seed, resolved")
    precision: Literal["float32", "bfloat16"]
    training: TrainingConfig
    provenance: tuple[Provenance, ...] = Field(
        min_length=1, description="What it ran on: at the beginning, and at each resume"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_version_1(cls, values: Any) -> Any:
        """Read format 1, which had one provenance, its keys beside the others."""
        if not isinstance(values, dict) or values.get("format_version") != 1 or "provenance" in values:
            return values
        keys = [key for key in Provenance.model_fields if key in values]
        rest = {key: value for key, value in values.items() if key not in keys}
        return {**rest, "format_version": 2, "provenance": [{key: values[key] for key in keys}]}

    @property
    def latest(self) -> Provenance:
        """What it ran on last."""
        return self.provenance[-1]

    @property
    def contributing(self) -> tuple[Provenance, ...]:
        """Records whose steps are part of the result: those of a continuation that a later resume discarded are not."""
        later = [record.from_step for record in self.provenance]
        return tuple(
            record
            for number, record in enumerate(self.provenance)
            if all(record.from_step < step for step in later[number + 1 :])
        )

    def identity(self) -> dict[str, Any]:
        """What determines the run's result, by dotted key: dataset, split, seed, precision and the recipe's values."""
        values = self.model_dump(mode="json", exclude={"format_version", "split_name", "provenance"})
        values["training"] = {
            key: value for key, value in values["training"].items() if key not in _NO_IDENTITY
        }
        return dict(flat(values))


def provenance_warning(there: RunConfig, now: Provenance) -> str | None:
    """What differs between what a run ran on so far and ``now``, as a sentence; None where nothing does."""
    changes = there.contributing[-1].changes(now)
    if not changes:
        return None
    listed = "; ".join(f"{key}: {change}" for key, change in changes.items())
    bits = (
        ""
        if set(changes) <= set(_PLACES)
        else " The result may differ in rounding from an uninterrupted run."
    )
    return f"resumed at step {now.from_step} with other provenance: {listed}.{bits}"
