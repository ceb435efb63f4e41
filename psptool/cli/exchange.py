"""``psptool export-data`` and ``psptool import``: datasets in the formats of PYSKL, CTR-GCN and ST-GCN."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from psptool.cli.console import choice, examples, note, say_json, table, warn
from psptool.cli.newest import DATASET, choose
from psptool.cli.progress import ProgressReport
from psptool.cli.split import suggest_split
from psptool.common.errors import PspError
from psptool.common.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psptool.exchange.contents import Contents
    from psptool.exchange.formats import ExchangeFormat
    from psptool.exchange.importing import Imported
    from psptool.exchange.positions import Coordinates
    from psptool.schemas.description import DatasetDescription
    from psptool.schemas.split import Split

EXPORT_EXAMPLES = examples(
    "psptool export-data --format pyskl",
    "psptool export-data --format stgcn --split splits/ucla-xview-0.05-s0.json",
    "psptool export-data --format pyskl --coordinates normalized --out n.pkl",
)
IMPORT_EXAMPLES = examples(
    "psptool import exchange/ucla.pkl --out data/imported.h5",
    "psptool import exchange/ucla --format stgcn --out data/imported.h5",
)
_AUTO = "auto"

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
Positions = Annotated[
    str | None,
    typer.Option(help="recorded, centred or normalized; default: by format."),
]


def export_data(
    form: Annotated[str, typer.Option("--format", metavar="pyskl|ctrgcn|stgcn", help="Format to write.")],
    data: Annotated[Path | None, typer.Option(help="The dataset; by default the newest in data/.")] = None,
    split: Annotated[
        Path | None,
        typer.Option(help="Export this split; by default all protocols (pyskl) or the first one."),
    ] = None,
    coordinates: Positions = None,
    out: Annotated[
        Path | None, typer.Option(help="The file or folder to write; by default in exchange/.")
    ] = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Allow cutting to 300 frames and two persons.")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Convert a dataset to the format of PYSKL, CTR-GCN or ST-GCN."""
    from psptool.data.splits.stored import require_same_clips
    from psptool.data.store.reading import open_store
    from psptool.data.store.verifying import verify
    from psptool.exchange.formats import FORMATS
    from psptool.exchange.losses import losses
    from psptool.exchange.parts import parts_of
    from psptool.schemas.split import Split

    chosen = FORMATS[choice(form, list(FORMATS), "--format")]
    positions = _coordinates(coordinates, chosen)
    wanted = None if split is None else Split.load(split)
    with open_store(choose(DATASET, data, None if wanted is None else wanted.dataset)) as store:
        if split is not None and wanted is not None:
            require_same_clips(store, split, wanted)
        parts = parts_of(store, chosen, wanted)
        path = out if out is not None else _named(store.manifest.description, chosen, wanted)
        lost = losses(store, chosen, parts, positions, wanted, lossy)
        files = chosen.files(path, list(parts))
        _check_free(files, force)
        for line in lost:
            warn(f"lost in the {chosen.name} format: {line}")
        verify(store)
        chosen.write(store, parts, positions, path)
    sizes = {part: len(clips) for part, clips in parts.items()}
    if as_json:
        said = {"format": chosen.name, "coordinates": positions, "parts": sizes, "lost": lost}
        say_json({"files": list(map(str, files)), **said})
        return
    for file in files:
        note(f"{file}: written")
    table(f"{path}: {positions} positions", list(sizes.items()))


def import_data(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Files, or folders of ST-GCN files.", show_default=False),
    ],
    form: Annotated[
        str, typer.Option("--format", help="pyskl, ctrgcn or stgcn; auto: by file name.")
    ] = _AUTO,
    coordinates: Positions = None,
    align: Annotated[str, typer.Option(help="Axes: body, robust, released (original) or none.")] = "body",
    out: Annotated[Path | None, typer.Option(help="The file to write; by default in data/.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Import a dataset of PYSKL, CTR-GCN or ST-GCN, and its splits."""
    from psptool.exchange.formats import FORMATS, format_of
    from psptool.exchange.importing import import_clips
    from psptool.schemas.dataset import Align, PreparationSettings

    asked = choice(form, [_AUTO, *FORMATS], "--format")
    settings = PreparationSettings(align=cast(Align, choice(align, get_args(Align), "--align")))
    # With --format too, so that a missing path is reported as such.
    formats = [format_of(file) if asked == _AUTO or not file.exists() else FORMATS[asked] for file in files]
    if len({one.name for one in formats}) > 1:
        found = ", ".join(f"{file} ({one.name})" for file, one in zip(files, formats, strict=True))
        raise PspError("files of different formats", found, "one format", "Import them one by one.")
    contents = [one.read(file) for file, one in zip(files, formats, strict=True)]
    positions = _coordinates_of(contents, coordinates, formats[0])
    for one in contents:
        for line in one.warnings:
            warn(line)
        if one.dtype.itemsize == 2:
            warn(f"{one.path}: positions in float16, whose precision at 3 m is about 1 mm")
    with ProgressReport("importing", "clips") as report:
        done = import_clips(
            contents,
            out,
            positions,
            settings,
            force=force,
            progress=report,
            splits=Path("splits"),
        )
    for line in done.absent:
        warn(line)
    _tell(done, formats[0], positions, as_json)


def _coordinates(asked: str | None, form: ExchangeFormat) -> Coordinates:
    from psptool.exchange.positions import Coordinates

    return cast("Coordinates", choice(asked or form.coordinates, get_args(Coordinates), "--coordinates"))


def _coordinates_of(contents: Sequence[Contents], asked: str | None, form: ExchangeFormat) -> Coordinates:
    """The kind of positions in the files: as given, else as the files say, else as the format's tools expect."""
    told = {one.coordinates or form.coordinates for one in contents if one.names} or {form.coordinates}
    if asked is None and len(told) > 1:
        found = ", ".join(f"{one.path} ({one.coordinates or form.coordinates})" for one in contents)
        raise PspError(
            "files with different kinds of positions", found, "one kind", "Import them one by one."
        )
    return _coordinates(asked or told.pop(), form)


def _named(dataset: DatasetDescription, form: ExchangeFormat, split: Split | None) -> Path:
    from psptool.data.splits.making import split_name

    return Path("exchange") / f"{dataset.name if split is None else split_name(split, dataset)}{form.ending}"


def _check_free(files: Sequence[Path], force: bool) -> None:
    there = [file for file in files if file.exists()]
    if there and not force:
        raise PspError(
            f"{there[0]}: exists already", fix="Choose another path with --out, or replace it with --force."
        )


def _tell(done: Imported, form: ExchangeFormat, coordinates: str, as_json: bool) -> None:
    report, counts = done.report, done.report.counts
    for line in done.lost:
        warn(f"not imported as a split: {line}")
    if counts.quarantined:
        some = "; ".join(f"{clip.name} ({clip.reason})" for clip in report.quarantined[:3])
        more = "; …" if counts.quarantined > 3 else ""
        warn(
            f"{counted(counts.quarantined, 'clip')} excluded (malformed): {some}{more}. "
            f"{done.report_path} gives the reason for each"
        )
    reasons = Counter(clip.reason for clip in (*report.skipped, *report.quarantined))
    numbers: dict[str, Any] = {
        "read": report.found,
        "kept": counts.clips,
        "skipped": counts.skipped,
        "quarantined": counts.quarantined,
        "further copies": report.repeated,
        "frames": counts.frames,
    }
    if as_json:
        said = {"format": form.name, "coordinates": coordinates, "dataset": report.dataset, **numbers}
        said |= {"left_out_by_reason": dict(reasons), "splits": list(map(str, done.splits))}
        said |= {"splits_not_kept": list(done.lost), "splits_without": list(done.absent)}
        say_json({"file": str(done.path), "report": str(done.report_path), **said})
        return
    renamed = {"quarantined": "excluded (malformed)", "further copies": "identical copies"}
    rows = [(renamed.get(key, key), value) for key, value in numbers.items()]
    rows += [(f"  {reason}", n) for reason, n in reasons.most_common()]
    table(f"{done.path}: {report.dataset}, from {coordinates} positions", rows)
    for file in done.splits:
        note(f"{file}: the file's split, all clips labelled")
    suggest_split(done.path)
