"""The account of a preparation: what became of each clip, for the manifest and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from psptool.common.version import __version__
from psptool.data.skeletons.datasets import Dataset
from psptool.data.store.writing import StoreWriter
from psptool.preparation.normalize import UNSCALED
from psptool.preparation.worker import BatchOutcome
from psptool.schemas.dataset import Counts, DatasetManifest, PreparationSettings, prepared_up
from psptool.schemas.report import ClipNote, LeftOut, PreparationReport


class Work(Protocol):
    """What an account is given of: the clips gathered from raw files, or collected from another tool's."""

    @property
    def dataset(self) -> Dataset:
        """Which dataset the clips make."""
        ...

    @property
    def skipped(self) -> tuple[LeftOut, ...]:
        """Clips that were not looked at."""
        ...

    @property
    def found(self) -> int:
        """All clips, copies counted."""
        ...

    @property
    def digest(self) -> str:
        """Equal where the input is; empty where that cannot be told."""
        ...


@dataclass
class Account:
    """What became of the clips so far.

    Attributes:
        done: Clips taken in.
        repeated: Further copies of clips.
        interpolated: Missing joints that were given a position.
        unscaled: Clips whose reference bone has no length.
        joined_tracks: Body tracks joined to another one.
        dropped_tracks: Body tracks that are no part of a person.
        quarantined: Clips that cannot be used.
        notes: Things to know of clips that are kept.
        duplicates: Pairs of clips with the same coordinates, each clip with the first of its kind.
    """

    done: int = 0
    repeated: int = 0
    interpolated: int = 0
    unscaled: int = 0
    joined_tracks: int = 0
    dropped_tracks: int = 0
    quarantined: list[LeftOut] = field(default_factory=list)
    notes: list[ClipNote] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    _first: dict[bytes, str] = field(default_factory=dict)

    def take(self, outcome: BatchOutcome) -> None:
        """Count a batch of clips in."""
        self.done += outcome.done
        self.repeated += outcome.repeated
        self.interpolated += outcome.interpolated
        self.unscaled += sum(note.note == UNSCALED for note in outcome.notes)
        rules = [note.rule for note in outcome.notes if note.rule is not None]
        joined = rules.count("joined")
        self.joined_tracks += joined
        self.dropped_tracks += len(rules) - joined
        self.quarantined += outcome.left_out
        self.notes += outcome.notes
        for name, coordinates in zip(outcome.packed.names, outcome.packed.coordinates, strict=True):
            first = self._first.setdefault(coordinates, name)
            if first != name:
                self.duplicates.append((first, name))


def make_manifest(
    gathered: Work, settings: PreparationSettings, writer: StoreWriter, account: Account
) -> DatasetManifest:
    """What the dataset will say of itself, once all clips are added."""
    counts = Counts(
        clips=writer.clips,
        frames=writer.frames,
        rows=writer.rows,
        quarantined=len(account.quarantined),
        skipped=len(gathered.skipped),
        duplicates=len(account.duplicates),
        interpolated_joints=account.interpolated,
        unscaled=account.unscaled,
        joined_tracks=account.joined_tracks,
        dropped_tracks=account.dropped_tracks,
    )
    return DatasetManifest(
        dataset=gathered.dataset.name,
        topology=gathered.dataset.topology.name,
        class_names=gathered.dataset.class_names,
        settings=settings,
        up=prepared_up(gathered.dataset.up, settings.align),
        fingerprints=writer.fingerprints(),
        counts=counts,
        tool_version=__version__,
    )


def make_report(
    raw: Sequence[Path],
    gathered: Work,
    settings: PreparationSettings,
    manifest: DatasetManifest,
    account: Account,
) -> PreparationReport:
    """The report of the whole preparation."""
    return PreparationReport(
        dataset=manifest.dataset,
        sources=tuple(str(path) for path in raw),
        found=gathered.found,
        repeated=account.repeated,
        counts=manifest.counts,
        settings=settings,
        skipped=gathered.skipped,
        quarantined=tuple(account.quarantined),
        duplicates=tuple(account.duplicates),
        notes=tuple(account.notes),
        input_digest=gathered.digest,
        content_fingerprint=manifest.fingerprints.content,
        tool_version=__version__,
    )
