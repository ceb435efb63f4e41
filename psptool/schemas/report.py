"""The report of a preparation, ``<dataset>.report.json``: the clips kept, the clips excluded, and the reasons."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from psptool.schemas.base import Artefact, Strict
from psptool.schemas.dataset import Counts, PreparationSettings
from psptool.schemas.skeleton import Name

TrackRule = Literal["joined", "length", "spread", "overlap", "not upright", "energy"]
"""``joined``: the track was joined to another one; all others: it was dropped. ``length``, ``spread`` and ``overlap``
are rules 1 to 3 of CTR-GCN's preparation; ``not upright`` and ``energy`` are rules of PSP Learning's implementation."""


class LeftOut(Strict):
    """A clip that was excluded from the dataset."""

    name: str = Field(description="Name of the clip, or of the file if its name is not a clip name")
    source: str = Field(description="The path as given; for an archive, with the member's name")
    reason: str = Field(description="Short category, such as `truncated` or `missing-skeleton list`")
    detail: str = Field("", description="Line or key, value found and value expected")


class ClipNote(Strict):
    """A note on a clip of the dataset."""

    name: str
    note: str
    track: str = Field(
        "",
        description="Body id of the track concerned; a string, because JSON readers that store numbers as float64 "
        "round ids of 17 digits",
    )
    rule: TrackRule | None = Field(None, description="Rule by which the track was joined or dropped")


class PreparationReport(Artefact):
    """The result of one run of ``psptool prepare``: found = kept + skipped + quarantined + repeated."""

    format_version: Literal[1] = 1
    dataset: Name
    sources: tuple[str, ...] = Field(description="The folders and archives read, as given")
    found: int = Field(ge=0, description="Clips and skipped files found, including copies")
    repeated: int = Field(0, ge=0, description="Additional copies of a clip with the same name and content")
    copies: tuple[tuple[str, str], ...] = Field(
        (),
        description="Each additional copy with the file that was used; empty in reports of earlier versions",
    )
    counts: Counts
    settings: PreparationSettings
    skipped: tuple[LeftOut, ...] = ()
    quarantined: tuple[LeftOut, ...] = ()
    duplicates: tuple[tuple[str, str], ...] = Field(
        (), description="Pairs of clips with identical coordinates"
    )
    notes: tuple[ClipNote, ...] = ()
    input_digest: str = Field(
        "",
        description="SHA-256 of the dataset's description, the raw files' paths, sizes and modification times, the "
        "settings and the tool version",
    )
    content_fingerprint: str = Field(
        "",
        description="Content fingerprint of the dataset; it differs from the file's if the preparation was interrupted",
    )
    tool_version: str
