"""The report of a preparation, ``<dataset>.report.json``: what was kept, what was left out, and why."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from psptool.schemas.base import Artefact, Strict
from psptool.schemas.dataset import Counts, DatasetName, PreparationSettings

TrackRule = Literal["joined", "length", "spread", "overlap", "not upright", "energy"]
"""``joined`` joins a track to another one; the others drop it. ``length``, ``spread`` and ``overlap`` are rules 1
to 3 of CTR-GCN's preparation, ``not upright`` and ``energy`` those of PSP Learning's released code."""


class LeftOut(Strict):
    """A clip that is not in the dataset."""

    name: str = Field(description="The clip's name, or the file's where no clip name could be read from it")
    source: str = Field(description="Where it was found: a path as given, and a member's name in an archive")
    reason: str = Field(description="A short category, such as `truncated` or `missing-skeleton list`")
    detail: str = Field("", description="Line or key, what stood there and what was expected")


class ClipNote(Strict):
    """Something to know of a clip that is in the dataset."""

    name: str
    note: str
    track: str = Field(
        "",
        description="Body id of the track that the note is about; a string, as ids of 17 digits are rounded by "
        "JSON readers that know float64 alone",
    )
    rule: TrackRule | None = Field(None, description="Rule by which the track was joined or dropped")


class PreparationReport(Artefact):
    """The account of one run of ``psptool prepare``: found = kept + skipped + quarantined + repeated."""

    format_version: Literal[1] = 1
    dataset: DatasetName
    sources: tuple[str, ...] = Field(description="The folders and archives that were read, as given")
    found: int = Field(ge=0, description="Clips found")
    repeated: int = Field(0, ge=0, description="Further copies of a clip, of the same name and bytes")
    counts: Counts
    settings: PreparationSettings
    skipped: tuple[LeftOut, ...] = ()
    quarantined: tuple[LeftOut, ...] = ()
    duplicates: tuple[tuple[str, str], ...] = Field((), description="Clips with the same coordinates")
    notes: tuple[ClipNote, ...] = ()
    input_digest: str = Field(
        "", description="SHA-256 of the raw files' paths, sizes and times of change, settings and version"
    )
    content_fingerprint: str = Field(
        "", description="The dataset's; a report of another one belongs to a run that was cut short"
    )
    tool_version: str
