"""Classifies raw recordings with any file names, prepared like the training clips of the model.

Recordings are processed in batches, so that memory does not grow with their number.

Notation for array shapes: N clips of a batch, K classes, M persons, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from psptool.common.errors import PspError
from psptool.common.text import counted
from psptool.common.version import __version__
from psptool.data.batches.ragged import RaggedClips
from psptool.data.store.arrays import PreparedClip
from psptool.data.store.layout import KEY_COLUMNS
from psptool.data.store.reading import Rows
from psptool.data.store.writing import pack
from psptool.evaluation.models import TrainedModel
from psptool.evaluation.scoring import score_ragged
from psptool.formats.readers.ahead import ReadAhead
from psptool.formats.readers.base import ClipSource, FileRef, Reader
from psptool.formats.readers.making import builtin_readers, make_readers
from psptool.formats.readers.sources import clips_among, list_files
from psptool.preparation.pipeline import ProgressCallback
from psptool.preparation.worker import notes_of, prepare_clip
from psptool.schemas import builtin
from psptool.schemas.description import DatasetDescription
from psptool.schemas.prediction import ClassProbability, PredictedClip, Prediction
from psptool.schemas.report import LeftOut

BATCH = 64
"""Recordings per batch."""
OTHER_FORMAT, NO_FORMAT = "another format", "not a raw recording"


def predict(
    model: TrainedModel,
    paths: Sequence[Path],
    *,
    top: int = 5,
    logits: bool = False,
    on_progress: ProgressCallback | None = None,
) -> Prediction:
    """The most probable actions of each recording in ``paths``.

    Args:
        model: The model; recordings are prepared and sampled as in its configuration.
        paths: Files, folders, zip and tar archives, in a raw format with the model's joints.
        top: Actions per recording, at most K.
        logits: Include the logits of all classes.
        on_progress: Called after every batch with the numbers of recordings done and in total.

    Raises:
        PspError: A path does not exist, no recording is usable, ``top`` is below 1, or logits are not finite.
    """
    check_top(top)
    found, unusable = find_recordings(paths, model.config.description)
    total, done = sum(len(sources) for _, sources in found), 0
    clips: list[PredictedClip] = []
    for reader, sources in found:
        ahead = ReadAhead(sources)
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
            if on_progress is not None:
                on_progress(done, total)
    if not clips:
        raise none_usable(unusable)
    return Prediction(
        **predicted_by(model),
        clips=tuple(sorted(clips, key=lambda clip: (clip.name, clip.source))),
        unusable=tuple(unusable),
        tool_version=__version__,
    )


def check_top(top: int) -> None:
    """Raise a `PspError` unless ``top`` is at least 1."""
    if top < 1:
        raise PspError("--top", str(top), "at least 1 action")


def none_usable(unusable: Sequence[LeftOut]) -> PspError:
    """The error if no recording can be used, with the reason of the first one."""
    first = unusable[0]
    reason = first.detail or f"{first.source}: {first.reason}"
    other = first.reason == OTHER_FORMAT
    fix = "For other formats, use psptool.load(...).predict(joints=array) in Python."
    if other and len(unusable) == 1:
        return PspError(reason, fix=fix)
    return PspError(
        f"{counted(len(unusable), 'recording')} found, of which none can be used",
        reason,
        fix=fix if other else "Check these files.",
    )


def predicted_by(model: TrainedModel) -> dict[str, Any]:
    """The values of `PredictedBy` for a model."""
    config = model.config
    return {
        "model": str(model.path),
        "weights": model.weights,
        "dataset": config.dataset,
        "topology": config.topology.name,
        "description": None
        if config.dataset in builtin.dataset_names()
        else config.description.without_lists(),
        "preparation": config.preparation,
        "classes": config.class_names,
    }


def find_recordings(
    paths: Sequence[Path], dataset: DatasetDescription
) -> tuple[list[tuple[Reader, list[ClipSource]]], list[LeftOut]]:
    """The recordings in the formats of a dataset, by reader, and the unusable files.

    Files of other formats are ignored in folders and archives. If such a file is itself in ``paths``, it is unusable.

    Raises:
        PspError: A path does not exist or cannot be read, or there is no recording with these joints.
    """
    files = list_files(paths)
    found: list[tuple[Reader, list[ClipSource]]] = []
    taken: set[str] = set()
    # Two readers may report the same file, such as an archive inside an archive.
    unread: dict[str, LeftOut] = {}
    for reader in make_readers(dataset, any_name=True):
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
        if file.archive is None and file.path in named and not _is_taken(file, taken):
            kind = _describe_format(file)
            seen = "" if kind == NO_FORMAT else f"found {kind}, "
            detail = f"{file}: not in the format of the model's dataset: {seen}expected {expected}"
            unusable.append(LeftOut(name=file.name, source=str(file), reason=OTHER_FORMAT, detail=detail))
    if not any(clips for _, clips in found) and not unusable:
        raise _nothing_found(files, dataset, expected)
    return found, unusable


def _is_taken(file: FileRef, taken: Collection[str]) -> bool:
    """Whether a recording of a reader is the file, or a part of it, such as an annotation of a pickle.

    Args:
        file: The file.
        taken: The recordings in the notation of ``str(FileRef)``; that of a part begins with the file and a colon.
    """
    return str(file) in taken or any(source.startswith(f"{file}:") for source in taken)


def ragged(clips: Sequence[PreparedClip], model: TrainedModel) -> RaggedClips:
    """Prepared clips as one ragged tensor on the model's device."""
    topology = model.config.topology
    packed = pack(clips, topology.size)
    table = dict(zip((*KEY_COLUMNS, "frames", "persons"), packed.numbers.T, strict=True))
    rows = Rows(packed.joint, packed.present)
    return RaggedClips.from_rows(
        rows, table["label"], table["frames"], table["persons"], topology, model.device
    )


class Classified(NamedTuple):
    """The most probable classes of one clip, and the logits of all classes if requested."""

    top: tuple[ClassProbability, ...]
    logits: tuple[float, ...] | None


def classify(
    model: TrainedModel, clips: Sequence[PreparedClip], top: int, with_logits: bool
) -> list[Classified]:
    """Classify prepared clips in one batch.

    Raises:
        PspError: Logits are not finite.
    """
    if not clips:
        return []
    names, class_names = [clip.name for clip in clips], model.config.class_names
    everything = np.arange(len(clips))
    logits = score_ragged(model.net, model.config, ragged(clips, model), everything, names)
    fused, probabilities = logits.fused, logits.probabilities  # (N, K) each
    order = np.argsort(-fused, axis=1, kind="stable")[:, :top]  # (N, top)
    return [
        Classified(
            tuple(
                ClassProbability(
                    class_name=class_names[label], label=label, probability=float(probabilities[n, label])
                )
                for label in order[n].tolist()
            ),
            tuple(fused[n].tolist()) if with_logits else None,
        )
        for n in range(len(clips))
    ]


def _predicted(
    model: TrainedModel, usable: Sequence[tuple[ClipSource, PreparedClip]], top: int, with_logits: bool
) -> list[PredictedClip]:
    found = classify(model, [clip for _, clip in usable], top, with_logits)
    return [
        PredictedClip(
            name=source.name,
            source=str(source.files[0]),
            frames=clip.frames,
            persons=clip.persons,
            notes=notes_of(clip),
            top=classified.top,
            logits=classified.logits,
        )
        for (source, clip), classified in zip(usable, found, strict=True)
    ]


def _describe_format(file: FileRef) -> str:
    """Name and joint count of the raw format of a file, for error messages."""
    for _, reader in builtin_readers(any_name=True):
        if reader.find([file])[0]:
            return f"{reader.format}, {reader.topology.size} joints"
    return NO_FORMAT


def _nothing_found(files: Sequence[FileRef], dataset: DatasetDescription, expected: str) -> PspError:
    other = next((file for file in files if _describe_format(file) != NO_FORMAT), None)
    found = f"{counted(len(files), 'file')}, of which none is a raw recording"
    if other is not None:
        found = f"{other} ({_describe_format(other)})"
    topology = dataset.topology
    return PspError(
        f"no recordings with the joints of the model ({topology.name}, {topology.size} joints)",
        found,
        expected,
        "Give recordings in this format, or another model with --model.",
    )
