"""``psptool inspect`` and ``psptool validate``: what a file holds, and whether a dataset is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from psptool.cli.console import examples, next_step, say_findings, say_json, table
from psptool.common.errors import PspError

INSPECT_EXAMPLES = examples(
    "psptool inspect data/ucla.h5",
    "psptool inspect splits/ucla-xview-0.05-s0.json --json",
    "psptool inspect runs/ucla-xview-0.05-s0-psp-small",
)
VALIDATE_EXAMPLES = examples("psptool validate data/ucla.h5", "psptool validate data/ucla.h5 --json")

File = Annotated[
    Path, typer.Argument(help="A dataset (.h5), a split (.json) or a run's folder.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def inspect(file: File, as_json: AsJson = False) -> None:
    """Show what a dataset, a split or a run holds."""
    if not file.exists():
        raise PspError(f"{file}: there is no such file", fix="Check the path.")
    from psptool.schemas.base import flat

    if file.is_dir():
        values, following = _run(file), f"psptool evaluate {file}"
    elif file.suffix == ".json":
        values, following = _split(file), f"psptool train --split {file}"
    else:
        values, following = _dataset(file), f"psptool split --ratio 0.05 --data {file}"
    if as_json:
        say_json(values)
        return
    table(str(file), [(key, value) for key, value in flat(values) if value is not None])
    next_step(following)


def _dataset(path: Path) -> dict[str, Any]:
    from psptool.data.store.reading import open_store

    with open_store(path) as store:
        manifest = store.manifest
        joints = int(store.clip(0).joint.shape[2])
        counts = manifest.counts
    return {
        "dataset": manifest.dataset,
        "clips": counts.clips,
        "frames": counts.frames,
        "rows": counts.rows,
        "joints": joints,
        "classes": len(manifest.class_names),
        "quarantined": counts.quarantined,
        "skipped": counts.skipped,
        "duplicates": counts.duplicates,
        "interpolated_joints": counts.interpolated_joints,
        "unscaled": counts.unscaled,
        "topology": manifest.topology,
        "joined_tracks": counts.joined_tracks,
        "dropped_tracks": counts.dropped_tracks,
        "settings": manifest.settings.model_dump(),
        "up": manifest.up,
        "fingerprints": manifest.fingerprints.model_dump(),
        "tool_version": manifest.tool_version,
    }


def _split(path: Path) -> dict[str, Any]:
    from psptool.data.splits.stored import summarize_split
    from psptool.schemas.split import Split

    return summarize_split(Split.load(path))


def _run(folder: Path) -> dict[str, Any]:
    from psptool.schemas.run import RunConfig
    from psptool.schemas.scores import Scores

    config = RunConfig.load(folder / "config.json").model_dump(
        mode="json", exclude={"class_names", "format_version"}
    )
    # Numbered, so that each value has a key of its own.
    config["provenance"] = dict(enumerate(config["provenance"], 1))
    training = config.pop("training")
    recipe = {key: training.pop(key) for key in ("method", "preset")}
    scores = folder / "scores.json"
    values = {**config, **recipe, "training": training}
    if scores.exists():
        found = Scores.load(scores)
        values["scores"] = {"top1": found.top1, "top5": found.top5, "top1_unseen": found.top1_unseen}
    return values


def validate(file: File, as_json: AsJson = False) -> None:
    """Check all that a dataset's format promises. Code 1 on findings."""
    from psptool.data.store.validating import validate as check

    if not file.exists():
        raise PspError(f"{file}: there is no such file", fix="Check the path.")
    # What is wrong with the file as a whole names it already.
    findings = [str(finding).removeprefix(f"{file}: ") for finding in check(file)]
    say_findings(file, "valid", findings, "keeps all that the format promises", as_json)
