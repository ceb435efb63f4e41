"""The file ``config.json`` of a run: dataset, split, resolved training configuration, and provenance."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from psptool.schemas.base import Artefact, Strict, flat
from psptool.schemas.dataset import FORMER_KEYS, PreparationSettings, description_of_version_1
from psptool.schemas.description import DatasetDescription
from psptool.schemas.training import TrainingConfig
from psptool.skeletons.topology import Topology

_PLACES = ("data_path", "split_path")
_WORDS = {
    "device": "device",
    "hardware": "hardware",
    "processes": "number of processes",
    "clips_on": "location of the clips",
    "data_path": "path of the dataset",
    "split_path": "path of the split",
    "tool_version": "version of psptool",
    "torch_version": "version of PyTorch",
    "commit": "commit of psptool",
}
"""The values of `Provenance` in words."""
_NO_IDENTITY = ("format_version", "preset", "seed", "precision", "checkpoint_every")
"""Keys of the training configuration that `RunConfig.identity` ignores: names and the checkpoint interval, which do
not affect the result, and seed and precision, whose resolved values are stored outside of the configuration."""


class Provenance(Strict):
    """Hardware, software and paths of a training from one step on. They affect the result by rounding only."""

    from_step: int = Field(
        0, ge=0, description="Step at which this record begins; 0 for the start of training"
    )
    device: str
    hardware: str | None = Field(None, description="GPU model, or processor model and number of threads")
    processes: int | None = Field(
        None, ge=1, description="Number of training processes; null if not recorded"
    )
    clips_on: Literal["device", "host"] = Field(
        "device",
        description="Location of the clips: `device`, or `host` memory if they did not fit on the device",
    )
    data_path: str = Field(description="Path of the dataset")
    split_path: str = Field(description="Path of the split")
    tool_version: str
    torch_version: str | None = Field(None, description="PyTorch version; null if not recorded")
    commit: str | None = Field(
        None,
        description="Git commit of psptool's source, followed by + if modified; null for an installed package",
    )

    @property
    def computed_on(self) -> str:
        """The hardware, or the device if the hardware was not recorded."""
        return self.hardware or self.device

    def changes(self, now: Provenance) -> dict[str, str]:
        """The values that differ in ``now``, as ``old -> new`` by key. Values that were not recorded are ignored."""
        found = {}
        for key in type(self).model_fields:
            old, new = getattr(self, key), getattr(now, key)
            # The index of the GPU has no effect: random numbers on cuda:0 and cuda:1 are the same.
            same = old.partition(":")[0] == new.partition(":")[0] if key == "device" else old == new
            unknown = old is None and key in ("hardware", "processes", "torch_version")
            if key != "from_step" and not same and not unknown:
                found[key] = f"{old or 'none'} -> {new or 'none'}"
        return found


class RunConfig(Artefact):
    """The configuration of a run, written before the first step.

    The fingerprints identify the content of the dataset and the split. All values are fixed when the run starts, except
    `provenance`: each resume appends a record.
    """

    format_version: Literal[3] = 3
    description: DatasetDescription = Field(description="Description of the dataset, for new recordings too")
    preparation: PreparationSettings = Field(
        description="Preparation settings of the dataset; they are applied to new recordings too"
    )
    split_name: str = Field(description="File name of the split without its suffix")
    split_digest: str = Field(
        description="Digest of the clip names in each part of the split; evaluation refuses a split with another one",
        pattern=r"^[0-9a-f]{64}$",
    )
    clips_fingerprint: str
    content_fingerprint: str
    seed: int = Field(ge=0, lt=2**63, description="Random seed of the training, resolved")
    precision: Literal["float32", "bfloat16"]
    training: TrainingConfig
    provenance: tuple[Provenance, ...] = Field(
        min_length=1, description="One record for the start of training and one for each resume"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_earlier_version(cls, values: Any) -> Any:
        """Convert format 1, which had a single provenance with its keys at the top level, and format 2, which had the
        name of a built-in dataset instead of a description.
        """
        if not isinstance(values, dict):
            return values
        if values.get("format_version") == 1 and "provenance" not in values:
            keys = [key for key in Provenance.model_fields if key in values]
            rest = {key: value for key, value in values.items() if key not in keys}
            values = {**rest, "format_version": 2, "provenance": [{key: values[key] for key in keys}]}
        if values.get("format_version") == 2 and "description" not in values:
            description = description_of_version_1(values)
            rest = {key: value for key, value in values.items() if key not in FORMER_KEYS}
            values = {**rest, "format_version": 3, "description": description}
        return values

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.description.name

    @property
    def topology(self) -> Topology:
        """The joints and bones of the clips."""
        return self.description.topology

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, indexed by label."""
        return self.description.class_names

    @property
    def latest(self) -> Provenance:
        """The latest provenance record."""
        return self.provenance[-1]

    @property
    def contributing(self) -> tuple[Provenance, ...]:
        """The provenance records whose steps are part of the result, without those that a later resume discarded."""
        later = [record.from_step for record in self.provenance]
        return tuple(
            record
            for number, record in enumerate(self.provenance)
            if all(record.from_step < step for step in later[number + 1 :])
        )

    def identity(self) -> dict[str, Any]:
        """The values that determine the result, by dotted key: dataset, split, seed, precision and configuration."""
        values = self.model_dump(
            mode="json", exclude={"format_version", "split_name", "provenance", "description"}
        )
        values["dataset"], values["class_names"] = self.dataset, list(self.class_names)
        values["skeleton"] = self.description.used_skeleton.complete.model_dump(mode="json")
        values["training"] = {
            key: value for key, value in values["training"].items() if key not in _NO_IDENTITY
        }
        return dict(flat(values))


def provenance_warning(there: RunConfig, now: Provenance) -> str | None:
    """A warning with the differences between a run's provenance and ``now``; None without differences."""
    changes = there.contributing[-1].changes(now)
    if not changes:
        return None
    listed = "; ".join(f"{_WORDS[key]} ({change})" for key, change in changes.items())
    bits = (
        ""
        if set(changes) <= set(_PLACES)
        else " The result may differ in rounding from an uninterrupted run."
    )
    return f"resumed at step {now.from_step}, with changes: {listed}.{bits}"
