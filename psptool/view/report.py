"""``report.html``: the page with the results of ``psptool evaluate``.

Notation for array shapes: N evaluated clips, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from psptool.common.errors import PspError
from psptool.common.text import counted
from psptool.data.store.reading import open_store
from psptool.evaluation import table as tables
from psptool.evaluation.api import EvaluatedClips
from psptool.evaluation.confusion import FEW_CLASSES, confusion_svg
from psptool.evaluation.rendering import cell, measure_title, splits, unit
from psptool.schemas.base import flat
from psptool.schemas.run import Provenance, RunConfig
from psptool.schemas.scores import Scores, file_name
from psptool.training.curves import curves_svgs
from psptool.training.runs.folder import RunFolder
from psptool.view.charts import Dots, dot_chart
from psptool.view.page import Table, percent, render, table
from psptool.view.scene import ViewedClip, page_data
from psptool.view.sources import stored
from psptool.view.viewer import PLAYER, legend, predicted

MOST_ERRORS = 6
"""Maximum number of wrongly classified clips in a report."""
CONFUSION_NOTE = (
    "Rows are true classes, columns predicted classes. Cells are in % of the clips of the true class."
)
DUPLICATES_NOTE = "A test clip has a duplicate if a training clip has exactly the same coordinates."


def report_page(run: Path, scores: Scores, clips: EvaluatedClips) -> str:
    """The report of one evaluation.

    Args:
        run: Folder of the run.
        scores: The scores.
        clips: The evaluated clips.

    Raises:
        PspError: A file of the run, or the dataset, cannot be read.
    """
    config = RunFolder(run).read_config()
    errors = _errors(clips, config)
    return render(
        "report.html",
        f"{run.resolve().name}: top-1 {percent(scores.top1)} %",
        lead=f"{counted(scores.clips, f'{scores.part} clip')} of {scores.dataset}, {scores.weights} checkpoint, "
        f"{scores.method}",
        scripts=[PLAYER] if errors else [],
        data=page_data(errors) if errors else None,
        tiles=_tiles(scores),
        accuracy=_accuracy(scores),
        duplicates=None if "top1_unseen" in scores.redundant else DUPLICATES_NOTE,
        splits=_splits(run, scores),
        confusion=Markup(confusion_svg(np.array(scores.confusion), config.class_names)),
        confusion_note=CONFUSION_NOTE,
        many_classes=len(scores.per_class) > FEW_CLASSES,
        per_class=[(name, value, True) for name, value in scores.per_class.items()],
        curves=[Markup(svg) for svg in _curves(RunFolder(run))],
        errors=[{"name": clip.name, "action": clip.action, "predicted": predicted(clip)} for clip in errors],
        entries=legend(errors),
        configuration=table((), _configuration(config)),
        provenance=table((), _provenance(config, scores)),
    )


def _tiles(scores: Scores) -> list[tuple[str, str]]:
    tiles = [(percent(scores.top1), "top-1 %, fusion of all streams")]
    if scores.shown_top5 is not None:
        tiles.append((percent(scores.shown_top5), "top-5 %"))
    if scores.top1_unseen is not None and "top1_unseen" not in scores.redundant:
        clips, classes = counted(scores.clips_unseen, "test clip"), len(scores.classes_unseen)
        text = f"top-1 % on {clips} without a duplicate in the training set, {counted(classes, 'class', 'classes')}"
        tiles.append((percent(scores.top1_unseen), text))
    return tiles


def _accuracy(scores: Scores) -> Table:
    rows = [(name, *map(percent, values)) for name, values in scores.accuracies.items()]
    return table(("", "top-1 %", "top-5 %")[: len(rows[0])], rows)


def _splits(run: Path, scores: Scores) -> Mapping[str, Any]:
    """This run and the runs in the same folder that differ from it only in the label split and seed."""
    own = tables.RunScores(run / file_name("scores", ".json", scores.part, scores.weights), scores)
    found = tables.build_table(tables.sibling_runs(own))
    (group,) = found.groups
    if len(group.draws) < 2:
        text = (
            "This is one label split. With another one, the accuracy may differ by several percentage points."
        )
        return {"text": text, "chart": None, "warnings": ()}
    rows = [
        Dots(
            measure_title(measure),
            [*zip((unit(found, name) for name in group.draws), spread.values, strict=True)],
            spread.mean,
            spread.deviation,
            cell(spread),
            strong=unit(found, own.unit_name),
        )
        for measure, spread in group.measures.items()
        if measure not in scores.redundant
    ]
    text = (
        f"{len(group.draws)} {splits(found)} of the same method in the same folder. That of this run is outlined. "
        "The vertical line is the mean, the band is mean ± standard deviation."
    )
    return {"text": text, "chart": dot_chart(rows), "warnings": found.warnings}


def _curves(folder: RunFolder) -> list[str]:
    """The learning curves as SVG; none if the log cannot be read."""
    try:
        return curves_svgs(folder.read_log())
    except PspError:
        return []


def _errors(clips: EvaluatedClips, config: RunConfig) -> list[ViewedClip]:
    """Up to `MOST_ERRORS` wrongly classified clips, the highest probability of the predicted class first."""
    probabilities = clips.logits.probabilities  # (N, K)
    predictions = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predictions != clips.labels)
    chosen = wrong[np.argsort(-probabilities[wrong, predictions[wrong]], kind="stable")]
    chosen = chosen[:MOST_ERRORS].tolist()
    if not chosen:
        return []
    with open_store(clips.data) as store:
        viewed = stored(store, [clips.names[n] for n in chosen]).clips
    return [
        # Only the normalized scene, which is the input of the network.
        replace(
            clip,
            scenes=clip.scenes[-1:],
            top=_top(probabilities[n], config.class_names, int(clips.labels[n])),
        )
        for n, clip in zip(chosen, viewed, strict=True)
    ]


def _top(
    probabilities: NDArray[np.floating], names: Sequence[str], label: int
) -> tuple[tuple[str, float], ...]:
    """The three most probable classes; if the true class is not among them, it replaces the third."""
    order = np.argsort(-probabilities, kind="stable").tolist()
    chosen = order[:3] if label in order[:3] else [*order[:2], label]
    return tuple((names[n], float(probabilities[n])) for n in chosen)


def _provenance(config: RunConfig, scores: Scores) -> list[tuple[str, str]]:
    rows = [
        ("dataset", f"{config.dataset}, {config.latest.data_path}"),
        ("split", f"{scores.split}, {config.latest.split_path}"),
        ("clips fingerprint", config.clips_fingerprint),
        ("content fingerprint", config.content_fingerprint),
        ("split digest", config.split_digest),
        ("seed", str(config.seed)),
        *(_trained(record, config.precision) for record in config.contributing),
        ("evaluated with", f"psptool {scores.tool_version}"),
    ]
    return rows + [(f"preparation {key}", str(value)) for key, value in config.preparation]


def _trained(record: Provenance, precision: str) -> tuple[str, str]:
    since = f" from step {record.from_step}" if record.from_step else ""
    source = "" if record.commit is None else f", commit {record.commit[:12]}"
    return f"trained{since} on", f"{record.computed_on}, {precision}, psptool {record.tool_version}{source}"


def _configuration(config: RunConfig) -> list[tuple[str, str]]:
    return [
        (key, _setting(value))
        for key, value in flat(config.training.model_dump(mode="json"))
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    ]


def _setting(value: object) -> str:
    """A setting as text; the values of lists are separated by commas, pairs in them joined by ``-``."""
    if not isinstance(value, list):
        return str(value)
    return ", ".join("-".join(map(str, part)) if isinstance(part, list) else str(part) for part in value)
