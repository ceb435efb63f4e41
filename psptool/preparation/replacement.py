"""The dataset that a preparation replaces, and the warning about it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from psptool.common.errors import PspError
from psptool.common.text import counted
from psptool.data.store.reading import open_store
from psptool.preparation.raw_input import RawInput
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.report import PreparationReport

OTHER_CONTENT = "runs trained on the old one cannot be evaluated with the new one; --out keeps both"


@dataclass(frozen=True)
class ReplacedDataset:
    """An existing dataset.

    Attributes:
        path: The file.
        names: Names of its clips, and of the malformed ones that were excluded.
        settings: The settings of its preparation.
        content: Its content fingerprint.
    """

    path: Path
    names: frozenset[str]
    settings: PreparationSettings
    content: str

    @classmethod
    def read(cls, path: Path, report_path: Path) -> ReplacedDataset | None:
        """The dataset ``path`` with its report; None if there is no readable dataset."""
        try:
            with open_store(path) as store:
                names, manifest = set(store.names), store.manifest
        except PspError:
            return None
        with suppress(PspError):
            names |= {clip.name for clip in PreparationReport.load(report_path).quarantined}
        return cls(path, frozenset(names), manifest.settings, manifest.fingerprints.content)


def replacement_warnings(
    old: ReplacedDataset | None, raw_input: RawInput, settings: PreparationSettings
) -> list[str]:
    """The warning that a dataset of other clips or settings is replaced; empty if there is none.

    Only names of clips are compared, because the content of the new clips is not known before the preparation.
    """
    if old is None:
        return []
    changed = [key for key, value in settings if value != getattr(old.settings, key)]
    before, now = ([f"{key}={getattr(one, key)}" for key in changed] for one in (old.settings, settings))
    names = {copies[0].name for copies in raw_input.clips}
    if names != old.names:
        before.append(counted(len(old.names), "clip"))
        now.append(counted(len(names), "other clip" if len(names) == len(old.names) else "clip"))
    if not now:
        return []
    return [
        f"{old.path}: the new dataset ({', '.join(now)}) replaces the one prepared with {', '.join(before)}; "
        f"{OTHER_CONTENT}"
    ]
