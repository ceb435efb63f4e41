"""Validation of a dataset against its format: arrays, clip table, every clip, and the fingerprints.

Array shapes: n clips, M persons, T frames, V joints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import h5py
import numpy as np

from psptool.common.errors import PspError
from psptool.data.skeletons.datasets import DATASETS
from psptool.data.store.arrays import motion
from psptool.data.store.fingerprint import Fingerprinting, content_digest, coordinates_digest
from psptool.data.store.layout import NORMALIZATION, ROW_ARRAYS, TABLE_COLUMNS, row_shape
from psptool.data.store.reading import Store, StoredClip, open_store
from psptool.schemas.dataset import Fingerprints

_STATES = (0, 1, 2, 255)
# Largest deviation of rotation @ rotation.T from the identity; float64 rounding stays far below.
_ROTATION_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Violation:
    """One violation of the format.

    Attributes:
        clip: The clip's name, or None for the whole file.
        what: The value found and the value expected.
    """

    clip: str | None
    what: str

    def __str__(self) -> str:
        return self.what if self.clip is None else f"{self.clip}: {self.what}"


def validate(path: str | os.PathLike[str]) -> list[Violation]:
    """Validate a dataset, reading one clip at a time.

    Returns:
        All violations; empty if all checks passed. A file that cannot be opened gives one violation. If the dtypes or
        shapes are wrong, the clips are not checked.
    """
    try:
        with open_store(path) as store:
            shape = list(_check_arrays(store))
            return shape or [*_check_table(store), *_check_clips(store)]
    except PspError as error:
        return [Violation(None, str(error))]


def _check_arrays(store: Store) -> Iterator[Violation]:
    """Check topology, dtypes and shapes."""
    dataset = DATASETS[store.manifest.dataset]
    if store.manifest.topology != dataset.topology.name:
        yield Violation(None, f"topology: found {store.manifest.topology}, expected {dataset.topology.name}")
        return
    joints = dataset.topology.size
    expected = {name: (np.dtype(ROW_ARRAYS[name][0]), row_shape(name, joints)) for name in ROW_ARRAYS}
    expected |= {f"clips/{name}": (np.dtype("<i8"), ()) for name in TABLE_COLUMNS}
    expected |= {f"clips/{name}": (np.dtype("<f8"), shape) for name, shape in NORMALIZATION.items()}
    for name, (dtype, shape) in expected.items():
        array: h5py.Dataset = store.array(name)
        if (array.dtype, array.shape[1:]) != (dtype, shape):
            yield Violation(None, f"/{name}: found {array.dtype} {array.shape[1:]}, expected {dtype} {shape}")


def _check_table(store: Store) -> Iterator[Violation]:
    """Check names, labels, sizes and the manifest's counts."""
    for before, name in zip(store.names, store.names[1:], strict=False):
        if name <= before:
            yield Violation(name, f"follows {before}; names must be unique and in ascending order")
    parse = DATASETS[store.manifest.dataset].parse
    classes = len(store.manifest.class_names)
    for index, name in enumerate(store.names):
        key = store.key(index)
        if not 0 <= key.label < classes:
            yield Violation(name, f"label: found {key.label}, expected 0 to {classes - 1}")
        if parse(name) != key:
            yield Violation(name, f"clip table: found {key}, expected {parse(name)} from the name")
        for column in ("frames", "persons"):
            if (found := int(getattr(store.table, column)[index])) < 1:
                yield Violation(name, f"{column}: found {found}, expected at least 1")
    table, counts = store.table, store.manifest.counts
    sizes = {
        "clips": len(store),
        "frames": int(table.frames.sum()),
        "rows": int((table.frames * table.persons).sum()),
    }
    for name, found in sizes.items():
        if getattr(counts, name) != found:
            yield Violation(None, f"manifest, counts.{name}: found {getattr(counts, name)}, expected {found}")


def _check_clips(store: Store) -> Iterator[Violation]:
    """Check the arrays of every clip, and the fingerprints."""
    fingerprinting = Fingerprinting()
    for index, name in enumerate(store.names):
        clip = store.clip(index)
        yield from (Violation(name, what) for what in check_clip(clip))
        coordinates = coordinates_digest(clip.joint, clip.present)
        normalization = (clip.origin, clip.scale, clip.rotation)
        content = content_digest(coordinates, clip.motion, clip.state, clip.key, normalization)
        fingerprinting.add(name, clip.key.label, content)
    found, expected = store.manifest.fingerprints, fingerprinting.result()
    for which in Fingerprints.model_fields:
        if getattr(found, which) != getattr(expected, which):
            yield Violation(
                None,
                f"manifest, fingerprints.{which}: found {getattr(found, which)[:12]}…, "
                f"expected {getattr(expected, which)[:12]}… from the arrays",
            )


def check_clip(clip: StoredClip) -> Iterator[str]:
    """The violations in the arrays of one clip."""
    for name in ("joint", "motion", "origin", "scale", "rotation"):
        if not np.isfinite(getattr(clip, name)).all():
            yield f"{name}: not finite"
    absent = ~clip.present  # (M, T)
    for name in ("joint", "motion", "state"):
        rows = getattr(clip, name)[absent]  # (number of absent rows, V, ...)
        if rows.any():
            frames = np.argwhere(absent)[rows.reshape(len(rows), -1).any(axis=1)]
            person, frame = frames[0]
            yield f"{name}: not zero in {len(frames)} absent rows, such as person {person}, frame {frame}"
    if absent.all(axis=1).any():
        yield f"person {int(np.argmax(absent.all(axis=1)))} is absent in every frame"
    with np.errstate(invalid="ignore", over="ignore"):
        differs = (clip.motion != motion(clip.joint, clip.present)).any(axis=(2, 3))
    if differs.any():
        person, frame = np.argwhere(differs)[0]
        yield (
            f"motion: differs from the difference of joint in {int(differs.sum())} rows, "
            f"such as person {person}, frame {frame}"
        )
    if not np.isin(clip.state, _STATES).all():
        odd = np.setdiff1d(clip.state, _STATES)
        yield f"state: found {odd[0]}, expected one of {_STATES}"
    if not clip.scale > 0:
        yield f"scale: found {clip.scale}, expected more than 0"
    if np.isfinite(clip.rotation).all():
        yield from _check_rotation(clip)


def _check_rotation(clip: StoredClip) -> Iterator[str]:
    off = float(np.abs(clip.rotation @ clip.rotation.T - np.eye(3)).max())
    if off > _ROTATION_TOLERANCE:
        yield f"rotation: rows are not orthogonal unit vectors (deviation {off:.1e})"
    elif np.linalg.det(clip.rotation) < 0:
        yield "rotation: determinant is -1 (a reflection), expected 1"
