"""The account of a preparation: what became of each clip, for the manifest and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from psptool import __version__
from psptool.data.skeletons.datasets import Dataset
from psptool.data.store.writing import StoreWriter
from psptool.preparation.normalize import UNSCALED
from psptool.preparation.worker import BatchOutcome
from psptool.schemas.dataset import Counts, DatasetManifest, PreparationSettings, prepared_up
from psptool.schemas.report import ClipNote, LeftOut, PreparationReport


class InputClips(Protocol):
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
class ReportBuilder:
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

    def add(self, outcome: BatchOutcome) -> None:
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
    source: InputClips, settings: PreparationSettings, writer: StoreWriter, builder: ReportBuilder
) -> DatasetManifest:
    """What the dataset will say of itself, once all clips are added."""
    counts = Counts(
        clips=writer.clips,
        frames=writer.frames,
        rows=writer.rows,
        quarantined=len(builder.quarantined),
        skipped=len(source.skipped),
        duplicates=len(builder.duplicates),
        interpolated_joints=builder.interpolated,
        unscaled=builder.unscaled,
        joined_tracks=builder.joined_tracks,
        dropped_tracks=builder.dropped_tracks,
    )
    return DatasetManifest(
        dataset=source.dataset.name,
        topology=source.dataset.topology.name,
        class_names=source.dataset.class_names,
        settings=settings,
        up=prepared_up(source.dataset.up, settings.align),
        fingerprints=writer.fingerprints(),
        counts=counts,
        tool_version=__version__,
    )


def make_report(
    raw: Sequence[Path],
    source: InputClips,
    settings: PreparationSettings,
    manifest: DatasetManifest,
    builder: ReportBuilder,
) -> PreparationReport:
    """The report of the whole preparation."""
    return PreparationReport(
        dataset=manifest.dataset,
        sources=tuple(str(path) for path in raw),
        found=source.found,
        repeated=builder.repeated,
        counts=manifest.counts,
        settings=settings,
        skipped=source.skipped,
        quarantined=tuple(builder.quarantined),
        duplicates=tuple(builder.duplicates),
        notes=tuple(builder.notes),
        input_digest=source.digest,
        content_fingerprint=manifest.fingerprints.content,
        tool_version=__version__,
    )
