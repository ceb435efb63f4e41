"""The report and the manifest of a preparation, built from the outcomes of the clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from psptool.common.version import __version__
from psptool.data.store.layout import KEY_COLUMNS
from psptool.data.store.writing import StoreWriter
from psptool.preparation.normalize import UNSCALED
from psptool.preparation.worker import BatchOutcome
from psptool.schemas.dataset import Counts, DatasetManifest, PreparationSettings, prepared_up
from psptool.schemas.description import DatasetDescription
from psptool.schemas.report import ClipNote, LeftOut, PreparationReport
from psptool.skeletons.keys import NO_LABEL


class InputClips(Protocol):
    """The input of a preparation or of an import, as far as the report needs it."""

    @property
    def dataset(self) -> DatasetDescription:
        """The dataset that the clips belong to."""
        ...

    @property
    def skipped(self) -> tuple[LeftOut, ...]:
        """Clips and files that were not read."""
        ...

    @property
    def found(self) -> int:
        """Number of all clips and skipped files, including copies."""
        ...

    @property
    def digest(self) -> str:
        """Digest of the input; empty if unknown."""
        ...


@dataclass
class ReportBuilder:
    """Accumulates the outcomes of the clips.

    Attributes:
        done: Number of clips added.
        repeated: Number of additional copies of clips.
        interpolated: Number of missing joints that were interpolated.
        unlabelled: Number of clips without a label.
        unscaled: Number of clips whose reference length is zero.
        joined_tracks: Number of body tracks joined to another one.
        dropped_tracks: Number of body tracks that do not belong to a person.
        quarantined: Malformed clips, which were excluded.
        notes: Notes on the clips that were kept.
        duplicates: Pairs of clips with identical coordinates: the first such clip, and each later one.
    """

    done: int = 0
    repeated: int = 0
    interpolated: int = 0
    unlabelled: int = 0
    unscaled: int = 0
    joined_tracks: int = 0
    dropped_tracks: int = 0
    quarantined: list[LeftOut] = field(default_factory=list)
    notes: list[ClipNote] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    _first: dict[bytes, str] = field(default_factory=dict)

    def add(self, outcome: BatchOutcome) -> None:
        """Add the outcome of a batch of clips."""
        self.done += outcome.done
        self.repeated += outcome.repeated
        self.interpolated += outcome.interpolated
        self.unlabelled += int((outcome.packed.numbers[:, KEY_COLUMNS.index("label")] == NO_LABEL).sum())
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
    """The manifest of the dataset, after all clips were added."""
    counts = Counts(
        clips=writer.clips,
        frames=writer.frames,
        rows=writer.rows,
        quarantined=len(builder.quarantined),
        skipped=len(source.skipped),
        duplicates=len(builder.duplicates),
        unlabelled=builder.unlabelled,
        interpolated_joints=builder.interpolated,
        unscaled=builder.unscaled,
        joined_tracks=builder.joined_tracks,
        dropped_tracks=builder.dropped_tracks,
    )
    return DatasetManifest(
        description=source.dataset.complete(),
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
    copies: Sequence[tuple[str, str]] = (),
) -> PreparationReport:
    """The report of the preparation, after all clips were added.

    Args:
        raw: The raw data, as given.
        source: The clips among them.
        settings: The settings of the preparation.
        manifest: The manifest of the dataset.
        builder: The results of the clips.
        copies: Each additional copy of a clip with the file that was used.
    """
    return PreparationReport(
        dataset=manifest.dataset,
        sources=tuple(str(path) for path in raw),
        found=source.found,
        repeated=builder.repeated,
        copies=tuple(copies),
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
