"""From raw recordings to their most probable actions, prepared as the model's training clips were.

Recordings may have any name. They are prepared and computed a batch at a time, so that memory does not grow with
their number. Notation for array shapes: N clips of a batch, K classes, M persons, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from psptool.common.errors import PspError
from psptool.common.version import __version__
from psptool.data.batches.ragged import RaggedClips
from psptool.data.skeletons.topologies import TOPOLOGIES
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.layout import KEY_COLUMNS
from psptool.data.store.reading import Rows
from psptool.data.store.writing import pack
from psptool.evaluation.models import TrainedModel
from psptool.evaluation.scoring import score_ragged, softmax
from psptool.formats.readers.ahead import ReadAhead
from psptool.formats.readers.base import ClipSource, FileRef, Reader
from psptool.formats.readers.sources import MAX_BYTES, clips_among, list_files
from psptool.preparation.raw_input import ANY_NAME
from psptool.preparation.worker import notes_of, prepare_clip
from psptool.schemas.prediction import ClassProbability, PredictedClip, Prediction
from psptool.schemas.report import LeftOut

Progress = Callable[[int, int], None]
"""Called with recordings done and recordings in all."""

BATCH = 64
"""Recordings prepared and computed at once."""
OTHER_FORMAT = "another format"


def predict(
    model: TrainedModel,
    paths: Sequence[Path],
    *,
    top: int = 5,
    logits: bool = False,
    progress: Progress | None = None,
) -> Prediction:
    """The most probable actions of each recording among ``paths``.

    Args:
        model: Whose preparation, frames and classes hold.
        paths: Folders, zip and tar archives and files, in a format of the model's joints.
        top: Actions a recording, at most K.
        logits: Keep the logits of all classes too.
        progress: Is told of every batch.

    Raises:
        PspError: A path is absent; no recording can be used; ``top`` is below 1; the model's logits are not finite.
    """
    if top < 1:
        raise PspError("--top", str(top), "at least 1 action")
    found, unusable = find_recordings(paths, model.config.topology)
    total, done = sum(len(sources) for _, sources in found), 0
    clips: list[PredictedClip] = []
    for reader, sources in found:
        ahead = ReadAhead(sources, MAX_BYTES)
        for first in range(0, len(sources), BATCH):
            batch = [ahead.attach(source) for source in sources[first : first + BATCH]]
            outcomes = [prepare_clip((source,), reader, model.config.preparation) for source in batch]
            unusable += [outcome.left_out for outcome in outcomes if outcome.left_out is not None]
            usable = [
                (source, outcome.clip)
                for source, outcome in zip(batch, outcomes, strict=True)
                if outcome.clip is not None
            ]
            clips += _predicted(model, usable, top, logits)
            done += len(batch)
            if progress is not None:
                progress(done, total)
    if not clips:
        raise PspError(
            f"none of {len(unusable)} recordings can be used",
            unusable[0].detail or f"{unusable[0].source}: {unusable[0].reason}",
            fix="Check the files named.",
        )
    config = model.config
    return Prediction(
        model=str(model.path),
        weights=model.weights,
        dataset=config.dataset,
        topology=config.topology,
        classes=config.class_names,
        clips=tuple(sorted(clips, key=lambda clip: (clip.name, clip.source))),
        unusable=tuple(unusable),
        tool_version=__version__,
    )


def find_recordings(
    paths: Sequence[Path], topology: str
) -> tuple[list[tuple[Reader, list[ClipSource]]], list[LeftOut]]:
    """The recordings of a topology's joints among ``paths``, by format, and the files that cannot be used.

    Files of other kinds in a folder or archive are nobody's business; one that was named itself is told of.

    Raises:
        PspError: A path is absent or unreadable, or there is no recording of these joints.
    """
    files = list_files(paths)
    found, taken = [], set()
    # Readers of one skeleton may name the same file, such as an archive inside an archive.
    unread: dict[str, LeftOut] = {}
    for reader in ANY_NAME:
        if reader.topology.name != topology:
            continue
        clips, strays = clips_among(files, reader)
        found.append((reader, clips))
        for stray in strays:
            unread[stray.source] = LeftOut(name=stray.name, source=stray.source, reason=stray.reason)
        taken |= {str(file) for clip in clips for file in clip.files} | {stray.source for stray in strays}
    used = {str(file) for _, clips in found for clip in clips for file in clip.files}
    unusable = [left_out for source, left_out in unread.items() if source not in used]
    named = {str(path) for path in paths}
    expected = " or ".join(reader.format for reader, _ in found)
    for file in files:
        if file.archive is None and file.path in named and str(file) not in taken:
            detail = f"{file}: found {_format_of(file)}, expected {expected}"
            unusable.append(LeftOut(name=file.name, source=str(file), reason=OTHER_FORMAT, detail=detail))
    if not any(clips for _, clips in found) and not unusable:
        raise _nothing_found(files, topology, expected)
    return found, unusable


def ragged(clips: Sequence[PreparedClip], model: TrainedModel) -> RaggedClips:
    """Prepared clips on the model's device, without a file in between."""
    topology = TOPOLOGIES[model.config.topology]
    packed = pack(clips, topology.size)
    table = dict(zip((*KEY_COLUMNS, "frames", "persons"), packed.numbers.T, strict=True))
    rows = Rows(packed.joint, packed.present)
    return RaggedClips.from_rows(
        rows, table["label"], table["frames"], table["persons"], topology, model.device
    )


def _predicted(
    model: TrainedModel, usable: Sequence[tuple[ClipSource, PreparedClip]], top: int, keep: bool
) -> list[PredictedClip]:
    if not usable:
        return []
    clips = ragged([clip for _, clip in usable], model)
    names = [source.name for source, _ in usable]
    fused = score_ragged(model.net, model.config, clips, np.arange(len(names)), names).fused
    probabilities = softmax(fused)
    order = np.argsort(-fused, axis=1, kind="stable")[:, :top]
    return [
        PredictedClip(
            name=source.name,
            source=str(source.files[0]),
            frames=clip.frames,
            persons=clip.persons,
            notes=notes_of(clip),
            top=tuple(
                ClassProbability(
                    class_name=model.config.class_names[label],
                    label=label,
                    probability=float(probabilities[n, label]),
                )
                for label in order[n].tolist()
            ),
            logits=tuple(fused[n].tolist()) if keep else None,
        )
        for n, (source, clip) in enumerate(usable)
    ]


def _format_of(file: FileRef) -> str:
    """What another skeleton's reader takes a file for, as a few words."""
    for reader in ANY_NAME:
        if reader.find([file])[0]:
            return f"{reader.format}, {reader.topology.size} joints"
    return "no format of recordings"


def _nothing_found(files: Sequence[FileRef], topology: str, expected: str) -> PspError:
    other = next((file for file in files if _format_of(file) != "no format of recordings"), None)
    found = f"{len(files)} files, none of them a recording"
    if other is not None:
        found = f"{other} ({_format_of(other)})"
    return PspError(
        f"no recordings for this model, which knows the {TOPOLOGIES[topology].size} joints of {topology}",
        found,
        expected,
        "Name recordings in its format, or another model with --model.",
    )
