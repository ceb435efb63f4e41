"""What all artefact schemas share: strict, frozen, no unknown keys, read from and written to JSON text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from psptool.common.atomic_write import write_whole
from psptool.common.errors import PspError
from psptool.common.paths import shown

Loaded = TypeVar("Loaded", bound="Artefact")


class Strict(BaseModel):
    """A model that refuses unknown keys and cannot be changed once made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _show_names(cls, values: Any) -> Any:
        """Escape file names that are not UTF-8, which JSON cannot hold."""
        if not isinstance(values, dict):
            return values
        return {key: _escaped(value) for key, value in values.items()}


class Artefact(Strict):
    """A schema that stands in a JSON file of its own."""

    @classmethod
    def load(cls: type[Loaded], path: Path) -> Loaded:
        """Read and validate ``path``.

        Raises:
            PspError: The file is absent, unreadable or does not fit the schema; all findings are listed.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PspError(f"{path}: cannot be read ({error})", fix="Check the path.") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise PspError(
                f"{path}: not a valid {cls.__name__} file: {describe(error)}",
                fix="Make it again with psptool, or mend the keys named here.",
            ) from error

    def dump(self) -> str:
        """The artefact as indented JSON text that ends in a newline."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    def save(self, path: Path) -> None:
        """Write ``path`` whole or not at all, making its folder where that is absent.

        Raises:
            PspError: The path cannot be written.
        """
        write_whole(path, self.dump())


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, (tuple, list)) and value and all(isinstance(item, str) for item in value):
        return type(value)(map(shown, value))
    return value


def describe(error: ValidationError) -> str:
    """All findings of a pydantic error on one line: key, message and what was found."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'the file'}: {item['msg']}"
        + ("" if isinstance(item["input"], (dict, list)) else f" (found {item['input']!r:.60})")
        for item in error.errors(include_url=False)
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings, each with its dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
