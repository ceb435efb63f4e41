"""Grids of experiments: the splits, runs and tables of a settings file, with their paths and command-line arguments.

The Snakefile runs them. The name of a run has its split and a digest of its training configuration. Grids with the same
run therefore share it, and a changed configuration gives new runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from typing_extensions import Self

from psptool.common.atomic_write import write_whole
from psptool.common.errors import PspError, suggest
from psptool.common.text import counted
from psptool.data.splits.making import SplitRequest, request_name
from psptool.data.splits.protocols import default_view, leave_one_out_of
from psptool.evaluation.table import RunScores
from psptool.schemas import builtin
from psptool.schemas.base import Strict, describe
from psptool.schemas.protocols import LeaveOneOut
from psptool.schemas.recipes import resolve
from psptool.schemas.scores import Part, Scores, file_name
from psptool.schemas.split import Family, ProtocolName
from psptool.schemas.training import Method, TrainingConfig
from psptool.training.runs.folder import RunFolder

RESULTS = Path(__file__).parent / "results"

# On the command line, a single path or protocol is a string.
Words = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
# The shell does not expand the ~ in raw=~/all_sqe.
GridPath = Annotated[str, AfterValidator(lambda value: str(Path(value).expanduser()))]


class Resources(Strict):
    """Resources of one job of a rule. On a single machine only `threads` and `gpu` are used; Slurm uses all."""

    threads: int = Field(2, ge=1, description="Cores")
    mem_mb: int = Field(4000, ge=1, description="Memory, MB")
    runtime: int = Field(60, ge=1, description="Minutes; a longer training resumes in another job")
    gpu: int = Field(0, ge=0, description="GPUs")


class RuleResources(Strict):
    """Resources by rule."""

    prepare: Resources = Resources()
    run: Resources = Resources()


class Synthetic(Strict):
    """Arguments of `psptool.formats.synthesis.names.clip_names` for synthetic recordings."""

    actions: tuple[int, ...]
    train_subjects: int
    test_subjects: int
    repetitions: tuple[int, ...] = (1,)


class MethodSettings(Strict):
    """A method: a training configuration, and its own label amounts and split seeds if they differ from the grid's."""

    method: Method
    preset: str
    set: tuple[str, ...] = Field((), description="Changes of the preset, as in psptool train --set")
    ratios: tuple[float, ...] | None = None
    counts: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None


class GridSettings(Strict):
    """A settings file with the changes of ``snakemake --config``."""

    question: str = Field(description="Name of the tables and of the folder of collected scores")
    dataset: str = Field(description="The dataset, as in psptool prepare: a name or a YAML file")
    data: str = Field(description="File name of the prepared dataset, without .h5")
    raw: Annotated[tuple[GridPath, ...], Words] = Field((), description="Folders and archives of recordings")
    synthetic: Synthetic | None = Field(None, description="Synthetic recordings instead of `raw`")
    out: GridPath = Field("grids", description="Output folder; grids with the same folder share runs")
    protocols: Annotated[tuple[ProtocolName, ...], Words] = Field(
        min_length=1, description="One table per protocol; folds of leave-one-out have one table together"
    )
    test_view: int | None = None
    family: Family = "per-class"
    validation: str | None = Field(
        None, description="A rule such as view=2: evaluate on these validation clips, not on test clips"
    )
    ratios: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    seeds: tuple[int, ...] = Field(min_length=1, description="Seeds of the label splits")
    set: Annotated[tuple[str, ...], Words] = Field(
        (), description="Changes of all presets; those of a method take precedence"
    )
    methods: dict[str, MethodSettings] = Field(min_length=1)
    only: Annotated[tuple[str, ...], Words] = Field((), description="Methods to run; all by default")
    against: Annotated[tuple[str, ...], Words] = Field((), description="Reference methods of the differences")
    device: str = "auto"
    resources: RuleResources = RuleResources()
    known: Annotated[tuple[GridPath, ...], Words] = Field(
        (), description="Folders of collected scores; their runs count as finished"
    )
    results: GridPath = Field(str(RESULTS), description="Folder of collected scores")

    @model_validator(mode="after")
    def _check_recordings(self) -> Self:
        if bool(self.raw) == (self.synthetic is not None):
            raise ValueError("give the recordings with --config raw=PATH (or give synthetic, one of the two)")
        return self

    @model_validator(mode="after")
    def _check_protocols(self) -> Self:
        try:
            datasets = builtin.find_datasets(self.dataset)
        except PspError as error:
            raise ValueError(f"dataset: {error}") from error
        known = {name: rule for dataset in datasets for name, rule in dataset.protocols.items()}
        expected = [
            f"{name}-VALUE" if isinstance(rule, LeaveOneOut) else name for name, rule in known.items()
        ]
        for name in self.protocols:
            if name not in expected and not any(leave_one_out_of(dataset, name) for dataset in datasets):
                raise ValueError(f"protocols: found {name!r}, expected one of {', '.join(expected)}")
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if not (self.ratios or self.counts):
            raise ValueError("give ratios or counts of labels")
        return self

    @model_validator(mode="after")
    def _check_method_names(self) -> Self:
        named = [*(("against", name) for name in self.against), *(("only", name) for name in self.only)]
        for key, name in named:
            if name not in self.methods:
                near = suggest(name, self.methods)
                raise ValueError(
                    f"{key} has no method of this name: {name!r}" + (f" ({near})" if near else "")
                )
        return self

    @property
    def chosen(self) -> dict[str, MethodSettings]:
        """The methods to run, by name."""
        return {name: method for name, method in self.methods.items() if name in (self.only or self.methods)}


@dataclass(frozen=True)
class LabelSplit:
    """One label split.

    Attributes:
        name: File name without extension.
        arguments: Arguments of ``psptool split``, without paths.
    """

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One training and its scores.

    Attributes:
        name: Name of its folder.
        split: Name of its label split.
        arguments: Arguments of ``psptool train``, without paths and device.
    """

    name: str
    split: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """The label splits, runs and tables of a settings file.

    Attributes:
        settings: The settings.
        splits: Label splits by name.
        runs: Runs by name.
        tables: Names of runs, by table and method.
    """

    settings: GridSettings
    splits: Mapping[str, LabelSplit]
    runs: Mapping[str, Run]
    tables: Mapping[str, Mapping[str, tuple[str, ...]]]

    @property
    def part(self) -> Part:
        """The evaluated part of the splits."""
        return "test" if self.settings.validation is None else "validation"

    @property
    def scores_name(self) -> str:
        """File name of the scores in a run folder."""
        return file_name("scores", ".json", self.part)

    @property
    def raw(self) -> list[str]:
        """Paths of the recordings."""
        return list(self.settings.raw) or [f"{self.settings.out}/recordings/{self.settings.data}.zip"]

    @property
    def data(self) -> str:
        """Path of the prepared dataset."""
        return f"{self.settings.out}/data/{self.settings.data}.h5"

    def split_file(self, name: str) -> str:
        """Path of a label split."""
        return f"{self.settings.out}/splits/{name}.json"

    def folder(self, name: str) -> str:
        """Path of the folder of a run."""
        return f"{self.settings.out}/runs/{name}"

    def own_scores(self, name: str) -> str:
        """Path of the scores in the folder of a run."""
        return f"{self.folder(name)}/{self.scores_name}"

    def scores(self, name: str) -> str:
        """Path of the scores of a run: in its folder if they exist, otherwise in a folder of known scores."""
        own = self.own_scores(name)
        if Path(own).exists():
            return own
        known = (Path(folder) / f"{name}.json" for folder in self.settings.known)
        return str(next((path for path in known if path.exists()), own))

    def table(self, name: str) -> list[str]:
        """Names of the runs of a table without repetition, method by method."""
        return list(dict.fromkeys(run for runs in self.tables[name].values() for run in runs))

    def finished(self, table: str) -> list[str]:
        """Names of the runs of a table that have scores."""
        return [name for name in self.table(table) if Path(self.scores(name)).exists()]

    def bases(self, table: str) -> list[list[str]]:
        """Scores files of each reference method that is run."""
        rows = self.tables[table]
        return [[self.scores(run) for run in rows[name]] for name in self.settings.against if name in rows]


def read_grid(config: Mapping[str, Any]) -> Grid:
    """The grid of a settings file.

    Args:
        config: Content of the file, with the changes of the command line.

    Raises:
        PspError: Unknown key, invalid value, or invalid training configuration.
    """
    for key in config:
        if key not in GridSettings.model_fields:
            raise PspError(
                f"settings: there is no key {key!r}",
                expected=f"keys among {', '.join(GridSettings.model_fields)}",
                fix=suggest(str(key), GridSettings.model_fields),
            )
    try:
        settings = GridSettings.model_validate(dict(config))
    except ValidationError as error:
        raise PspError(f"settings: {describe(error)}", fix="Fix the values listed above.") from error
    configurations = {
        name: _configuration(name, method, settings.set) for name, method in settings.chosen.items()
    }
    splits, runs, tables = dict[str, LabelSplit](), dict[str, Run](), dict[str, dict[str, tuple[str, ...]]]()
    for protocol in settings.protocols:
        rows = tables.setdefault(_table_name(settings, protocol), {})
        for name, method in settings.chosen.items():
            cells = list(_cells(settings, method, protocol, *configurations[name]))
            splits.update({split.name: split for split, _ in cells})
            runs.update({run.name: run for _, run in cells})
            rows[name] = (*rows.get(name, ()), *(run.name for _, run in cells))
    return Grid(settings, splits, runs, tables)


def _table_name(settings: GridSettings, protocol: str) -> str:
    """Name of a table. Its runs are comparable: same protocol, and evaluated on the same clips in each fold."""
    dataset = builtin.find_datasets(settings.dataset)[-1]
    named = {one: leave_one_out_of(dataset, one) or one for one in settings.protocols}
    parts = [settings.question]
    if len(set(named.values())) > 1:
        parts.append(named[protocol])
    if settings.validation is not None:
        parts.append(f"val-{re.sub(r'[^0-9a-z.]', '-', settings.validation)}")
    return "-".join(parts)


def _cells(
    settings: GridSettings, method: MethodSettings, protocol: str, arguments: tuple[str, ...], digest: str
) -> Iterator[tuple[LabelSplit, Run]]:
    """Label splits and runs of a method; ``digest`` identifies its training configuration."""
    for labels in _labels(settings, method):
        for seed in settings.seeds if method.seeds is None else method.seeds:
            split = _label_split(settings, protocol, labels, seed)
            run = f"{split.name}-{method.method}-{method.preset}-{digest[:8]}"
            yield split, Run(run, split.name, arguments)


def _labels(settings: GridSettings, method: MethodSettings) -> list[float | int]:
    """Label amounts: ratios (float) and labelled clips per class (int)."""
    if method.ratios is None and method.counts is None:
        return [*settings.ratios, *settings.counts]
    return [*(method.ratios or ()), *(method.counts or ())]


def _configuration(name: str, method: MethodSettings, for_all: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Arguments of ``psptool train``, and the digest of the resulting training configuration."""
    changes = (*for_all, *method.set)
    try:
        configuration = resolve(method=method.method, preset=method.preset, changes=changes)
    except PspError as error:
        raise PspError(f"settings, methods.{name}: {error}") from error
    sets = (word for change in changes for word in ("--set", change))
    return ("--method", method.method, "--preset", method.preset, *sets), _digest(configuration)


def _digest(configuration: TrainingConfig) -> str:
    """SHA-256 of the settings that differ from the defaults, so that new settings of psptool do not change it.

    Without a teacher, its settings have no effect. They are left out, so that another teacher in a preset does not
    change the names of supervised runs.
    """
    unused = set() if configuration.has_teacher else {"teacher"}
    changes = configuration.model_dump(mode="json", exclude_defaults=True, exclude=unused)
    return hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()


def _label_split(settings: GridSettings, protocol: str, labels: float | int, seed: int) -> LabelSplit:
    """Name and arguments of a label split."""
    request = SplitRequest(
        ratio=None if isinstance(labels, int) else labels,
        count=labels if isinstance(labels, int) else None,
        protocol=protocol,
        family=settings.family,
        seed=seed,
        test_view=settings.test_view,
        validation=settings.validation,
    )
    dataset = builtin.find_datasets(settings.dataset)[-1]
    name = request_name(settings.data, request, default_view(dataset, protocol))
    options = dataclasses.asdict(request).items()
    words = ((f"--{key.replace('_', '-')}", str(value)) for key, value in options if value is not None)
    return LabelSplit(name, tuple(word for pair in words for word in pair))


def synthesize(settings: Synthetic, target: Path) -> None:
    """Write synthetic recordings to a zip archive, atomically."""
    from psptool.formats.synthesis.names import clip_names
    from psptool.formats.synthesis.writing import write_ntu

    partial = target.with_name(f"partial-{target.name}")
    write_ntu(partial, clip_names(**settings.model_dump()))
    partial.replace(target)


def collect(grid: Grid, table: str) -> tuple[Path, list[Path]]:
    """Copy the scores of the finished runs of a table to the results folder.

    Returns:
        The folder, and the copied scores files in the order of the settings.

    Raises:
        PspError: No run has scores.
    """
    folder = Path(grid.settings.results) / table
    finished = grid.finished(table)
    if not finished:
        raise PspError(f"{table}: no run has scores yet", fix="Run the grid first.")
    copies = [folder / f"{name}.json" for name in finished]
    for name, copy in zip(finished, copies, strict=True):
        write_whole(copy, Path(grid.scores(name)).read_bytes())
    strays = sorted({path.name for path in folder.glob("*.json")} - {copy.name for copy in copies})
    if strays:
        print(f"{folder}: files that do not belong to this grid: {', '.join(strays)}", file=sys.stderr)
    print(f"{folder}: scores of {len(copies)} of {counted(len(grid.table(table)), 'run')}")
    return folder, copies


def wait_for(run: Path) -> None:
    """Wait until no other process trains in the folder of a run.

    A training may continue after its Snakemake process was killed. Its result is used.
    """
    RunFolder(run).wait()


def row(scores: Path) -> str:
    """The name of the method of these scores in a table."""
    return RunScores(scores, Scores.load(scores)).name


if __name__ == "__main__":
    # For the Snakefile's shell commands.
    called, path = sys.argv[1], Path(sys.argv[2])
    if called == "wait":
        wait_for(path)
    elif called == "row":
        print(row(path))
