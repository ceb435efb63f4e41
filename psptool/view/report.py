"""``report.html`` in a run's folder: what `psptool evaluate` measured, as a page to look at.

Notation for array shapes: N clips of the part that was scored, K classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from psptool.data.store.reading import open_store
from psptool.evaluation import table as tables
from psptool.evaluation.api import Scored
from psptool.evaluation.rendering import cell, measure_title
from psptool.evaluation.scoring import softmax
from psptool.schemas.base import flat
from psptool.schemas.run import Provenance, RunConfig
from psptool.schemas.scores import Scores, file_name
from psptool.training.runs.folder import NO_TERMS, RunFolder
from psptool.view.charts import Dots, bars, curves, dots, heat_map
from psptool.view.page import Section, page, table
from psptool.view.scene import ViewedClip, page_data
from psptool.view.sources import stored
from psptool.view.viewer import PLAYER, legend

MISTAKES = 6
"""Wrong clips that are shown, the surest first."""
TERMS = {
    "ce": "cross-entropy",
    "body": "body contrast",
    "part": "part contrast",
    "joint": "joint contrast",
    "teacher": "teacher's labels",
}
"""What the terms of the loss are called; others by their names in the log."""


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
    mistakes = _mistakes(scored, config)
    sections = [
        Section("", _accuracy(scores) + _draws(run, scores)),
        Section("Confusion", heat_map(np.array(scores.confusion), config.class_names), wide=False),
        Section("Accuracy by class", _by_class(scores), wide=False),
        Section("Training", _curves(RunFolder(run).log)),
        Section("Surest mistakes", _shown(mistakes)),
        Section("Recipe", table((), _recipe(config)), wide=False),
        Section("What it rests on", table((), _fingerprints(config, scores)), wide=False),
    ]
    title = f"{run.resolve().name}: {_percent(scores.top1)} %"
    lead = (
        f"{scores.clips} {scores.part} clips of {scores.dataset}, {scores.weights} weights, {scores.method}"
    )
    data = page_data(mistakes) if mistakes else None
    return page(title, sections, lead=lead, scripts=[PLAYER] if mistakes else [], data=data)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _accuracy(scores: Scores) -> str:
    tiles = [(_percent(scores.top1), "top-1 %, all streams"), (_percent(scores.top5), "top-5 %")]
    if scores.top1_unseen is not None:
        said = f"top-1 % on the {scores.clips_unseen} unseen clips of {len(scores.classes_unseen)} classes"
        tiles.append((_percent(scores.top1_unseen), said))
    shown = "".join(f'<div class="tile"><b>{value}</b><span>{said}</span></div>' for value, said in tiles)
    rows = [
        ("all streams", _percent(scores.top1), _percent(scores.top5)),
        *((f"{name} stream", _percent(own.top1), _percent(own.top5)) for name, own in scores.streams.items()),
    ]
    note = "Unseen clips are those whose coordinates stand nowhere in the train set."
    return (
        f'<div class="tiles">{shown}</div>{table(("", "top-1 %", "top-5 %"), rows)}<p class="note">{note}</p>'
    )


def _draws(run: Path, scores: Scores) -> str:
    """This run among those beside it that differ from it in the draw alone."""
    own = tables.Scored(run / file_name("scores", ".json", scores.part, scores.weights), scores)
    found = tables.build_table(tables.beside(own))
    (group,) = found.groups
    if len(group.draws) < 2:
        return "<p>One draw of the labels: another draw may come out several points higher or lower.</p>"
    own_draw = scores.split if scores.draw is None else str(scores.draw)
    rows = [
        Dots(
            measure_title(measure),
            [*zip((f"draw {draw}" for draw in group.draws), spread.values, strict=True)],
            spread.mean,
            spread.deviation,
            cell(spread),
            strong=f"draw {own_draw}",
        )
        for measure, spread in group.measures.items()
    ]
    warned = "".join(f'<p class="note">{escape(warning)}</p>' for warning in found.warnings)
    said = f"Over {len(group.draws)} draws, those of the runs beside this one that differ from it in the draw alone:"
    return f"<p>{said}</p>{dots(rows)}{warned}"


def _by_class(scores: Scores) -> str:
    return bars([(name, share, True) for name, share in scores.per_class.items()])


def _curves(log: Path) -> str:
    try:
        text = log.read_text(encoding="utf-8")
        entries: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError):
        return "<p>The run's log is absent or cannot be read.</p>"

    def line(key: str) -> list[tuple[float, float]]:
        return [(entry["step"], entry[key]) for entry in entries if isinstance(entry.get(key), (int, float))]

    names = dict.fromkeys(name for entry in entries for name in entry if name not in NO_TERMS)
    losses = {TERMS.get(name, name): line(name) for name in names if line(name)}
    charts = [curves("loss and its terms", losses), curves("learning rate", {"lr": line("lr")})]
    charts.append(curves("validation accuracy", {"validation": line("validation")}))
    return f'<div class="cards charts">{"".join(charts)}</div>'


def _mistakes(scored: Scored, config: RunConfig) -> list[ViewedClip]:
    """The clips with the largest probability of a wrong class, the surest first."""
    shares = softmax(scored.logits.fused)
    guessed = shares.argmax(axis=1)
    wrong = np.flatnonzero(guessed != scored.labels)
    chosen = wrong[np.argsort(-shares[wrong, guessed[wrong]], kind="stable")][:MISTAKES].tolist()
    if not chosen:
        return []
    with open_store(scored.data) as store:
        clips = stored(store, [scored.names[n] for n in chosen]).clips
    return [
        # The camera's view is left out: the mistake was made on the normalized clip.
        replace(clip, scenes=clip.scenes[-1:], top=_top(shares[n], config.class_names, int(scored.labels[n])))
        for n, clip in zip(chosen, clips, strict=True)
    ]


def _top(shares: Any, names: Sequence[str], label: int) -> tuple[tuple[str, float], ...]:
    """The three most probable classes, and the true one."""
    order = np.argsort(-shares, kind="stable").tolist()
    chosen = order[:3] if label in order[:3] else [*order[:2], label]
    return tuple((names[n], float(shares[n])) for n in chosen)


def _shown(mistakes: Sequence[ViewedClip]) -> str:
    if not mistakes:
        return "<p>Every clip was predicted right.</p>"
    cards = "".join(
        f'<div class="card"><h3>{escape(clip.name)}</h3>'
        f'<p class="meta">is <b class="right">{escape(clip.action)}</b>, '
        f'taken for <b class="wrong">{escape(clip.top[0][0])}</b></p>'
        f"{bars([(name, share, name == clip.action) for name, share in clip.top])}"
        f'<div class="player" data-compact data-clip="{number}"></div></div>'
        for number, clip in enumerate(mistakes)
    )
    said = (
        "The wrong clips whose wrong class has the highest probability; the coloured bar is the true class."
    )
    return f'<p class="note">{said}</p>{legend(mistakes)}<div class="cards">{cards}</div>'


def _fingerprints(config: RunConfig, scores: Scores) -> list[tuple[str, str]]:
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


def _recipe(config: RunConfig) -> list[tuple[str, str]]:
    return [
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in flat(config.training.model_dump(mode="json"))
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    ]
