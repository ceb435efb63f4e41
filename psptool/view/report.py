"""``report.html`` in a run's folder: the results of `psptool evaluate` as a page.

Notation for array shapes: N clips of the part that was scored, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from psptool.common.errors import PspError
from psptool.data.store.reading import open_store
from psptool.evaluation import table as tables
from psptool.evaluation.api import Scored
from psptool.evaluation.confusion import FEW_CLASSES, confusion_svg
from psptool.evaluation.rendering import cell, measure_title
from psptool.evaluation.scoring import softmax
from psptool.schemas.base import flat
from psptool.schemas.run import Provenance, RunConfig
from psptool.schemas.scores import Scores, file_name
from psptool.training.curves import curves_svgs
from psptool.training.runs.folder import RunFolder
from psptool.view.charts import Dots, dot_chart
from psptool.view.page import Table, count, percent, render, table
from psptool.view.scene import ViewedClip, page_data
from psptool.view.sources import stored
from psptool.view.viewer import PLAYER, legend, predicted

MOST_ERRORS = 6
"""Wrongly classified clips in a report."""
CONFUSION_NOTE = "Each cell is the % of the true class's clips that are predicted as the column's class."
DUPLICATES_NOTE = "A test clip has a duplicate if a training clip has exactly the same coordinates."


def report_page(run: Path, scores: Scores, scored: Scored) -> str:
    """The report of one evaluation.

    Args:
        run: The run's folder.
        scores: As written to it.
        scored: The clips behind them.

    Raises:
        PspError: A file of the run, or the dataset, cannot be read.
    """
    config = RunFolder(run).read_config()
    errors = _errors(scored, config)
    return render(
        "report.html",
        f"{run.resolve().name}: {percent(scores.top1)} %",
        lead=f"{count(scores.clips, f'{scores.part} clip')} of {scores.dataset}, {scores.weights} checkpoint, "
        f"{scores.method}",
        scripts=[PLAYER] if errors else [],
        data=page_data(errors) if errors else None,
        tiles=_tiles(scores),
        accuracy=_accuracy(scores),
        duplicates=None if scores.top1_unseen is None else DUPLICATES_NOTE,
        splits=_splits(run, scores),
        confusion=Markup(confusion_svg(np.array(scores.confusion), config.class_names)),
        confusion_note=CONFUSION_NOTE,
        many_classes=len(scores.per_class) > FEW_CLASSES,
        per_class=[(name, share, True) for name, share in scores.per_class.items()],
        curves=[Markup(svg) for svg in _curves(RunFolder(run).log)],
        errors=[{"name": clip.name, "action": clip.action, "predicted": predicted(clip)} for clip in errors],
        entries=legend(errors),
        configuration=table((), _configuration(config)),
        provenance=table((), _provenance(config, scores)),
    )


def _tiles(scores: Scores) -> list[tuple[str, str]]:
    tiles = [(percent(scores.top1), "top-1 %, all streams"), (percent(scores.top5), "top-5 %")]
    if scores.top1_unseen is not None:
        clips, classes = count(scores.clips_unseen, "test clip"), len(scores.classes_unseen)
        said = f"top-1 % on {clips} without a duplicate in the training set, {count(classes, 'class', 'classes')}"
        tiles.append((percent(scores.top1_unseen), said))
    return tiles


def _accuracy(scores: Scores) -> Table:
    rows = [
        ("all streams", percent(scores.top1), percent(scores.top5)),
        *((f"{name} stream", percent(own.top1), percent(own.top5)) for name, own in scores.streams.items()),
    ]
    return table(("", "top-1 %", "top-5 %"), rows)


def _splits(run: Path, scores: Scores) -> Mapping[str, Any]:
    """This run among the runs beside it that differ from it only in the label split."""
    own = tables.Scored(run / file_name("scores", ".json", scores.part, scores.weights), scores)
    found = tables.build_table(tables.beside(own))
    (group,) = found.groups
    if len(group.draws) < 2:
        said = "One label split only: the accuracy with another split may differ by several points."
        return {"said": said, "chart": None, "warnings": ()}
    own_draw = scores.split if scores.draw is None else str(scores.draw)
    rows = [
        Dots(
            measure_title(measure),
            [*zip((f"label split {draw}" for draw in group.draws), spread.values, strict=True)],
            spread.mean,
            spread.deviation,
            cell(spread),
            strong=f"label split {own_draw}",
        )
        for measure, spread in group.measures.items()
    ]
    said = (
        f"Over {len(group.draws)} label splits: the runs in the same folder that differ from this run only in the "
        "label split. This run is outlined; the band is mean ± standard deviation."
    )
    return {"said": said, "chart": dot_chart(rows), "warnings": found.warnings}


def _curves(log: Path) -> list[str]:
    try:
        return curves_svgs(RunFolder(log.parent).read_log())
    except PspError:
        return []


def _errors(scored: Scored, config: RunConfig) -> list[ViewedClip]:
    """The clips whose predicted class is wrong, the highest probability first."""
    shares = softmax(scored.logits.fused)
    guessed = shares.argmax(axis=1)
    wrong = np.flatnonzero(guessed != scored.labels)
    chosen = wrong[np.argsort(-shares[wrong, guessed[wrong]], kind="stable")][:MOST_ERRORS].tolist()
    if not chosen:
        return []
    with open_store(scored.data) as store:
        clips = stored(store, [scored.names[n] for n in chosen]).clips
    return [
        # Without the recorded scene: the network classified the normalized clip.
        replace(clip, scenes=clip.scenes[-1:], top=_top(shares[n], config.class_names, int(scored.labels[n])))
        for n, clip in zip(chosen, clips, strict=True)
    ]


def _top(shares: Any, names: Sequence[str], label: int) -> tuple[tuple[str, float], ...]:
    """The three most probable classes, and the true one."""
    order = np.argsort(-shares, kind="stable").tolist()
    chosen = order[:3] if label in order[:3] else [*order[:2], label]
    return tuple((names[n], float(shares[n])) for n in chosen)


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
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in flat(config.training.model_dump(mode="json"))
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    ]
