"""``psptool inspect`` and ``psptool validate``: the contents of a file, and the checks of a dataset."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psptool.cli.console import examples, grid, next_step, note, say, say_findings, say_json, table
from psptool.common.errors import PspError
from psptool.common.paths import MAX_JSON, newest_first, read_text
from psptool.common.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psptool.schemas.report import LeftOut
    from psptool.schemas.split import Split

INSPECT_EXAMPLES = examples(
    "psptool inspect data/ucla.h5",
    "psptool inspect splits/ucla-xview-0.05-s0.json --json",
    "psptool inspect data/ucla.report.json",
    "psptool inspect runs/ucla-xview-0.05-s0-psp-fast",
)
VALIDATE_EXAMPLES = examples(
    "psptool validate data/ucla.h5",
    "psptool validate data/ucla.h5 --json",
    "psptool validate splits/ucla-xview-0.05-s0.json",
    "psptool validate runs/ucla-xview-0.05-s0-psp-fast",
)

_LISTS = {
    "copied_files": "Identical copies",
    "skipped_files": "Skipped",
    "quarantined_clips": "Excluded (malformed)",
    "unusable_files": "Not used",
}
"""Values that are listed after the table, by key, with their title."""
_ACCEPTED = "A dataset (.h5), a JSON file of psptool or a run folder."
File = Annotated[Path, typer.Argument(help=_ACCEPTED, show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def inspect(file: File, as_json: AsJson = False) -> None:
    """Show the contents of a dataset, a split, a report or a run."""
    _require_known(file)
    if file.is_dir():
        values, following = _run(file), ("psptool evaluate {}", file)
    elif file.suffix.lower() == ".json":
        values, following = _json(file)
    else:
        values, following = _dataset(file), ("psptool split --ratio 0.05 --data {}", file)
    if as_json:
        say_json(values)
        return
    table(str(file), _rows(values))
    for key, title in _LISTS.items():
        if listed := values.get(key):
            say(f"{title}:")
            for name, reason in listed.items():
                # The detail of a malformed clip begins with its file.
                say(f"  {reason}" if name in reason else f"  {name}: {reason}")
    if recordings := values.get("top_classes"):
        rows = [(one["recording"], one["class"], round(100 * one["probability"], 1)) for one in recordings]
        grid("", ("recording", "class", "probability %"), rows)
    next_step(*following)


def _require_known(file: Path) -> None:
    """Refuse a path that does not exist, and a folder that is not a run."""
    from psptool.schemas.base import binary_kind
    from psptool.training.runs.folder import RunFolder

    if not file.exists():
        raise PspError(f"{file}: there is no such file", fix="Check the path.")
    if file.is_dir() and not RunFolder(file).config.exists():
        raise PspError(
            f"{file}: not a run folder",
            "no config.json",
            fix=f"Give one of these: {_ACCEPTED[0].lower()}{_ACCEPTED[1:]}",
        )
    if file.is_file() and file.suffix.lower() not in (".json", ".h5", ".hdf5") and binary_kind(file) is None:
        raise PspError(
            f"{file}: not a file of psptool",
            expected=f"{_ACCEPTED[0].lower()}{_ACCEPTED[1:-1]}",
            fix="Descriptions are shown by psptool describe, raw recordings by psptool view.",
        )


def _rows(values: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Names and values of the table; numbers by reason are indented below their sum. Lists are printed after it."""
    from psptool.schemas.base import flat

    rows: list[tuple[str, object]] = []
    for key, value in values.items():
        if key in _LISTS or key == "top_classes" or key.endswith("_by_reason") or value is None:
            continue
        # In a split, the unlabelled clips are those whose label is not used.
        if key == "unlabelled" and "labelled" not in values:
            rows += [("without a label", value)] if value else []
            continue
        # Dotted keys are those of the file, as in --set.
        rows += [
            (
                name if "." in name else _in_words(name),
                ", ".join(map(str, one)) if isinstance(one, list) else one,
            )
            for name, one in flat({key: value})
            if one is not None
        ]
        rows += [(f"  {reason}", number) for reason, number in values.get(f"{key}_by_reason", {}).items()]
    return rows


def _in_words(key: str) -> str:
    """A key as the table shows it; ``--json`` keeps the key."""
    words = {
        "topology": "skeleton",
        "quarantined": "excluded (malformed)",
        "joined_tracks": "tracks joined",
        "dropped_tracks": "tracks dropped",
        "repeated": "identical copies",
    }
    return words.get(key, key.replace("_", " "))


def _dataset(path: Path) -> dict[str, Any]:
    from psptool.data.store.reading import open_store

    with open_store(path) as store:
        manifest = store.manifest
        joints = int(store.array("joint").shape[1])
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
        "unlabelled": counts.unlabelled,
        "interpolated_joints": counts.interpolated_joints,
        "unscaled": counts.unscaled,
        "topology": manifest.topology.name,
        "regions": [group.name for group in manifest.topology.regions],
        "parts": [group.name for group in manifest.topology.parts],
        "protocols": list(manifest.description.protocols),
        "joined_tracks": counts.joined_tracks,
        "dropped_tracks": counts.dropped_tracks,
        "settings": manifest.settings.model_dump(),
        "up": manifest.up,
        "fingerprints": manifest.fingerprints.model_dump(),
        "tool_version": manifest.tool_version,
    }


def _json(path: Path) -> tuple[dict[str, Any], tuple[str, Path]]:
    """The contents of a JSON file of psptool, and the next command, as for `next_step`."""
    from psptool.evaluation.table import table_options

    dataset = path.with_name(path.name.removesuffix(".report.json") + ".h5")
    shown: dict[str, tuple[Callable[[Path], dict[str, Any]], tuple[str, Path]]] = {
        "split": (_split, ("psptool train --split {}", path)),
        "report": (_report, ("psptool inspect {}", dataset)),
        "run": (lambda file: _run(file.parent), ("psptool evaluate {}", path.parent)),
        "scores": (_scores, ("psptool table {}", path)),
        "prediction": (_prediction, ("psptool view {}", path)),
        "timeline": (_timeline, ("psptool view {}", path)),
        "table": (_table, ("psptool table {}", Path("runs"))),
    }
    kind = _kind_of(path, list(shown))
    show, following = shown[kind]
    values = show(path)
    if kind == "scores":
        following = (f"psptool table {{}}{table_options(values['part'], values['weights'])}", path)
    return values, following


def _kind_of(path: Path, kinds: Sequence[str]) -> str:
    """The schema that shares most keys with the file; the first of ``kinds`` if the file is not a JSON object."""
    from psptool.schemas.published import artefacts

    try:
        values = json.loads(read_text(path, MAX_JSON))
    except (OSError, ValueError, RecursionError):
        return kinds[0]  # Reading it as such reports the error.
    keys = set(values) if isinstance(values, dict) else set()
    models = artefacts()

    def fit(kind: str) -> int:
        known = set(models[kind].model_fields)
        return len(keys & known) - len(keys - known)

    best = max(kinds, key=fit)
    if fit(best) < 0:
        raise PspError(
            f"{path}: not a file of psptool",
            f"keys {', '.join(sorted(keys)[:5])}",
            "a split, report, config.json, scores, prediction, timeline or table",
            "Raw recordings are shown by psptool view.",
        )
    return best


def _split(path: Path) -> dict[str, Any]:
    from psptool.data.splits.stored import summarize_split
    from psptool.schemas.split import Split

    return summarize_split(Split.load(path))


def _report(path: Path) -> dict[str, Any]:
    from psptool.schemas.report import PreparationReport

    report = PreparationReport.load(path)
    return {
        "dataset": report.dataset,
        "sources": ", ".join(report.sources),
        "found": report.found,
        "repeated": report.repeated,
        **report.counts.model_dump(),
        "copied_files": {copy: f"identical to {used}" for copy, used in report.copies},
        "skipped_by_reason": dict(Counter(clip.reason for clip in report.skipped).most_common()),
        "skipped_files": {clip.source: clip.reason for clip in report.skipped},
        "quarantined_by_reason": dict(Counter(clip.reason for clip in report.quarantined).most_common()),
        "quarantined_clips": {clip.name: clip.detail or clip.reason for clip in report.quarantined},
        "duplicate_pairs": len(report.duplicates),
        "notes": len(report.notes),
        "settings": report.settings.model_dump(),
        "tool_version": report.tool_version,
    }


def _scores(path: Path) -> dict[str, Any]:
    from psptool.schemas.scores import Scores

    return Scores.load(path).model_dump(mode="json", exclude={"format_version", "confusion"})


def _prediction(path: Path) -> dict[str, Any]:
    from psptool.schemas.prediction import Prediction

    found = Prediction.load(path)
    actions = Counter(clip.top[0].class_name for clip in found.clips)
    left_out = {"format_version", "classes", "clips", "unusable", "description"}
    return {
        **found.model_dump(mode="json", exclude=left_out),
        "clips": len(found.clips),
        **_unusable(found.unusable),
        "predicted": dict(actions.most_common()),
        "top_classes": [
            {
                "recording": clip.name,
                "class": clip.top[0].class_name,
                "probability": clip.top[0].probability,
            }
            for clip in found.clips
        ],
    }


def _unusable(files: Sequence[LeftOut]) -> dict[str, Any]:
    return {
        "unusable": len(files),
        "unusable_files": {file.source: file.detail or file.reason for file in files},
    }


def _timeline(path: Path) -> dict[str, Any]:
    from psptool.schemas.timeline import Timelines

    found = Timelines.load(path)
    windows = [window for recording in found.recordings for window in recording.windows]
    actions = Counter(window.top[0].class_name for window in windows if window.top)
    left_out = {"format_version", "classes", "recordings", "unusable", "description"}
    values = found.model_dump(mode="json", exclude=left_out)
    return {
        **values,
        "recordings": len(found.recordings),
        "windows": len(windows),
        **_unusable(found.unusable),
        "predicted": dict(actions.most_common()),
    }


def _table(path: Path) -> dict[str, Any]:
    from psptool.schemas.table import ScoreTable

    found = ScoreTable.load(path)
    values = found.model_dump(mode="json", exclude={"format_version", "groups", "differences", "warnings"})
    measures = {
        f"{group.labels} {group.name}": {name: spread.mean for name, spread in group.measures.items()}
        for group in found.groups
    }
    return {**values, "mean": measures}


def _run(folder: Path) -> dict[str, Any]:
    from psptool.schemas.scores import Scores
    from psptool.training.runs.folder import RunFolder

    run = RunFolder(folder).read_config()
    config: dict[str, Any] = {"dataset": run.dataset, "topology": run.topology.name}
    config |= run.model_dump(mode="json", exclude={"description", "format_version"})
    # By number, so that each value has its own key.
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
    """Check a dataset, split, run or report. Exit code 1 if something is wrong.

    A split is compared with its dataset in data/, if that is there.
    """
    _require_known(file)
    try:
        if file.is_dir():
            found = _run_findings(file)
        elif file.suffix.lower() == ".json":
            found = _json_findings(file)
        else:
            found = _dataset_findings(file)
    except PspError as error:
        found = [str(error)]
    # Findings about the whole file begin with its path already.
    findings = [finding.removeprefix(f"{file}: ") for finding in found]
    say_findings(file, "valid", findings, "valid: all checks passed", as_json)


def _dataset_findings(path: Path) -> list[str]:
    from psptool.data.store.validating import validate as check

    return list(map(str, check(path)))


def _json_findings(path: Path) -> list[str]:
    from psptool.schemas.published import artefacts
    from psptool.schemas.scores import Scores
    from psptool.schemas.split import Split

    kind = _kind_of(path, ("split", "report", "run", "scores", "prediction", "timeline", "table"))
    if kind == "run":
        return _run_findings(path.parent)
    if kind == "scores":
        Scores.load_consistent(path)
        return []
    found = artefacts()[kind].load(path)
    return _split_findings(found) if isinstance(found, Split) else []


def _split_findings(split: Split) -> list[str]:
    """Names that are not the dataset's, and differences to the split made anew from the dataset in data/."""
    from psptool.data.splits.stored import find_split_errors
    from psptool.data.store.reading import open_store
    from psptool.schemas import builtin
    from psptool.schemas.split import SPLIT_PARTS

    # The names of other datasets need not follow a pattern.
    parse = builtin.builtin_dataset(split.dataset).parse if split.dataset in builtin.dataset_names() else None
    findings = [
        f"{part}: {name} is not a clip name of {split.dataset}"
        for part in SPLIT_PARTS
        for name in getattr(split, part)
        if parse is not None and parse(name) is None
    ]
    for path in newest_first(Path("data").glob("*.h5")):
        with suppress(PspError), open_store(path) as store:
            if store.manifest.fingerprints.clips == split.clips_fingerprint:
                return findings + find_split_errors(store, split)
    note("not compared with its dataset, which is not in data/")
    return findings


def _run_findings(path: Path) -> list[str]:
    """What is wrong with a run's configuration, log, weights and scores."""
    import torch

    from psptool.evaluation.scoring import load_model
    from psptool.schemas.scores import Scores
    from psptool.training.runs.folder import RunFolder

    folder = RunFolder(path)
    config = folder.read_config()
    findings = []
    if bad := folder.count_bad_log_lines():
        findings.append(f"{folder.log}: {counted(bad, 'line')} at its end that cannot be read")
    for weights in filter(Path.exists, map(folder.weights, ("last", "best"))):
        try:
            load_model(config, weights, torch.device("cpu"))
        except PspError as error:
            findings.append(str(error))
    for file in sorted(path.glob("scores*.json")):
        try:
            scores = Scores.load_consistent(file)
        except PspError as error:
            findings.append(str(error))
            continue
        for key in ("dataset", "content_fingerprint", "clips_fingerprint", "seed"):
            if getattr(scores, key) != getattr(config, key):
                findings.append(f"{file}: {key} differs from {folder.config}")
    return findings
