"""The model card: what an exported model is, what it was trained on, how good it is, and how to feed it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from psptool.common.errors import PspError
from psptool.common.version import __version__
from psptool.data.skeletons.topologies import TOPOLOGIES
from psptool.evaluation.exporting import LOGITS, SUFFIXES, Exported, output_names
from psptool.evaluation.models import TrainedModel
from psptool.schemas.run import RunConfig
from psptool.schemas.scores import Scores
from psptool.schemas.split import Split
from psptool.schemas.training import StreamName, StreamSettings

SNIPPET = """\
import numpy as np
import onnxruntime
import psptool

with psptool.open("{data}") as store:
    clip = store.clip("{clip}")
shown = np.flatnonzero(clip.present.any(axis=0))  # frames in which somebody is there
frames = shown[np.arange({frames}) * len(shown) // {frames}]
present = clip.present[:, frames].any(axis=1)  # persons who are there in these frames
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
positions, there = clip.joint[present][:, frames], clip.present[present][:, frames]"""
CODE: Mapping[StreamName, Callable[[StreamSettings], str]] = {
    "joint": lambda settings: "joint = positions.copy()",
    "motion": lambda settings: RECORDED_MOTION if settings.motion == "recorded" else DRAWN_MOTION,
    "bone": lambda settings: BONE,
}
"""NumPy code that makes each stream (M, T, V, 3) of a clip."""
RECORDED_MOTION = "motion = clip.motion[present][:, frames]"
DRAWN_MOTION = """\
motion = np.zeros_like(positions)
both = there[:, 2:] & there[:, :-2]
motion[:, 1:-1] = (positions[:, 2:] - positions[:, :-2]) * both[:, :, None, None]"""
BONE = """\
bone, bones = np.zeros_like(positions), np.array({bones})
bone[:, :, bones[:, 1]] = positions[:, :, bones[:, 1]] - positions[:, :, bones[:, 0]]"""
WORDS: Mapping[StreamName, Callable[[StreamSettings], str]] = {
    "joint": lambda settings: "normalized positions, one entry per person",
    "motion": lambda settings: (
        "next frame minus this one, taken at the full frame rate"
        if settings.motion == "recorded"
        else "of the frames taken, the one after minus the one before; zero at both ends"
    ),
    "bone": lambda settings: "each joint minus its parent joint; zero for the root",
}
"""What each stream is, for the table of inputs."""
FROM_CENTER = """\
others = np.arange({joints}) != {center}
for x in ({names}):
    x[:, :, others] -= x[:, :, [{center}]]"""


def model_card(
    model: TrainedModel, stem: str, exported: Sequence[Exported], compared: str, clip: str | None = None
) -> str:
    """The card as Markdown.

    Args:
        model: The model.
        stem: Of the files' names.
        exported: The files.
        compared: Which clips their logits were compared on.
        clip: A clip of the dataset, for the example.
    """
    config = model.config
    trained_by = ", ".join(dict.fromkeys(record.tool_version for record in config.contributing))
    parts = [
        f"# {stem}",
        "",
        f"Recognizes {len(config.class_names)} actions from skeleton recordings: PSP Learning's network "
        f"(Xu and Shu, arXiv 2302.02327), exported by psptool {__version__}; trained by psptool {trained_by}.",
        "",
        *_files(stem, exported, compared),
        *_data(config),
        *_recipe(config),
        *_accuracy(model),
        *_limits(config),
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
    """NumPy code that makes the streams of a clip."""
    settings, topology = config.training.streams, TOPOLOGIES[config.topology]
    code = [POSITIONS, *(CODE[name](settings) for name in settings.names)]
    if settings.origin == "frame":
        code.append(FROM_CENTER)
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
        f"Largest difference between a file's logits and the live model's, on {compared}:",
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
        f"- Dataset: {config.dataset}, {TOPOLOGIES[config.topology].size} joints (`{config.topology}`); "
        f"content fingerprint `{config.content_fingerprint}`.",
        f"- Split: `{config.split_name}`, digest `{config.split_digest}`.",
    ]
    split = _split(config)
    if split is not None:
        view = "" if split.test_view is None else f", camera {split.test_view} for test"
        lines.append(
            f"- Protocol {split.protocol}{view}: {len(split.labelled)} labelled, {len(split.unlabelled)} unlabelled, "
            f"{len(split.validation)} validation and {len(split.test)} test clips; draw {split.seed}, "
            f"counted `{split.family}`."
        )
    return [*lines, "- Classes by label: " + "; ".join(config.class_names) + ".", ""]


def _split(config: RunConfig) -> Split | None:
    """The run's split, where it still lies where it lay."""
    try:
        split = Split.load(Path(config.latest.split_path))
    except PspError:
        return None
    return split if split.digest == config.split_digest else None


def _recipe(config: RunConfig) -> list[str]:
    training = config.training
    optim = training.optim
    return [
        "## Recipe",
        "",
        f"Method `{training.method}`, preset `{training.preset}`, seed {config.seed}, {config.precision}: "
        f"{optim.steps} steps of {optim.labelled_batch} labelled and {optim.pool_batch} other clips, learning rate "
        f"{optim.lr:g} ({optim.schedule}). The whole configuration stands in the run's `config.json` and in the "
        "metadata of the ONNX and safetensors files (`psptool.config`).",
        "",
    ]


def _accuracy(model: TrainedModel) -> list[str]:
    name = "scores.json" if model.weights == "last" else f"scores-{model.weights}.json"
    try:
        scores = Scores.load(model.path / name)
    except PspError:
        return ["## Accuracy", "", f"Not measured: the run has no `{name}`. `psptool evaluate` makes it.", ""]
    if scores.content_fingerprint != model.config.content_fingerprint:
        return ["## Accuracy", "", f"Not measured: the run's `{name}` belongs to another dataset.", ""]
    unseen = ""
    if scores.top1_unseen is not None:
        unseen = f"; {100 * scores.top1_unseen:.1f} % on the {scores.clips_unseen} that stand nowhere in the train set"
    by_stream = ", ".join(f"{name} {100 * own.top1:.1f} %" for name, own in scores.streams.items())
    return [
        "## Accuracy",
        "",
        f"{model.weights.capitalize()} weights, {scores.clips} test clips: top-1 {100 * scores.top1:.1f} %, "
        f"top-5 {100 * scores.top5:.1f} %{unseen}. "
        f"Top-1 by stream: {by_stream}. One training on one draw.",
        "",
        "| class | top-1 % |",
        "|---|--:|",
        *(f"| {name} | {100 * share:.1f} |" for name, share in scores.per_class.items()),
        "",
    ]


def _limits(config: RunConfig) -> list[str]:
    return [
        "## Limits",
        "",
        f"- It answers one of its {len(config.class_names)} classes, whatever the recording shows.",
        f"- It knows the {TOPOLOGIES[config.topology].size} joints of {config.topology} in their order; other "
        "sensors and pose estimators were not tried.",
        "- Probabilities are the softmax of the logits; they were not calibrated.",
        "- The recordings it learned from may not be passed on, and their terms of use hold for them.",
        "",
    ]


def _input(config: RunConfig) -> list[str]:
    topology = TOPOLOGIES[config.topology]
    frames, joints = config.training.sampling.frames, topology.size
    absent = (
        "persons who are in none of these frames are left out"
        if config.training.model.absent_persons == "skip"
        else "each clip has two person slots, absent persons are zeros and count in the average"
    )
    settings, classes = config.training.streams, len(config.class_names)
    relative = ""
    if settings.origin == "frame":
        relative = f"; all joints but the {topology.joints[topology.center]} are relative to it"
    return [
        "## Input and output",
        "",
        "P persons of all clips, N clips, all float32; P and N are free.",
        "",
        "| name | shape | what |",
        "|---|---|---|",
        *(
            f"| `{name}` | (P, 3, {frames}, {joints}) | {WORDS[name](settings)}{relative} |"
            for name in settings.names
        ),
        "| `average` | (N, P) | row n holds 1 / M for the M persons of clip n, else 0 |",
        f"| `logits` (out) | (N, {classes}) | all streams, the prediction |",
        *(
            f"| `{name}` (out) | (N, {classes}) | one stream |"
            for name in output_names(settings.names)
            if name != LOGITS
        ),
        "",
        f"Preparation, as `psptool prepare --align {config.preparation.align}` does it: "
        f"`{config.preparation.model_dump_json()}`. Of the F frames in which somebody is present, the frames "
        f"int(i * F / {frames}) for i = 0 to {frames - 1} are taken; {absent}.",
    ]
