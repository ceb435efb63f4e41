"""Tiny synthetic datasets, written with `StoreWriter`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psptool.data.store.arrays import PreparedClip
from psptool.data.store.writing import StoreWriter, pack
from psptool.schemas.dataset import Counts, DatasetManifest, Fingerprints, PreparationSettings
from psptool.schemas.description import DatasetDescription
from tests.builtin import UCLA

JOINTS = UCLA.topology.size


def make_clip(
    name: str,
    seed: int,
    present: Sequence[Sequence[bool]] = ((True,) * 6,),
    lift: float = 0.0,
    dataset: DatasetDescription = UCLA,
) -> PreparedClip:
    """A clip of random positions; the rows of absent persons are zero.

    Args:
        name: A clip name of the dataset; it determines the label.
        seed: Random seed. The positions of person m depend on ``seed`` and m, not on the other persons.
        present: (M, T), True where a person is present.
        lift: Added to z, so that classes are separable.
        dataset: Determines the number of joints and the labels.
    """
    shown = np.array(present, dtype=bool)
    persons, frames = shown.shape
    joints = dataset.topology.size
    joint = np.stack(
        [np.random.default_rng((seed, m)).normal(size=(frames, joints, 3)) for m in range(persons)]
    ).astype(np.float32)
    joint[..., 2] += lift
    joint[~shown] = 0
    key = dataset.parse(name)
    assert key is not None
    state = np.where(shown[..., None], 2, 0).astype(np.uint8) * np.ones(joints, np.uint8)
    return PreparedClip(name, key, joint, shown, state, np.zeros(3), 1.0, np.eye(3))


def set_manifest(file: Any, text: object) -> None:
    """Replace the manifest of an open HDF5 file and remove its digest, as in a file of an earlier version."""
    file.attrs.pop("manifest_sha256", None)
    file.attrs["manifest"] = text


def write_ucla(
    path: Path, clips: Mapping[str, PreparedClip] | Sequence[PreparedClip], dataset: DatasetDescription = UCLA
) -> DatasetManifest:
    """Write ``clips`` to ``path`` as an NW-UCLA dataset, or as ``dataset``."""
    chosen = sorted(clips.values() if isinstance(clips, Mapping) else clips, key=lambda clip: clip.name)
    draft = DatasetManifest(
        description=dataset.complete(),
        settings=PreparationSettings(),
        fingerprints=Fingerprints(clips="0" * 64, content="0" * 64),
        counts=Counts(clips=0, frames=0, rows=0, quarantined=0, skipped=0, duplicates=0),
        tool_version="test",
    )
    return write_store(path, chosen, dataset.topology.size, draft)


def write_store(
    path: Path, clips: Iterable[PreparedClip], joints: int, draft: DatasetManifest
) -> DatasetManifest:
    """Write ``clips`` and the manifest ``draft``, completed with fingerprints and sizes.

    Args:
        path: The final file.
        clips: Prepared clips in ascending order of their names.
        joints: V.
        draft: The manifest; its fingerprints and sizes are replaced.

    Returns:
        The manifest as written.

    Raises:
        PspError: The names are not in ascending order, or the file cannot be written.
    """
    with StoreWriter(path, joints) as writer:
        for clip in clips:
            writer.add(pack([clip], joints))
        sizes = {"clips": writer.clips, "frames": writer.frames, "rows": writer.rows}
        manifest = draft.model_copy(
            update={
                "fingerprints": writer.fingerprints(),
                "counts": draft.counts.model_copy(update=sizes),
            }
        )
        writer.finish(manifest)
    return manifest
