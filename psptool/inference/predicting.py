"""From raw recordings to their most probable actions, prepared as the model's training clips were.

Recordings may have any name. They are prepared and computed a batch at a time, so that memory does not grow with
their number. Notation for array shapes: N clips of a batch, K classes, M persons, T frames, V joints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psptool import __version__
from psptool.batches.ragged import RaggedClips
from psptool.errors import PspError
from psptool.inference.models import TrainedModel
from psptool.inference.scoring import score_ragged, softmax
from psptool.prepare.gathering import ANY_NAME
from psptool.prepare.working import batches, prepare_batch
from psptool.readers.base import ClipSource, FileRef, Reader
from psptool.readers.sources import clips_among, list_files
from psptool.schemas.prediction import Guess, PredictedClip, Prediction
from psptool.schemas.report import LeftOut
from psptool.skeletons.topologies import TOPOLOGIES
from psptool.store.reading import Rows
from psptool.store.writing import PackedClip

Progress = Callable[[int, int], None]
"""Called with recordings done and recordings in all."""

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
        paths: Folders, zip archives and files, in a format of the model's joints.
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
        for batch in batches([(source,) for source in sources]):
            outcomes = prepare_batch(batch, reader, model.config.preparation)
            unusable += [outcome.left_out for outcome in outcomes if outcome.left_out is not None]
            usable = [
                (source, outcome.packed)
                for (source,), outcome in zip(batch, outcomes, strict=True)
                if outcome.packed is not None
            ]
            clips += _predicted(model, usable, top, logits)
            done += len(batch)
            if progress is not None:
                progress(done, total)
    if not clips:
        raise PspError(
            f"none of {len(unusable)} recordings can be used",
            unusable[0].detail or f"{unusable[0].source}: {unusable[0].reason}",
            way_out="Check the files named.",
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
    found, unusable, taken = [], [], set()
    for reader in ANY_NAME:
        if reader.topology.name != topology:
            continue
        clips, strays = clips_among(files, reader)
        found.append((reader, clips))
        unusable += [LeftOut(name=stray.name, source=stray.source, reason=stray.reason) for stray in strays]
        taken |= {str(file) for clip in clips for file in clip.files} | {stray.source for stray in strays}
    named = {str(path) for path in paths}
    expected = " or ".join(reader.format for reader, _ in found)
    for file in files:
        if file.archive is None and file.path in named and file.path not in taken:
            detail = f"{file}: found {_format_of(file)}, expected {expected}"
            unusable.append(LeftOut(name=file.name, source=str(file), reason=OTHER_FORMAT, detail=detail))
    if not any(clips for _, clips in found) and not unusable:
        raise _nothing_found(files, topology, expected)
    return found, unusable


def ragged(packed: Sequence[PackedClip], model: TrainedModel) -> RaggedClips:
    """Prepared clips on the model's device, without a file in between."""
    clips = [one.clip for one in packed]
    joints = TOPOLOGIES[model.config.topology].size
    rows = Rows(
        np.concatenate([clip.joint.reshape(-1, joints, 3) for clip in clips]),
        np.concatenate([one.motion.reshape(-1, joints, 3) for one in packed]),
        np.concatenate([clip.present.reshape(-1) for clip in clips]),
    )

    def integers(values: Iterator[int]) -> NDArray[np.int64]:
        return np.fromiter(values, dtype=np.int64)

    return RaggedClips.from_rows(
        rows,
        integers(clip.key.label for clip in clips),
        integers(clip.frames for clip in clips),
        integers(clip.persons for clip in clips),
        TOPOLOGIES[model.config.topology].mirror,
        model.device,
    )


def _predicted(
    model: TrainedModel, usable: Sequence[tuple[ClipSource, PackedClip]], top: int, keep: bool
) -> list[PredictedClip]:
    if not usable:
        return []
    clips = ragged([packed for _, packed in usable], model)
    names = [source.name for source, _ in usable]
    both = score_ragged(model.net, model.config, clips, np.arange(len(names)), names).both
    probabilities = softmax(both)
    order = np.argsort(-both, axis=1, kind="stable")[:, :top]
    return [
        PredictedClip(
            name=source.name,
            source=str(source.files[0]),
            frames=packed.clip.frames,
            persons=packed.clip.persons,
            top=tuple(
                Guess(
                    class_name=model.config.class_names[label],
                    label=label,
                    probability=float(probabilities[n, label]),
                )
                for label in order[n].tolist()
            ),
            logits=tuple(both[n].tolist()) if keep else None,
        )
        for n, (source, packed) in enumerate(usable)
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
