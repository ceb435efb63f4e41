"""Base classes of the schemas: immutable models without unknown keys, and reading and writing them as JSON files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from psptool.common.atomic_write import write_whole
from psptool.common.errors import PspError, cannot_read
from psptool.common.paths import MAX_JSON, read_text, shown

Loaded = TypeVar("Loaded", bound="Artefact")


class Strict(BaseModel):
    """An immutable model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _show_names(cls, values: Any) -> Any:
        """Escape file names that are not valid UTF-8; JSON cannot store them."""
        if not isinstance(values, dict):
            return values
        return {key: _escaped(value) for key, value in values.items()}


class Artefact(Strict):
    """A model that is stored in its own JSON file."""

    @classmethod
    def load(cls: type[Loaded], path: Path) -> Loaded:
        """Read and validate the file ``path``.

        Raises:
            PspError: The file cannot be read or does not match the schema. All invalid values are listed.
        """
        try:
            text = read_text(path, MAX_JSON)
        except (OSError, UnicodeDecodeError) as error:
            if kind := binary_kind(path, error):
                raise PspError(
                    f"{path}: not a valid {cls.__name__} file", kind, "a JSON file", "Check the path."
                ) from error
            raise cannot_read(path, error) from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise PspError(
                f"{path}: not a valid {cls.__name__} file: {describe(error)}",
                fix="Create the file again with psptool, or fix the values listed above.",
            ) from error

    def dump(self) -> str:
        """The model as indented JSON text that ends with a newline."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    def save(self, path: Path) -> None:
        """Write the file ``path`` atomically, creating its folder if needed.

        Raises:
            PspError: The path cannot be written.
        """
        write_whole(path, self.dump())


_HDF5 = b"\x89HDF\r\n\x1a\n"
"""The first bytes of an HDF5 file."""


def binary_kind(path: Path, error: Exception | None = None) -> str | None:
    """What a file is that could not be read as text, or is too large for it; None if this is not known."""
    if path.is_file():  # not a pipe, whose data are used up
        with suppress(OSError), path.open("rb") as file:
            if file.read(len(_HDF5)) == _HDF5:
                return "an HDF5 file, such as a dataset"
    return "a binary file" if isinstance(error, UnicodeDecodeError) else None


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, (tuple, list)) and value and all(isinstance(item, str) for item in value):
        return type(value)(map(shown, value))
    return value


def describe(error: ValidationError) -> str:
    """All errors of a pydantic validation on one line: key, message and value found."""
    return "; ".join(
        ": ".join((*([".".join(map(str, item["loc"]))] if item["loc"] else []), item["msg"])).replace(
            "Value error, ", ""
        )
        + (
            f" (found {item['input']!r:.60})"
            if item["loc"] and not isinstance(item["input"], (dict, list))
            else ""
        )
        for item in error.errors(include_url=False)
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings with their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
