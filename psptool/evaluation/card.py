"""The model card of an exported model: files, data, training, accuracy, limits, inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from psptool.common.errors import PspError
from psptool.common.text import counted
from psptool.common.version import __version__
from psptool.data.batches.streams import STREAMS
from psptool.evaluation.exporting import LOGITS, SUFFIXES, Exported, output_names
from psptool.evaluation.models import TrainedModel, included_file
from psptool.schemas.run import RunConfig
from psptool.schemas.scores import Scores, file_name
from psptool.schemas.split import Split

SNIPPET = """\
import numpy as np
import onnxruntime
import psptool

with psptool.open("{data}") as store:
    clip = store.clip("{clip}")
visible = np.flatnonzero(clip.present.any(axis=0))  # frames with at least one person
frames = visible[np.arange({frames}) * len(visible) // {frames}]
present = clip.present[:, frames].any(axis=1)  # persons in these frames
persons = int(present.sum())
{streams}
session = onnxruntime.InferenceSession("{file}")
logits, *by_stream = session.run(
    {outputs},
    {{
{feed}
        "average": np.full((1, persons), 1 / persons, np.float32),
    }},
)
"""

POSITIONS = """\
positions, valid = clip.joint[present][:, frames], clip.present[present][:, frames]"""
"""The values that `StreamDefinition.code` uses."""
ROOT_RELATIVE = """\
others = np.arange({joints}) != {center}
for x in ({names}):
    x[:, :, others] -= x[:, :, [{center}]]"""


def model_card(
    model: TrainedModel, stem: str, exported: Sequence[Exported], compared: str, clip: str | None = None
) -> str:
    """The model card as Markdown.

    Args:
        model: The model.
        stem: File name of the exported files without extension.
        exported: The exported files.
        compared: The clips on which logits were compared, such as ``20 clips of data/ucla.h5``.
        clip: A clip of the dataset, for the example.
    """
    config = model.config
    trained_by = ", ".join(dict.fromkeys(record.tool_version for record in config.contributing))
    parts = [
        f"# {stem}",
        "",
        f"Classifies skeleton recordings into {counted(len(config.class_names), 'action')}. Network of PSP Learning "
        f"(Xu and Shu, arXiv 2302.02327), exported by psptool {__version__}, trained by psptool {trained_by}.",
        "",
        *_files(stem, exported, compared),
        *_data(config),
        *_recipe(config),
        *_accuracy(model),
        *_limits(config, model.net.classification_heads),
        *_input(config),
    ]
    if any(one.format == "onnx" for one in exported) and config.training.model.absent_persons == "skip":
        streams = config.training.streams.names
        code = SNIPPET.format(
            data=config.latest.data_path,
            clip=clip or "CLIP",
            file=f"{stem}.onnx",
            frames=config.training.sampling.frames,
            streams=_streams(config),
            outputs=json.dumps(output_names(streams)),
            feed="\n".join(f'        "{name}": {name}.transpose(0, 3, 1, 2),' for name in streams),
        )
        parts += ["", "```python", code.rstrip(), "```"]
    return "\n".join(parts) + "\n"


def _streams(config: RunConfig) -> str:
    """NumPy code that computes the streams of a clip."""
    settings, topology = config.training.streams, config.topology
    code = [POSITIONS, *(STREAMS[name].code(settings) for name in settings.names)]
    if settings.origin == "frame":
        code.append(ROOT_RELATIVE)
    return "\n".join(code).format(
        bones=[list(bone) for bone in topology.bones],
        joints=topology.size,
        center=topology.center,
        names="".join(f"{name}, " for name in settings.names),
    )


def _files(stem: str, exported: Sequence[Exported], compared: str) -> list[str]:
    rows = [
        f"| `{stem}{SUFFIXES[one.format]}` | {one.format} | {len(one.content):,} | {one.difference:.1e} |"
        for one in exported
    ]
    return [
        "## Files",
        "",
        f"Largest difference between the logits of a file and those of the model, on {compared}:",
        "",
        "| file | format | bytes | difference |",
        "|---|---|--:|--:|",
        *rows,
        "",
    ]


def _data(config: RunConfig) -> list[str]:
    lines = [
        "## Data",
        "",
        f"- Dataset: {config.dataset}, {config.topology.size} joints (`{config.topology.name}`); "
        f"content fingerprint `{config.content_fingerprint}`.",
        f"- Split: `{config.split_name}`, digest `{config.split_digest}`.",
    ]
    split = _split(config)
    if split is not None:
        view = "" if split.test_view is None else f", camera {split.test_view} for testing"
        lines.append(
            f"- Protocol {split.protocol}{view}: {len(split.labelled)} labelled, {len(split.unlabelled)} unlabelled, "
            f"{len(split.validation)} validation and {len(split.test)} test clips; label split with seed {split.seed}, "
            f"family `{split.family}`."
        )
    return [*lines, "- Classes by label: " + "; ".join(config.class_names) + ".", ""]


def _split(config: RunConfig) -> Split | None:
    """The split of the run, if its file still exists unchanged."""
    try:
        split = Split.load(Path(config.latest.split_path))
    except PspError:
        return None
    return split if split.digest == config.split_digest else None


def _recipe(config: RunConfig) -> list[str]:
    training = config.training
    optim = training.optim
    pool = f" and {counted(optim.pool_batch, 'clip')} of the pool" if training.needs_pool else ""
    return [
        "## Training",
        "",
        f"Method `{training.method}`, preset `{training.preset}`, seed {config.seed}, {config.precision}: "
        f"{counted(optim.steps, 'step')} of {counted(optim.labelled_batch, 'labelled clip')}{pool}, "
        f"learning rate {optim.lr:g} ({optim.schedule}). The complete configuration is in the run's `config.json` and "
        "in the metadata of the ONNX and safetensors files (`psptool.config`).",
        "",
    ]


def _accuracy(model: TrainedModel) -> list[str]:
    included = included_file(model.path)
    if included is not None:
        return _section(included.with_suffix(".md").read_text(encoding="utf-8"), "## Accuracy")
    name = file_name("scores", ".json", weights=model.weights)
    try:
        scores = Scores.load(model.path / name)
    except PspError:
        command = "psptool evaluate" + " --weights best" * (model.weights == "best")
        text = f"Not measured: the run's `{name}` is missing or damaged. `{command}` writes it."
        return ["## Accuracy", "", text, ""]
    if scores.content_fingerprint != model.config.content_fingerprint:
        return ["## Accuracy", "", f"Not measured: the run's `{name}` belongs to another dataset.", ""]
    no_duplicate = ""
    if scores.top1_unseen is not None and "top1_unseen" not in scores.redundant:
        clips = counted(scores.clips_unseen, "clip")
        no_duplicate = (
            f"; top-1 {100 * scores.top1_unseen:.1f} % on {clips} without a duplicate in the training set"
        )
    top5 = "" if scores.shown_top5 is None else f", top-5 {100 * scores.shown_top5:.1f} %"
    by_stream = ", ".join(f"{name} {100 * own.top1:.1f} %" for name, own in scores.streams.items())
    return [
        "## Accuracy",
        "",
        f"{model.weights.capitalize()} checkpoint, {counted(scores.clips, 'test clip')}, fusion of all streams: "
        f"top-1 {100 * scores.top1:.1f} %{top5}{no_duplicate}. "
        f"Top-1 by stream: {by_stream}. One training on one label split.",
        "",
        "| class | top-1 % |",
        "|---|--:|",
        *(f"| {name} | {100 * value:.1f} |" for name, value in scores.per_class.items()),
        "",
    ]


def _section(card: str, heading: str) -> list[str]:
    """Lines of a section of a model card, with its heading."""
    lines = card.splitlines()
    first = lines.index(heading)
    after = (n for n in range(first + 1, len(lines)) if lines[n].startswith("## "))
    return lines[first : next(after, len(lines))]


def _limits(config: RunConfig, heads: int) -> list[str]:
    divided = "" if heads == 1 else f" divided by {heads}, the number of classification heads in their sum"
    return [
        "## Limits",
        "",
        f"- The output is one of {counted(len(config.class_names), 'class', 'classes')}, also for other actions.",
        f"- The input has the {config.topology.size} joints of {config.topology.name} in their order. Other "
        "sensors and pose estimators were not tested.",
        f"- Probabilities are the softmax of the logits{divided}. They are not calibrated.",
        "- The terms of use of the dataset apply; its recordings must not be redistributed.",
        "",
    ]


def _input(config: RunConfig) -> list[str]:
    topology = config.topology
    frames, joints = config.training.sampling.frames, topology.size
    absent = (
        "persons who are absent in all of these frames are omitted"
        if config.training.model.absent_persons == "skip"
        else "each clip has two persons; an absent person is all zeros and is included in the average"
    )
    settings, classes = config.training.streams, len(config.class_names)
    relative = ""
    if settings.origin == "frame":
        relative = f"; all joints except the {topology.joints[topology.center]} are relative to it"
    return [
        "## Input and output",
        "",
        "N clips with P persons in total; N and P are dynamic. All tensors are float32.",
        "",
        "| name | shape | content |",
        "|---|---|---|",
        *(
            f"| `{name}` | (P, 3, {frames}, {joints}) | {STREAMS[name].content(settings)}{relative} |"
            for name in settings.names
        ),
        "| `average` | (N, P) | row n is 1 / M for each of the M persons of clip n, otherwise 0 |",
        f"| `logits` (out) | (N, {classes}) | fusion of all streams: the sum of their logits |",
        *(
            f"| `{name}` (out) | (N, {classes}) | {name.removesuffix(f'_{LOGITS}')} stream |"
            for name in output_names(settings.names)
            if name != LOGITS
        ),
        "",
        f"Preparation: `psptool prepare --align {config.preparation.align}` with "
        f"`{config.preparation.model_dump_json()}`. Frame sampling: of the F frames with at least one person, frames "
        f"int(i * F / {frames}) for i = 0 to {frames - 1}; {absent}.",
    ]
