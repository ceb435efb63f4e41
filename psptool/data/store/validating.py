"""Validation of a dataset against its format: arrays, clip table, every clip, and the fingerprints.

Array shapes: n clips, M persons, T frames, V joints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from psptool.common.errors import PspError
from psptool.data.store.arrays import motion
from psptool.data.store.fingerprint import Fingerprinting
from psptool.data.store.reading import ClipBlock, Normalization, Store, StoredClip, open_store
from psptool.data.store.verifying import block_digests, motion_rows
from psptool.schemas.dataset import Fingerprints

_STATES = (0, 1, 2, 255)
_KNOWN_STATE = np.isin(np.arange(256), _STATES)
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
    """Validate the content of a dataset, reading some clips at a time. Opening it has checked its structure.

    Returns:
        All violations; empty if all checks passed. A file that cannot be opened gives one violation.
    """
    try:
        with open_store(path) as store:
            return [*_check_table(store), *_check_clips(store)]
    except PspError as error:
        return [Violation(None, str(error))]


def _check_table(store: Store) -> Iterator[Violation]:
    """Check names, labels, sizes and the manifest's counts."""
    for before, name in zip(store.names, store.names[1:], strict=False):
        if name <= before:
            yield Violation(name, f"follows {before}; names must be unique and in ascending order")
    description = store.manifest.description
    if description.keys_in_names:
        for index, name in enumerate(store.names):
            if (expected := description.parse(name)) != (key := store.key(index)):
                yield Violation(name, f"clip table: found {key}, expected {expected} from the name")
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
    for block in store.blocks():
        clean = _is_clean(block) and _is_sound(block.normalization)
        if not clean:
            for clip in map(block.clip, range(len(block.indices))):
                yield from (Violation(clip.name, what) for what in check_clip(clip))
        for index, (_, content) in zip(block.indices, block_digests(block, block.motion), strict=True):
            fingerprinting.add(store.names[index], int(store.table.label[index]), content)
    found, expected = store.manifest.fingerprints, fingerprinting.result()
    for which in Fingerprints.model_fields:
        if getattr(found, which) != getattr(expected, which):
            yield Violation(
                None,
                f"manifest, fingerprints.{which}: found {getattr(found, which)[:12]}…, "
                f"expected {getattr(expected, which)[:12]}… from the arrays",
            )


def _is_clean(block: ClipBlock) -> bool:
    """Whether `check_clip` finds nothing in the rows of the block's clips, computed for all rows at once."""
    joint, motion, present = block.joint, block.motion, block.present
    if not (np.isfinite(joint).all() and np.isfinite(motion).all() and _KNOWN_STATE[block.state].all()):
        return False
    if (present.view(np.uint8) > 1).any() or any(
        array[~present].any() for array in (joint, motion, block.state) if not present.all()
    ):
        return False
    if not np.logical_or.reduceat(present, block.person_starts[:-1]).all():
        return False
    return np.array_equal(motion_rows(block), motion)


def _is_sound(normalization: Normalization) -> bool:
    """Whether `check_clip` finds nothing in the normalization of any clip."""
    _, scale, rotation = normalization
    if not all(np.isfinite(values).all() for values in normalization) or not (scale > 0).all():
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max()
        return bool(off <= _ROTATION_TOLERANCE) and bool((np.linalg.det(rotation) >= 0).all())


def check_clip(clip: StoredClip) -> Iterator[str]:
    """The violations in the arrays of one clip."""
    for name in ("joint", "motion", "origin", "scale", "rotation"):
        if not np.isfinite(getattr(clip, name)).all():
            yield f"{name}: not finite"
    if (odd := clip.present.view(np.uint8)).max() > 1:
        yield f"present: found {odd.max()}, expected 0 or 1"
        return
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
        yield f"state: found {np.setdiff1d(clip.state, _STATES)[0]}, expected one of {_STATES}"
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
