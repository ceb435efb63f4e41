"""A question's grid: what its settings file asks for, as splits, runs and tables with their files and arguments.

The Snakefile makes what this module names. A run's name holds what decides its result: the split, and a digest of its
recipe. So questions that ask for the same run share it, and a recipe that changes gets new runs.
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
from psptool.data.skeletons.datasets import DATASETS
from psptool.data.splits.making import SplitRequest, default_view, request_name
from psptool.evaluation.table import RunScores
from psptool.schemas.base import Strict, describe
from psptool.schemas.recipes import resolve
from psptool.schemas.scores import Part, Scores, file_name
from psptool.schemas.split import Family, ProtocolName
from psptool.schemas.training import Method, TrainingConfig
from psptool.training.runs.folder import RunFolder

RESULTS = Path(__file__).parent / "results"

# The command line gives one path or protocol as a word.
Words = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
# The shell leaves the ~ of raw=~/all_sqe to us.
GridPath = Annotated[str, AfterValidator(lambda value: str(Path(value).expanduser()))]


class Resources(Strict):
    """What one job of a rule needs. On one machine only `threads` counts; Slurm is asked for all of it."""

    threads: int = Field(2, ge=1, description="Cores")
    mem_mb: int = Field(4000, ge=1, description="Memory, MB")
    runtime: int = Field(
        60, ge=1, description="Minutes; a training that takes longer goes on in a second job"
    )
    gpu: int = Field(0, ge=0, description="Graphics cards")


class RuleResources(Strict):
    """Resources by rule."""

    prepare: Resources = Resources()
    run: Resources = Resources()


class MadeUp(Strict):
    """Recordings that psptool makes up, as `psptool.formats.synthesis.names.clip_names` takes them."""

    actions: tuple[int, ...]
    train_subjects: int
    test_subjects: int
    repetitions: tuple[int, ...] = (1,)


class MethodSettings(Strict):
    """One row of a table: a recipe, and where it is not the grid's, how many labels it gets and which draws."""

    method: Method
    preset: str
    set: tuple[str, ...] = Field((), description="Changes of the preset, as psptool train --set takes them")
    ratios: tuple[float, ...] | None = None
    counts: tuple[int, ...] | None = None
    draws: tuple[int, ...] | None = None


class GridSettings(Strict):
    """A settings file, with what ``snakemake --config`` changes of it."""

    question: str = Field(description="Names the tables, and the folder of the scores collected")
    dataset: str = Field(pattern="^(ucla|ntu)$", description="What psptool prepare calls the recordings")
    data: str = Field(description="Name of the prepared dataset's file, without .h5")
    raw: Annotated[tuple[GridPath, ...], Words] = Field((), description="Folders and archives of recordings")
    made_up: MadeUp | None = Field(None, description="Recordings to make up, in place of `raw`")
    out: GridPath = Field("grids", description="Where all goes; questions may share it, and then share runs")
    protocols: Annotated[tuple[ProtocolName, ...], Words] = Field(min_length=1, description="A table each")
    test_view: int | None = None
    family: Family = "per-class"
    validation: str | None = Field(
        None, description="A rule such as view=2: its clips are scored, no test clip"
    )
    ratios: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    draws: tuple[int, ...] = Field(min_length=1)
    set: Annotated[tuple[str, ...], Words] = Field(
        (), description="Changes of every method's recipe, under its own"
    )
    methods: dict[str, MethodSettings] = Field(min_length=1)
    only: Annotated[tuple[str, ...], Words] = Field((), description="Methods to take; all by default")
    against: Annotated[tuple[str, ...], Words] = Field((), description="Methods to compare the others with")
    device: str = "auto"
    resources: RuleResources = RuleResources()
    known: Annotated[tuple[GridPath, ...], Words] = Field(
        (), description="Folders of collected scores, whose runs count as finished"
    )
    results: GridPath = Field(str(RESULTS), description="Where `collect` puts scores")

    @model_validator(mode="after")
    def _recordings_come_from_somewhere(self) -> Self:
        if bool(self.raw) == (self.made_up is not None):
            raise ValueError("name the recordings with --config raw=PATH (or give made_up, one of the two)")
        return self

    @model_validator(mode="after")
    def _labels_are_counted(self) -> Self:
        if not (self.ratios or self.counts):
            raise ValueError("give ratios or counts of labels")
        return self

    @model_validator(mode="after")
    def _names_methods_that_there_are(self) -> Self:
        named = [*(("against", name) for name in self.against), *(("only", name) for name in self.only)]
        for key, name in named:
            if name not in self.methods:
                near = suggest(name, self.methods)
                raise ValueError(f"{key} names no method: {name!r}" + (f" ({near})" if near else ""))
        return self

    @property
    def chosen(self) -> dict[str, MethodSettings]:
        """The methods to take, by name."""
        return {name: method for name, method in self.methods.items() if name in (self.only or self.methods)}


@dataclass(frozen=True)
class Draw:
    """One split.

    Attributes:
        name: Its file's, without ending.
        arguments: Of ``psptool split``, all but the files.
    """

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One training and its scores.

    Attributes:
        name: Of its folder.
        split: The split's name.
        arguments: Of ``psptool train``, all but the files and the device.
    """

    name: str
    split: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """All that a question needs.

    Attributes:
        settings: What was asked.
        draws: By name.
        runs: By name.
        tables: By the table's name and the method's, the names of its runs.
    """

    settings: GridSettings
    draws: Mapping[str, Draw]
    runs: Mapping[str, Run]
    tables: Mapping[str, Mapping[str, tuple[str, ...]]]

    @property
    def part(self) -> Part:
        """The clips that are scored."""
        return "test" if self.settings.validation is None else "validation"

    @property
    def scores_name(self) -> str:
        """Name of the scores' file in a run's folder."""
        return file_name("scores", ".json", self.part)

    @property
    def raw(self) -> list[str]:
        """Where the recordings lie."""
        return list(self.settings.raw) or [f"{self.settings.out}/recordings/{self.settings.data}.zip"]

    @property
    def data(self) -> str:
        """The prepared dataset."""
        return f"{self.settings.out}/data/{self.settings.data}.h5"

    def split(self, name: str) -> str:
        """A split's file."""
        return f"{self.settings.out}/splits/{name}.json"

    def folder(self, name: str) -> str:
        """A run's folder."""
        return f"{self.settings.out}/runs/{name}"

    def own_scores(self, name: str) -> str:
        """The scores in a run's own folder."""
        return f"{self.folder(name)}/{self.scores_name}"

    def scores(self, name: str) -> str:
        """A run's scores: its own, or those in a folder of known scores where it has none yet."""
        own = self.own_scores(name)
        if Path(own).exists():
            return own
        known = (Path(folder) / f"{name}.json" for folder in self.settings.known)
        return str(next((path for path in known if path.exists()), own))

    def table(self, name: str) -> list[str]:
        """The names of a table's runs, each once, row by row."""
        return list(dict.fromkeys(run for runs in self.tables[name].values() for run in runs))

    def finished(self, table: str) -> list[str]:
        """Runs of a table that have scores."""
        return [name for name in self.table(table) if Path(self.scores(name)).exists()]

    def bases(self, table: str) -> list[list[str]]:
        """Scores of each row to compare with, of those that are taken."""
        rows = self.tables[table]
        return [[self.scores(run) for run in rows[name]] for name in self.settings.against if name in rows]


def read_grid(config: Mapping[str, Any]) -> Grid:
    """The grid that a settings file asks for.

    Args:
        config: The file's mapping, with the changes of the command line.

    Raises:
        PspError: A key that does not exist, a value that does not fit, a recipe that is none.
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
        raise PspError(f"settings: {describe(error)}", fix="Mend the values named here.") from error
    recipes = {name: _recipe(name, method, settings.set) for name, method in settings.chosen.items()}
    draws, runs, tables = dict[str, Draw](), dict[str, Run](), dict[str, dict[str, tuple[str, ...]]]()
    for protocol in settings.protocols:
        rows = tables[_table_name(settings, protocol)] = {}
        for name, method in settings.chosen.items():
            cells = list(_cells(settings, method, protocol, *recipes[name]))
            draws.update({draw.name: draw for draw, _ in cells})
            runs.update({run.name: run for _, run in cells})
            rows[name] = tuple(run.name for _, run in cells)
    return Grid(settings, draws, runs, tables)


def _table_name(settings: GridSettings, protocol: str) -> str:
    """A table holds runs that may be compared: of one protocol, and scored on the same clips."""
    parts = [settings.question]
    if len(settings.protocols) > 1:
        parts.append(protocol)
    if settings.validation is not None:
        parts.append(f"val-{re.sub(r'[^0-9a-z.]', '-', settings.validation)}")
    return "-".join(parts)


def _cells(
    settings: GridSettings, method: MethodSettings, protocol: str, arguments: tuple[str, ...], digest: str
) -> Iterator[tuple[Draw, Run]]:
    """The draws and runs of a table's row; its recipe as arguments of ``psptool train``, and their digest."""
    for labels in _labels(settings, method):
        for seed in settings.draws if method.draws is None else method.draws:
            draw = _draw(settings, protocol, labels, seed)
            run = f"{draw.name}-{method.method}-{method.preset}-{digest[:8]}"
            yield draw, Run(run, draw.name, arguments)


def _labels(settings: GridSettings, method: MethodSettings) -> list[float | int]:
    """Shares of labels (fractions) and labelled clips a class (whole numbers)."""
    if method.ratios is None and method.counts is None:
        return [*settings.ratios, *settings.counts]
    return [*(method.ratios or ()), *(method.counts or ())]


def _recipe(name: str, method: MethodSettings, for_all: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Arguments of ``psptool train``, and the digest of the recipe that they give."""
    changes = (*for_all, *method.set)
    try:
        recipe = resolve(method=method.method, preset=method.preset, changes=changes)
    except PspError as error:
        raise PspError(f"settings, methods.{name}: {error}") from error
    sets = (word for change in changes for word in ("--set", change))
    return ("--method", method.method, "--preset", method.preset, *sets), _digest(recipe)


def _digest(recipe: TrainingConfig) -> str:
    """SHA-256 in hexadecimal of what the recipe changes of the defaults: a setting that psptool gains is no change."""
    changes = recipe.model_dump(mode="json", exclude_defaults=True)
    return hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()


def _draw(settings: GridSettings, protocol: str, labels: float | int, seed: int) -> Draw:
    """A split's name and arguments."""
    request = SplitRequest(
        ratio=None if isinstance(labels, int) else labels,
        count=labels if isinstance(labels, int) else None,
        protocol=protocol,
        family=settings.family,
        seed=seed,
        test_view=settings.test_view,
        validation=settings.validation,
    )
    dataset = DATASETS.get(settings.dataset)
    name = request_name(settings.data, request, None if dataset is None else default_view(dataset))
    asked = dataclasses.asdict(request).items()
    words = ((f"--{key.replace('_', '-')}", str(value)) for key, value in asked if value is not None)
    return Draw(name, tuple(word for pair in words for word in pair))


def make_up(made_up: MadeUp, target: Path) -> None:
    """Write made-up recordings into a zip archive, whole or not at all."""
    from psptool.formats.synthesis.names import clip_names
    from psptool.formats.synthesis.writing import write_ntu

    partial = target.with_name(f"partial-{target.name}")
    write_ntu(partial, clip_names(**made_up.model_dump()))
    partial.replace(target)


def collect(grid: Grid, table: str) -> tuple[Path, list[Path]]:
    """Copy the scores that a table's runs have so far into the folder of results.

    Returns:
        The folder, and the scores in it, in the order of the settings.

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
        print(f"{folder}: not of this grid: {', '.join(strays)}", file=sys.stderr)
    print(f"{folder}: scores of {len(copies)} of {len(grid.table(table))} runs")
    return folder, copies


def wait_for(run: Path) -> None:
    """Wait until no other process trains in a run's folder.

    A training outlives a Snakemake that is killed; whoever comes next lets it end and takes what it made.
    """
    RunFolder(run).wait()


def row(scores: Path) -> str:
    """What the table calls the row that these scores belong to."""
    return RunScores(scores, Scores.load(scores)).name


if __name__ == "__main__":
    # For the Snakefile's shell commands.
    called, path = sys.argv[1], Path(sys.argv[2])
    if called == "wait":
        wait_for(path)
    elif called == "row":
        print(row(path))
